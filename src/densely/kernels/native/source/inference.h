// A whole dense block by its moving statistics, an image at a time: its maps stay in the caches from layer to layer.

#pragma once
#include <cmath>

#include "spatial.h"

inline void put_rstd(float* rstd, const float* variance, long channels, float epsilon) {
    for (long c = 0; c < channels; c++) rstd[c] = 1.0f / std::sqrt(variance[c] + epsilon);
}

// A layer's numbers as they come; the second half is missing without a bottleneck.
struct Given {
    const float *gamma1, *beta1, *kernel1, *bias1, *gamma2, *beta2, *kernel2, *bias2;
    float *mean1, *variance1, *mean2, *variance2;  // moving statistics
};

// A layer made ready: the second normalisation, with a bottleneck, goes into the first kernel.
class Asked {
    Floats rstd1, folded, folded_bias;

    static Floats rstd(const float* variance, long channels, float epsilon) {
        Floats found(channels);
        put_rstd(found.data(), variance, channels, epsilon);
        return found;
    }
    // The kernel that is 3×3.
    static Conv last(const Given& g, bool bottleneck) {
        return bottleneck ? Conv{g.kernel2, g.bias2, 1.0f, nullptr} : Conv{g.kernel1, g.bias1, 1.0f, nullptr};
    }
    static Packed fold(const Given& g, long in, long width, float epsilon, Floats& kernel, Floats& bias) {
        kernel.resize(in * width);
        bias.resize(width);
        if (!width) return Packed(0, 0);
        const Floats r = rstd(g.variance2, width, epsilon);
        for (long c = 0; c < in; c++)
            for (long o = 0; o < width; o++) kernel[c * width + o] = g.kernel1[c * width + o] * (g.gamma2[o] * r[o]);
        for (long o = 0; o < width; o++) bias[o] = g.beta2[o] + ((g.bias1 ? g.bias1[o] : 0.0f) - g.mean2[o]) * (g.gamma2[o] * r[o]);
        return packed_forward<false>({kernel.data(), bias.data(), 1.0f, nullptr}, in, width);
    }

   public:
    const long in, width;
    const Norm norm;
    const Affine affine;
    const Packed first;
    const Channels first_bias;
    const Convolution<false> convolution;

    Asked(const Shape& shape, const Given& g, long in, long width, long out, float epsilon)
        : rstd1(rstd(g.variance1, in, epsilon)), in(in), width(width), norm{g.gamma1, g.beta1, g.mean1, rstd1.data(), in},
          affine(norm), first(fold(g, in, width, epsilon, folded, folded_bias)),
          first_bias(width, [this](long c) { return folded_bias[c]; }), convolution(shape, width ? width : in, out, last(g, width)) {}

    long scratch(long W) const { return convolution.scratch() + slabs(in) * W * SLAB; }

    // Rows first_row to last_row of an image; the new maps go to their place behind those that are read.
    template <class T>
    void band(const Maps<T>& maps, long first_row, long last_row, long out, float* scratch, float* made) const {
        const long W = convolution.width, gap = W * SLAB;
        const Maps<const T> x{maps.data, maps.rows, 0, in};
        float* activation = scratch + convolution.scratch();
        const auto make = [&](long row, float* to) {
            if (!width) return normalise(to, gap, x, row * W, W, affine);
            normalise(activation, gap, x, row * W, W, affine);
            const Left a{activation, SLAB, in, SLAB, gap};
            for_slabs(width, [&]<int HALVES>(long s) {
                product<HALVES>(a, W, first.slab<HALVES>(s), first_bias.from(s * SLAB), to + s * gap, SLAB, [] {});
                for (long i = s * gap; i < (s + 1) * gap; i += LANES) store(to + i, positive(load(to + i)));
            });
        };
        const auto ahead = [&](long row, long pixels, long steps) { return Ahead<const T>(x, row * W, pixels, steps); };
        convolution.band(first_row, last_row, make, ahead, scratch, made);
        const long place = first_row * W, count = (last_row - first_row) * W;
        const Finish<T> finish{nullptr, out, nullptr};
        Maps<T>{maps.data, maps.rows, in, out}.runs([&](T* to, long channel, long many) {
            finish(made + channel, convolution.out_stride(), count, many, to + place * SLAB, SLAB, 0, 0, 0);
        });
    }
};

// x (pixels, start) to y (pixels, start + depth·growth), rows of all channels both.
template <class T>
void block_inference(
    const Shape& shape, long start, long growth, long width, const std::vector<Given>& given, float epsilon, const T* x, T* y,
    int threads) {
    const long H = shape.height, W = shape.width, pixels = H * W, depth = given.size(), channels = start + depth * growth;
    std::vector<Asked> layers;
    layers.reserve(depth);
    long most = 0;
    for (long l = 0; l < depth; l++) {
        layers.emplace_back(shape, given[l], start + l * growth, width, growth, epsilon);
        most = std::max(most, layers.back().scratch(W));
    }
    // Where there are fewer images than threads, these share an image's rows, which are made two by two.
    const long bands = shape.images < threads ? std::min<long>(threads, (H + 1) / 2) : 1, rows = ((H + 1) / 2 + bands - 1) / bands * 2;
    const long made_floats = rows * W * layers[0].convolution.out_stride(), floats = slabs(channels) * SLAB * pixels;
    if (bands == 1) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (long image = 0; image < shape.images; image++) {
            Scratch<0> scratch(most + made_floats);
            Scratch<2> own(floats);
            float *room = scratch.take(most), *made = scratch.take(made_floats);
            const Maps<T> maps{reinterpret_cast<T*>(own.take(floats)), pixels, 0, channels};
            rows_to_slabs(x + image * pixels * start, start, maps, 0, pixels);
            for (const Asked& layer : layers) layer.band(maps, 0, H, growth, room, made);
            slabs_to_rows<T>({maps.data, pixels, 0, channels}, 0, pixels, y + image * pixels * channels);
        }
        return;
    }
    Scratch<2> shared(floats);
    const Maps<T> maps{reinterpret_cast<T*>(shared.take(floats)), pixels, 0, channels};
    for (long image = 0; image < shape.images; image++) {
        rows_to_slabs(x + image * pixels * start, start, maps, 0, pixels);
#pragma omp parallel num_threads(threads)
        {
            Scratch<0> scratch(most + made_floats);
            float *room = scratch.take(most), *made = scratch.take(made_floats);
            for (const Asked& layer : layers) {
#pragma omp for schedule(static, 1)
                for (long band = 0; band < bands; band++)
                    layer.band(maps, band * rows, std::min(H, (band + 1) * rows), growth, room, made);
            }
        }
        slabs_to_rows<T>({maps.data, pixels, 0, channels}, 0, pixels, y + image * pixels * channels);
    }
}
