// The 1×1 convolution of a layer, with what stands before and after it, chunk by chunk in the cache.

#pragma once
#include "passes.h"

// The 1×1 kernel (in, out), as a product forward takes it, and as one backward does; in pairs of terms if they are wanted.
template <bool PAIRS>
inline Packed packed_forward(const Conv& conv, long in, long out) {
    Packed packed(in, out);
    for (long i = 0; i < in; i++) packed.set(i, 0, conv.kernel + i * out, 1, out, conv.factor);
    return PAIRS ? packed.paired() : packed;
}

template <bool PAIRS>
inline Packed packed_backward(const Conv& conv, long in, long out) {
    Packed packed(out, in);
    for (long o = 0; o < out; o++) packed.set(o, 0, conv.kernel + o, out, in, conv.factor);
    return PAIRS ? packed.paired() : packed;
}

// Sum number i of a 1×1 convolution's pass back: its kernel's, in rows of whole slabs, then those of `put_sums`.
inline void put_gradient(const Gradients& result, const Norm& norm, const Conv& conv, float bias_factor, long out, long i, float sum) {
    const long stride = slabs(out) * SLAB, kernel = norm.channels * stride;
    if (i >= kernel) return put_sums(result, norm, bias_factor, i - kernel, slabs(norm.channels) * SLAB, out, sum);
    if (i % stride < out) result.kernel[i / stride * out + i % stride] = sum * conv.factor;
}

template <class T>
void pointwise_forward(
    const Maps<const T>& x, long out, const Norm& norm, const Conv& conv, T* y, float* mean, float* variance, int threads) {
    const long rows = x.rows, in = x.channels, chunk = chunk_rows(in), tasks = (rows + chunk - 1) / chunk;
    constexpr bool PAIRS = PAIRED<T>;
    const Packed weights = packed_forward<PAIRS>(conv, in, out);
    const Affine affine(norm);
    const Channels biases = conv.scaled_bias(out);
    const Maps<T> to{y, rows, 0, out};
    Moments moments(mean ? tasks : 0, slabs(out) * SLAB);
    const Finish<T> finish{conv.bits, out, mean ? &moments : nullptr};
#pragma omp parallel num_threads(threads)
    {
        const long row = SLAB / (1 + PAIRS), gap = chunk * row;
        Scratch<0> scratch(slabs(in) * gap + chunk * SLAB);
        float *activation = scratch.take(slabs(in) * gap), *made = scratch.take(chunk * SLAB);
        std::fill(made, made + chunk * SLAB, 0.0f);  // what fills the last slab of y has to be numbers
#pragma omp for schedule(dynamic, 16)
        for (long task = 0; task < tasks; task++) {
            const long first = task * chunk, count = std::min(chunk, rows - first), next = first + count;
            const long steps = tiles(count, slabs(out));
            if constexpr (PAIRS) {
                for (long s = 0; s < slabs(in); s++) normalise_pairs(activation + s * gap, x.slab(s, first), count, affine, s * SLAB, in);
            } else {
                normalise(activation, gap, x, first, count, affine);
            }
            Ahead<const T> ahead(x, next, std::min(chunk, rows - next), steps);
            Ahead<T, true> ahead_to(to, first, count, steps);
            const Left a{activation, row, (in + PAIRS) / (1 + PAIRS), row, gap};
            for_slabs(out, [&]<int HALVES>(long s) {
                product<HALVES, PAIRS>(a, count, weights.template slab<HALVES>(s), biases.from(s * SLAB), made, SLAB, [&] {
                    ahead.step();
                    ahead_to.step();
                });
                finish(made, SLAB, count, SLAB, to.slab(s, first), SLAB, first * out + s * SLAB, task, s * SLAB);
            });
        }
    }
    if (mean) moments.merge(mean, variance, out);
}

// A chunk of a slab of the gradient of a 1×1 convolution's output: d·d_scale + c + e·(y - mean) behind dropout's mask; adds up
// the bias's.
template <bool DROP, bool STATISTICS, class To, class T>
inline void incoming_rows(
    To* incoming, long stride, long rows, const float* d, const T* y, const Channels& d_scale, const Channels& c, const Channels& e,
    const Channels& mean,
    long channel, const uint8_t* bits, long element, long width, float* bias) {
    for (int n = 0; n < TILE_VECTORS; n++, channel += LANES, element += LANES) {
        const Vector s = d_scale.at(channel), plus = c.at(channel), times = e.at(channel), middle = mean.at(channel);
        Vector sum = {};
        for (long r = 0; r < rows; r++) {
            const long at = r * SLAB + n * LANES;
            Vector g = load(d + at) * s;
            if (STATISTICS) g += (load(y + at) - middle) * times + plus;
            if (DROP) g = keep_where(lanes_kept(bits, element + r * width), g);
            store(incoming + r * stride + n * LANES, g);
            sum += g;
        }
        store(bias + channel, load(bias + channel) + sum);
    }
}

// The gradient of a 1×1 convolution's output y, from d, that at the affine output of the normalisation that reads it:
// d·scale + c + e·(y - mean); c and e come from its statistics, and y is null where they are not the batch's.
template <class T>
struct Read {
    const float *d, *scale;
    const T* y;
    const float *c, *e, *mean;
};

// Back through dropout's mask, the kernel, and the normalisation of x, whose gradient `to` grows.
template <class T>
void pointwise_backward(
    const Maps<const T>& x, long out, const Norm& norm, const Conv& conv, const Read<T>& read, float* to,
    const Gradients& result, int threads) {
    const long rows = x.rows, in = x.channels, chunk = chunk_rows(in), tasks = (rows + chunk - 1) / chunk;
    constexpr bool PAIRS = PAIRED<T>;
    const Packed weights = packed_backward<PAIRS>(conv, in, out);
    const Masked masked(norm, true, true);
    const uint8_t* bits = conv.bits;
    const T* y = read.y;
    const Channels d_scales(out, [&](long c) { return read.scale[c]; }), cs(out, [&](long c) { return y ? read.c[c] : 0.0f; });
    const Channels es(out, [&](long c) { return y ? read.e[c] : 0.0f; }), means(out, [&](long c) { return y ? read.mean[c] : 0.0f; });
    const Maps<const float> ds{read.d, rows, 0, out};
    const Maps<const T> ys{y, rows, 0, out};
    const Maps<float> places{to, rows, 0, in};
    const long in_slabs = slabs(in), out_slabs = slabs(out), out_stride = out_slabs * SLAB;
    const long d_at = in * out_stride, bias_at = d_at + 2 * masked.gap, floats = bias_at + out_stride;
    using To = Term<PAIRS>;
    const auto make = bits ? (y ? incoming_rows<true, true, To, T> : incoming_rows<true, false, To, T>)
                           : (y ? incoming_rows<false, true, To, T> : incoming_rows<false, false, To, T>);
    const Segments segments(tasks, floats);
#pragma omp parallel num_threads(threads)
    {
        const long pairs = (chunk + PAIRS) / (1 + PAIRS), gap = pairs * SLAB, row = out_stride / (1 + PAIRS);
        Scratch<0> scratch(in_slabs * gap + chunk * row + PAIRS * pairs * out_stride + BLOCK * SLAB);
        float *activation = scratch.take(in_slabs * gap), *panel = scratch.take(BLOCK * SLAB);
        // What comes in as the products take it: by rows, whose neighbours may be pairs, and the same in pairs of rows.
        float *by_row = scratch.take(chunk * row), *by_rows = PAIRS ? scratch.take(pairs * out_stride) : by_row;
        To* incoming = reinterpret_cast<To*>(by_row);
#pragma omp for schedule(dynamic, 1)
        for (long segment = 0; segment < segments.count; segment++) {
            float* sums = segments.begin(segment);
            for (long task = segments.first(segment); task < segments.first(segment + 1); task++) {
                const long first = task * chunk, count = std::min(chunk, rows - first), next = first + count;
                const long left = std::min(chunk, rows - next), steps = tiles(count, in_slabs);
                for (long s = 0; s < out_slabs; s++)
                    make(incoming + s * SLAB, out_stride, count, ds.slab(s, first), y ? ys.slab(s, first) : y, d_scales, cs, es, means, s * SLAB,
                         bits, first * out + s * SLAB, out, sums + bias_at);
                if constexpr (PAIRS) {
                    pair_all_rows(by_rows, incoming, count, out_stride);
                    for (long s = 0; s < in_slabs; s++) normalise_row_pairs(activation + s * gap, x.slab(s, first), count, masked.affine, s * SLAB);
                } else {
                    normalise(activation, gap, x, first, count, masked.affine);
                }
                Ahead<const T> ahead_x(x, next, left, steps), ahead_y(ys, next, y ? left : 0, steps);
                Ahead<const float> ahead_d(ds, next, left, steps);
                Ahead<float, true> ahead_to(places, next, left, steps);
                for_slabs(in, [&]<int HALVES>(long s) {
                    for (long block = 0; block < count; block += BLOCK) {
                        const long many = std::min(BLOCK, count - block);
                        const Left a{by_row + block * row, row, (out + PAIRS) / (1 + PAIRS), row, 0, false};
                        product<HALVES, PAIRS>(a, many, weights.template slab<HALVES>(s), nullptr, panel, SLAB, [&] {
                            ahead_x.step();
                            ahead_to.step();
                            ahead_d.step();
                            ahead_y.step();
                        });
                        masked.template slab<HALVES>(panel, x.slab(s, first + block), places.slab(s, first + block), many, s * SLAB, sums + d_at);
                    }
                });
                for (long i = 0; i < in_slabs; i++)
                    for_slabs(out, [&]<int HALVES>(long o) {
                        accumulate_outer<HALVES, PAIRS>(
                            sums + i * SLAB * out_stride + o * SLAB, out_stride, std::min(SLAB, in - i * SLAB), activation + i * gap, 0,
                            SLAB, by_rows + o * SLAB, 0, 1, (count + PAIRS) / (1 + PAIRS), out_stride);
                    });
            }
        }
        segments.total([&](long i, float sum) {
            // What a bias adds, a normalisation by the batch takes out again, but for what dropout drops in between.
            put_gradient(result, norm, conv, y && !bits ? 0.0f : conv.factor, out, i, sum);
        });
    }
}
