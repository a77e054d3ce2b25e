// All layers of a dense block in training, forward and back: the passes over all pixels, and what stands between two of them.
// The formulas are at the top of `dense_block.py`; `forward.py` and `backward.py` do the same layer by layer.

#pragma once
#include "inference.h"
#include "rows.h"
#include "spatial_backward.h"

// A block's sizes; `bottleneck` is 0 for plain layers.
struct Sizes {
    Shape shape;
    long start, growth, bottleneck, depth;

    long in(long layer) const { return start + layer * growth; }
    long inner() const { return slabs(bottleneck) * SLAB * shape.pixels(); }
};

// Dropout; without it the factor is 1 and `bits` are missing. They are of each layer's convolutions in turn: a bottleneck's, `room`
// bytes, then the new maps', `growth_room` bytes.
struct Dropout {
    float factor;
    uint8_t* bits;
    long room, growth_room;

    uint8_t* of(long layer, bool bottleneck) const {
        return bits ? bits + layer * (room + growth_room) + (bottleneck ? 0 : room) : nullptr;
    }
};

// What a step keeps for its way back: all maps, with their mean, rstd and variance, and each layer's bottleneck maps with theirs.
template <class T>
struct Kept {
    T* maps;
    float *mean, *rstd, *variance;
    T* inner;
    float *inner_mean, *inner_rstd, *inner_variance;
};

// From rows of mean, rstd and variance.
template <class T>
Kept<T> kept(const Sizes& sizes, T* maps, float* numbers, T* inner, float* inner_numbers) {
    const long all = sizes.in(sizes.depth), some = sizes.depth * sizes.bottleneck;
    return {maps,  numbers,       numbers + all,        numbers + 2 * all,
            inner, inner_numbers, inner_numbers + some, inner_numbers + 2 * some};
}

// How much stays of moving statistics, and how much of the batch's comes in: 1 - momentum, which is no difference of floats.
struct Momentum {
    float kept, taken;

    void move(float* moving, const float* batch, long channels) const {
        for (long c = 0; c < channels; c++) moving[c] = moving[c] * kept + batch[c] * taken;
    }
};

// `keys` are dropout's, two numbers for each of its masks.
template <class T>
void block_forward(
    const Sizes& sizes, const Given* given, const Dropout& dropout, const long* keys, long dropped, float epsilon,
    const Momentum& momentum, const T* x, const Kept<T>& kept, T* y, int threads) {
    const Shape& shape = sizes.shape;
    const long pixels = shape.pixels(), growth = sizes.growth, width = sizes.bottleneck;
    const auto draw_bits = [&](uint8_t* bits, long channels) {
        if (!bits) return;
        draw(pixels * channels, uint32_t(keys[0]), uint32_t(keys[1]), int(dropped), bits, threads);
        keys += 2;
    };
    take_in(pixels, sizes.start, x, kept.maps, kept.mean, kept.variance, threads);
    put_rstd(kept.rstd, kept.variance, sizes.start, epsilon);
    for (long l = 0; l < sizes.depth; l++) {
        const Given& g = given[l];
        const long in = sizes.in(l);
        momentum.move(g.mean1, kept.mean, in);
        momentum.move(g.variance1, kept.variance, in);
        const Maps<const T> read{kept.maps, pixels, 0, in};
        const Norm norm{g.gamma1, g.beta1, kept.mean, kept.rstd, in};
        const Maps<T> to{kept.maps, pixels, in, growth};
        const bool last = l + 1 == sizes.depth;  // nobody normalises its maps here
        float *mean = last ? nullptr : kept.mean + in, *variance = last ? nullptr : kept.variance + in;
        uint8_t* bits = dropout.of(l, false);
        if (width) {
            T* inner = kept.inner + l * sizes.inner();
            float *inner_mean = kept.inner_mean + l * width, *inner_rstd = kept.inner_rstd + l * width;
            float* inner_variance = kept.inner_variance + l * width;
            uint8_t* inner_bits = dropout.of(l, true);
            draw_bits(inner_bits, width);
            pointwise_forward<T>(
                read, width, norm, {g.kernel1, g.bias1, dropout.factor, inner_bits}, inner, inner_mean, inner_variance, threads);
            put_rstd(inner_rstd, inner_variance, width, epsilon);
            momentum.move(g.mean2, inner_mean, width);
            momentum.move(g.variance2, inner_variance, width);
            draw_bits(bits, growth);
            spatial_forward<T>(
                shape, {inner, pixels, 0, width}, {g.gamma2, g.beta2, inner_mean, inner_rstd, width},
                {g.kernel2, g.bias2, dropout.factor, bits}, to, mean, variance, threads);
        } else {
            draw_bits(bits, growth);
            spatial_forward<T>(shape, read, norm, {g.kernel1, g.bias1, dropout.factor, bits}, to, mean, variance, threads);
        }
        if (!last) put_rstd(kept.rstd + in, variance, growth, epsilon);
    }
    give_out(pixels, sizes.in(sizes.depth), kept.maps, y, threads);
}

// c and e of c + e·(x - mean), what statistics send back to x: from A and B, summed over all that are normalised by them.
struct SentBack {
    std::vector<float> c, e;
    explicit SentBack(long channels) : c(channels), e(channels) {}
    void put(long first, long count, const float* A, const float* B, const float* rstd, long pixels) {
        for (long i = first; i < first + count; i++) {
            const float f = rstd[i] * (-1.0f / float(pixels));
            c[i] = f * A[i];
            e[i] = f * rstd[i] * B[i];
        }
    }
};

// Down to layer `lowest`, and to x where `dx` is there. `results` are two for each layer; G and `d` are room for the gradients of all
// maps, and of a layer's bottleneck maps.
template <class T>
void block_backward(
    const Sizes& sizes, const Given* given, const Dropout& dropout, const Kept<T>& kept, const T* dy, float* G, float* d,
    const Gradients* results, long lowest, T* dx, int threads) {
    const Shape& shape = sizes.shape;
    const long pixels = shape.pixels(), growth = sizes.growth, width = sizes.bottleneck, channels = sizes.in(sizes.depth);
    std::vector<float> A(channels), B(channels), inner_A(width), inner_B(width), inner_scale(width);
    SentBack back(channels), inner_back(width);
    take_gradient(pixels, channels, dy, G, threads);
    for (long l = sizes.depth - 1; l >= lowest; l--) {
        const Given& g = given[l];
        const long in = sizes.in(l);
        back.put(in, growth, A.data(), B.data(), kept.rstd, pixels);
        const float *c = back.c.data() + in, *e = back.e.data() + in;
        const Maps<const T> read{kept.maps, pixels, 0, in}, made{kept.maps, pixels, in, growth};
        const Norm norm{g.gamma1, g.beta1, kept.mean, kept.rstd, in};
        const Gradients &first = results[2 * l], &second = results[2 * l + 1];
        const uint8_t* bits = dropout.of(l, false);
        if (width) {
            const T* inner = kept.inner + l * sizes.inner();
            const float *mean = kept.inner_mean + l * width, *rstd = kept.inner_rstd + l * width;
            spatial_backward<T>(
                shape, {inner, pixels, 0, width}, {g.gamma2, g.beta2, mean, rstd, width}, {g.kernel2, g.bias2, dropout.factor, bits},
                made, G, c, e, kept.mean + in, false, d, second, threads);
            for (long i = 0; i < width; i++) {
                inner_A[i] = g.gamma2[i] * second.beta[i];
                inner_B[i] = g.gamma2[i] * second.gamma[i];
                inner_scale[i] = g.gamma2[i] * rstd[i];
            }
            inner_back.put(0, width, inner_A.data(), inner_B.data(), rstd, pixels);
            pointwise_backward<T>(
                read, width, norm, {g.kernel1, g.bias1, dropout.factor, dropout.of(l, true)},
                {d, inner_scale.data(), inner, inner_back.c.data(), inner_back.e.data(), mean}, G, first, threads);
        } else {
            spatial_backward<T>(
                shape, read, norm, {g.kernel1, g.bias1, dropout.factor, bits}, made, G, c, e, kept.mean + in, true, G, first, threads);
        }
        for (long i = 0; i < in; i++) {
            A[i] += g.gamma1[i] * first.beta[i];
            B[i] += g.gamma1[i] * first.gamma[i];
        }
    }
    if (!dx) return;
    back.put(0, sizes.start, A.data(), B.data(), kept.rstd, pixels);
    complete<false>(pixels, sizes.start, kept.maps, G, back.c.data(), back.e.data(), kept.mean, dx, threads);
}
