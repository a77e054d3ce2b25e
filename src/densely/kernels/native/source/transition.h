// A transition: normalise, ReLU, 1×1 convolution, dropout, 2×2 average pooling. Without dropout the pooling goes first.
// Its maps come and go as everybody's do, all channels of a pixel in a row.

#pragma once
#include "pointwise.h"

struct Halving {
    long images, height, width, in, out;

    long half() const { return width / 2; }
    long rows() const { return images * (height / 2); }  // of pooled pixels, of all images
    // The first pixel of the upper of the two rows that become pooled row r.
    long above(long r) const { return (r / (height / 2) * height + r % (height / 2) * 2) * width; }
    // Pixels from there to the last that rows r to r + many need; none behind the last row.
    long pixels(long r, long many) const {
        const long last = std::min(r + many, rows()) - 1;
        return last < r ? 0 : above(last) + 2 * width - above(r);
    }
    // Pooled rows of a task.
    long group() const { return std::max<long>(1, 64 / half()); }
    long tasks() const { return (rows() + group() - 1) / group(); }
};

// Rows of scratch, `stride` terms apart, times all panels of a matrix. Calls `between` before each tile.
template <bool PAIRS, class Between>
inline void product_of_rows(
    float* to, long to_stride, const Term<PAIRS>* from, long stride, long rows, long terms, long columns, const Packed& kernel,
    const Channels& bias, Between between) {
    const long words = PAIRS ? (terms + 1) / 2 : terms;
    const Left a{reinterpret_cast<const float*>(from), PAIRS ? stride / 2 : stride, words, words, 0};
    for_slabs(columns, [&]<int HALVES>(long s) {
        product<HALVES, PAIRS>(a, rows, kernel.template slab<HALVES>(s), bias.from(s * SLAB), to + s * SLAB, to_stride, between);
    });
}

template <class To, class T>
inline void normalise_rows(To* to, long stride, const T* x, long rows, long channels, const Affine& by) {
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < stride; c += LANES)
            store(to + r * stride + c, positive((load(x + r * channels + c, std::max<long>(channels - c, 0)) - by.mean.at(c)) * by.scale.at(c) + by.beta.at(c)));
}

// Sums of 2×2 pixels of a pair of rows, times a factor.
template <class To>
inline void pool(To* to, const float* pair, long stride, long width, float factor) {
    for (long pixel = 0; pixel < width / 2; pixel++)
        for (long v = 0; v < stride; v += LANES) {
            const float* at = pair + 2 * pixel * stride + v;
            const Vector sum = load(at) + load(at + stride) + load(at + width * stride) + load(at + (width + 1) * stride);
            store(to + pixel * stride + v, sum * splat(factor));
        }
}

template <class T>
void transition_forward(
    const Halving& shape, const T* x, const Norm& norm, const Conv& conv, T* y, int threads) {
    const long W = shape.width, half = shape.half(), in = shape.in, out = shape.out, pairs = 2 * W, group = shape.group();
    const long in_stride = slabs(in) * SLAB, out_stride = slabs(out) * SLAB;
    constexpr bool PAIRS = PAIRED<T>;
    const Packed weights = packed_forward<PAIRS>(conv, in, out);
    const Affine affine(norm);
    const Channels biases = conv.scaled_bias(out);
    const uint8_t* bits = conv.bits;
    const Finish<T> finish{nullptr, out, nullptr};
    const Finish<float> drop{bits, out, nullptr};
#pragma omp parallel num_threads(threads)
    {
        Scratch<0> scratch(pairs * (in_stride + out_stride) + group * half * (in_stride + out_stride));
        float *activation = scratch.take(pairs * in_stride), *full = scratch.take(pairs * out_stride);
        float* made = scratch.take(group * half * out_stride);
        Term<PAIRS>* pooled = reinterpret_cast<Term<PAIRS>*>(scratch.take(group * half * in_stride));
#pragma omp for schedule(dynamic, 1)
        for (long task = 0; task < shape.tasks(); task++) {
            const long first = task * group, rows = std::min(group, shape.rows() - first), count = rows * half;
            const auto ahead = [&](long r, long many, long pixels) {
                return AheadOf<const T>(x + shape.above(r) * in, shape.pixels(r, many) * in, tiles(pixels, slabs(out)));
            };
            for (long r = 0; r < rows; r++) {
                const long above = shape.above(first + r);
                if (bits) {
                    Term<PAIRS>* terms = reinterpret_cast<Term<PAIRS>*>(activation);
                    normalise_rows(terms, in_stride, x + above * in, pairs, in, affine);
                    auto next = ahead(first + r + 1, 1, pairs);
                    product_of_rows<PAIRS>(full, out_stride, terms, in_stride, pairs, in, out, weights, biases, [&] { next.step(); });
                    drop(full, out_stride, pairs, out, full, out_stride, above * out, 0, 0);
                    pool(made + r * half * out_stride, full, out_stride, W, 0.25f);
                } else {
                    normalise_rows(activation, in_stride, x + above * in, pairs, in, affine);
                    pool(pooled + r * half * in_stride, activation, in_stride, W, 0.25f);
                }
            }
            if (!bits) {
                auto next = ahead(first + rows, group, count);
                product_of_rows<PAIRS>(made, out_stride, pooled, in_stride, count, in, out, weights, biases, [&] { next.step(); });
            }
            finish(made, out_stride, count, out, y + first * half * out, out, 0, 0, 0);
        }
    }
}

// Gives scale·d, (pixels, in), whose rest follows from the sums.
template <class T>
void transition_backward(
    const Halving& shape, const T* x, const Norm& norm, const Conv& conv, const T* dy, float* to, const Gradients& result,
    int threads) {
    const long H = shape.height, W = shape.width, half = shape.half(), in = shape.in, out = shape.out, pairs = 2 * W;
    const long in_stride = slabs(in) * SLAB, out_stride = slabs(out) * SLAB, group = shape.group();
    constexpr bool PAIRS = PAIRED<T>;
    const Packed weights = packed_backward<PAIRS>(conv, in, out);
    const Masked masked(norm, false, true);
    const Channels none(in, [](long) { return 0.0f; });
    const uint8_t* bits = conv.bits;
    const long d_at = in * out_stride, bias_at = d_at + 2 * masked.gap, floats = bias_at + out_stride;
    const Segments segments(shape.tasks(), floats);
    using To = Term<PAIRS>;
    // Of rows of what went in and what comes back.
    const auto add_kernel = [&](float* sums, const To* in_rows, const To* out_rows, long count, float* room) {
        const float *a = reinterpret_cast<const float*>(in_rows), *b = reinterpret_cast<const float*>(out_rows);
        if constexpr (PAIRS) {
            float* b_room = room + (count + 1) / 2 * in_stride;
            pair_all_rows(room, in_rows, count, in_stride);
            pair_all_rows(b_room, out_rows, count, out_stride);
            a = room, b = b_room, count = (count + 1) / 2;
        }
        for_slabs(out, [&]<int HALVES>(long s) {
            accumulate_outer<HALVES, PAIRS>(sums + s * SLAB, out_stride, in, a, 0, in_stride, b + s * SLAB, 0, 1, count, out_stride);
        });
    };
#pragma omp parallel num_threads(threads)
    {
        const long room_size = PAIRS * (std::max(pairs, group * half) + 1) / 2 * (in_stride + out_stride);
        Scratch<0> scratch(pairs * (2 * in_stride + out_stride) + group * half * (2 * in_stride + out_stride) + room_size);
        const auto take_terms = [&](long count) { return reinterpret_cast<To*>(scratch.take(count)); };
        float* wide = scratch.take(pairs * in_stride);  // without dropout, activations to be pooled
        To *activation = reinterpret_cast<To*>(wide), *pooled = take_terms(group * half * in_stride);
        To *incoming = take_terms(group * half * out_stride), *full = take_terms(pairs * out_stride);
        float *through = scratch.take(group * half * in_stride), *spread = scratch.take(pairs * in_stride), *room = scratch.take(room_size);
        // A pooled pixel's part of a vector, for a pixel of the pair of rows above it; nothing where nobody pools.
        const auto pooled_part = [&](const auto* from, long stride, long pixel, long v) {
            return pixel % W / 2 < half ? load(from + pixel % W / 2 * stride + v) : Vector{};
        };
#pragma omp for schedule(dynamic, 1)
        for (long segment = 0; segment < segments.count; segment++) {
            float* sums = segments.begin(segment);
            const auto add_bias = [&](const To* rows, long count, float by) {
                for (long v = 0; result.bias && v < out; v += LANES) {
                    Vector sum = {};
                    for (long r = 0; r < count; r++) sum += load(rows + r * out_stride + v);
                    store(sums + bias_at + v, load(sums + bias_at + v) + sum * splat(by));
                }
            };
            for (long task = segments.first(segment); task < segments.first(segment + 1); task++) {
                const long first = task * group, rows = std::min(group, shape.rows() - first), count = rows * half;
                for (long r = 0; r < count; r++)
                    for (long v = 0; v < out_stride; v += LANES)
                        store(incoming + r * out_stride + v, load(dy + (first * half + r) * out + v, std::max<long>(out - v, 0)) * splat(0.25f));
                const auto product_ahead = [&](float* made, const To* from, long pixels, long r, long many) {
                    const long start = shape.above(r) * in, floats = shape.pixels(r, many) * in, steps = tiles(pixels, slabs(in));
                    AheadOf<const T> ahead_x(x + start, floats, steps);
                    AheadOf<float, true> ahead_to(to + start, floats, steps);
                    product_of_rows<PAIRS>(made, in_stride, from, out_stride, pixels, out, in, weights, none, [&] {
                        ahead_x.step();
                        ahead_to.step();
                    });
                };
                if (!bits) product_ahead(through, incoming, count, first, rows);
                for (long r = 0; r < rows; r++) {
                    const long above = shape.above(first + r);
                    if (bits) {
                        for (long pixel = 0; pixel < pairs; pixel++)
                            for (long v = 0; v < out; v += LANES) {
                                const Vector part = pooled_part(incoming + r * half * out_stride, out_stride, pixel, v);
                                store(full + pixel * out_stride + v, keep_where(lanes_kept(bits, (above + pixel) * out + v), part));
                            }
                        add_bias(full, pairs, 1.0f);
                        product_ahead(spread, full, pairs, first + r + 1, 1);
                        normalise_rows(activation, in_stride, x + above * in, pairs, in, masked.affine);
                        add_kernel(sums, activation, full, pairs, room);
                    } else {
                        for (long pixel = 0; pixel < pairs; pixel++)
                            for (long v = 0; v < in; v += LANES)
                                store(spread + pixel * in_stride + v, pooled_part(through + r * half * in_stride, in_stride, pixel, v));
                        normalise_rows(wide, in_stride, x + above * in, pairs, in, masked.affine);
                        pool(pooled + r * half * in_stride, wide, in_stride, W, 1.0f);  // a sum: the incoming has the quarter
                    }
                    for (long c = 0; c < in; c += LANES)
                        Masked::column<false>(
                            masked, spread + c, in_stride, x + above * in + c, in, to + above * in + c, in, pairs, c, in - c, sums + d_at);
                    if (H % 2 && above / W % H == H - 3)  // below the last pair a row that nobody pools
                        std::fill(to + (above + pairs) * in, to + (above + pairs + W) * in, 0.0f);
                }
                if (!bits) {
                    add_kernel(sums, pooled, incoming, count, room);
                    add_bias(incoming, count, 4.0f);
                }
            }
        }
        segments.total([&](long i, float sum) {
            put_gradient(result, norm, conv, conv.factor, out, i, sum);
        });
    }
}
