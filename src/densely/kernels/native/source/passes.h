// What is done to rows before and after products, a slab or a few channels at a time.

#pragma once
#include "products.h"

// Batch normalisation's numbers.
struct Norm {
    const float *gamma, *beta, *mean, *rstd;
    long channels;
};

// The same as (x - mean)·scale + beta: where a mean is large beside its deviation, x·scale + shift would lose digits.
struct Affine {
    long channels;
    Channels scale, mean, beta;
    explicit Affine(const Norm& n)
        : channels(n.channels), scale(n.channels, [&](long c) { return n.gamma[c] * n.rstd[c]; }), mean(n.channels, [&](long c) { return n.mean[c]; }),
          beta(n.channels, [&](long c) { return n.beta[c]; }) {}
};

// A convolution's kernel and bias (or none), to be multiplied by the scale of the dropout behind it, and that one's mask.
struct Conv {
    const float *kernel, *bias;
    float factor;
    const uint8_t* bits;

    Channels scaled_bias(long out) const {
        return {out, [this](long c) { return bias ? bias[c] * factor : 0.0f; }};
    }
};

// N vectors of relu((x - mean)·scale + beta).
template <int N, class To, class T>
inline void normalise_vectors(To* to, const T* x, long rows, const Affine& by, long channel) {
    Vector s[N], m[N], t[N];
    for (int n = 0; n < N; n++) {
        s[n] = by.scale.at(channel + n * LANES);
        m[n] = by.mean.at(channel + n * LANES);
        t[n] = by.beta.at(channel + n * LANES);
    }
    for (long r = 0; r < rows; r++, x += SLAB, to += SLAB)
        for (int n = 0; n < N; n++) store(to + n * LANES, positive((load(x + n * LANES) - m[n]) * s[n] + t[n]));
}

// A slab, as far as there are channels.
template <class To, class T>
inline void normalise(To* to, const T* x, long rows, const Affine& by, long channel) {
    const long vectors = vectors_of(by.channels - channel);
    if (vectors == 1) return normalise_vectors<1>(to, x, rows, by, channel);
    if (vectors == 2) return normalise_vectors<2>(to, x, rows, by, channel);
    normalise_vectors<3>(to, x, rows, by, channel);
}

// The same in bfloat16, in pairs of channels of a row; what stands behind an odd last channel is zero.
template <class T>
inline void normalise_pairs(float* to, const T* x, long rows, const Affine& by, long channel, long channels) {
    bfloat16* narrow = reinterpret_cast<bfloat16*>(to);
    normalise(narrow, x, rows, by, channel);
    if (const long left = channels - channel; left < SLAB && left % 2)
        for (long r = 0; r < rows; r++) narrow[r * SLAB + left] = {0};
}

// And in pairs of rows.
template <class T>
inline void normalise_row_pairs(float* to, const T* x, long rows, const Affine& by, long channel) {
    for (int n = 0; n < TILE_VECTORS && channel + n * LANES < by.channels; n++) {
        const Vector s = by.scale.at(channel + n * LANES), m = by.mean.at(channel + n * LANES), t = by.beta.at(channel + n * LANES);
        const auto value = [&](long r) { return positive((load(x + r * SLAB + n * LANES) - m) * s + t); };
        for (long r = 0; r < rows; r += 2)
            store(to + r / 2 * SLAB + n * LANES, paired(value(r), r + 1 < rows ? value(r + 1) : Vector{}));
    }
}

// All slabs of some rows; `gap` between slabs in scratch.
template <class To, class T>
inline void normalise(To* to, long gap, const Maps<const T>& x, long row, long rows, const Affine& by) {
    for (long s = 0; s < slabs(x.channels); s++) normalise(to + s * gap, x.slab(s, row), rows, by, s * SLAB);
}

// The last steps of channels that a product made, in scratch: dropout's mask, their statistics, the way to their place.
// `element` is the place in the mask of the first row's first of these channels, `width` what the mask has a row.
template <class T>
struct Finish {
    const uint8_t* bits;
    long width;
    Moments* moments;

    void operator()(float* made, long stride, long rows, long count, T* to, long to_stride, long element, long task, long channel) const {
        (bits ? &Finish::run<true> : &Finish::run<false>)(*this, made, stride, rows, count, to, to_stride, element, task, channel);
    }

   private:
    template <bool DROP>
    static void run(const Finish& f, float* made, long stride, long rows, long count, T* to, long to_stride, long element, long task, long channel) {
        for (long v = 0; v < count; v += LANES) {
            const long lanes = count - v;
            Vector sum = {}, squares = {};
            for (long r = 0; r < rows; r++) {
                float* at = made + r * stride + v;
                Vector value = load(at);
                if (DROP) {
                    value = keep_where(lanes_kept(f.bits, element + r * f.width + v), value);
                    if (f.moments) store(at, value);
                }
                sum += value;
                T* out = to + r * to_stride + v;
                lanes >= LANES ? store(out, value) : store(out, value, lanes);
            }
            if (!f.moments) continue;
            const Vector mean = sum / splat(float(rows));
            for (long r = 0; r < rows; r++) {  // a second pass, in the cache: no digits are lost when a mean is large
                const Vector off = load(made + r * stride + v) - mean;
                squares += off * off;
            }
            f.moments->set(task, rows, channel + v, mean, squares);
        }
    }
};

// A normalisation and the ReLU behind it, on the way back: d = gradient where (x - mean)·scale + beta > 0. Puts d in its place,
// to = d·factor or, if it adds, to += d·factor; and adds Σ d and Σ d·(x - mean) to sums, `gap` apart.
struct Masked {
    Affine affine;
    Channels factor;
    bool add;
    long gap;

    // Adds to its place or, if not, replaces it; the factor is the scale, or one.
    Masked(const Norm& norm, bool add, bool scaled)
        : affine(norm), factor(norm.channels, [&](long c) { return scaled ? norm.gamma[c] * norm.rstd[c] : 1.0f; }), add(add),
          gap(slabs(norm.channels) * SLAB) {}

    // The first HALVES of vectors of a slab of gradients, x and places; none is halved.
    template <int HALVES, class T>
    void slab(const float* gradient, const T* x, float* to, long rows, long channel, float* sums) const {
        for (int n = 0; n < vectors_in(HALVES); n++, gradient += LANES, x += LANES, to += LANES, channel += LANES)
            (add ? &Masked::column<true, T> : &Masked::column<false, T>)(*this, gradient, SLAB, x, SLAB, to, SLAB, rows, channel, LANES, sums);
    }
    // A vector of channels, `lanes` of them there.
    template <bool ADD, class T>
    static void column(
        const Masked& m, const float* gradient, long stride, const T* x, long x_stride, float* to, long to_stride, long rows,
        long channel, long lanes, float* sums) {
        const Vector s = m.affine.scale.at(channel), t = m.affine.beta.at(channel), middle = m.affine.mean.at(channel);
        const Vector f = m.factor.at(channel);
        Vector sum = {}, products = {};
        const auto rest = [&]<bool WHOLE>() {
            for (long r = 0; r < rows; r++, gradient += stride, x += x_stride, to += to_stride) {
                const Vector off = (WHOLE ? load(x) : load(x, lanes)) - middle;
                const Vector d = keep_where(open_at(off * s + t), load(gradient));
                sum += d;
                products += d * off;
                const Vector out = ADD ? load(to) + d * f : d * f;
                WHOLE ? store(to, out) : store(to, out, lanes);
            }
        };
        lanes >= LANES ? rest.template operator()<true>() : rest.template operator()<false>();
        store(sums + channel, load(sums + channel) + sum);
        sums += m.gap;
        store(sums + channel, load(sums + channel) + products);
    }
};

// Sum number i of those behind a kernel's: Σ d and Σ d·(x - mean), `gap` apart, and the bias's.
inline void put_sums(const Gradients& result, const Norm& norm, float factor, long i, long gap, long out, float sum) {
    const long channel = i % gap;
    if (i < gap) {
        if (channel < norm.channels) result.beta[channel] = sum;
    } else if (i < 2 * gap) {
        if (channel < norm.channels) result.gamma[channel] = sum * norm.rstd[channel];
    } else if (result.bias && i - 2 * gap < out) {
        result.bias[i - 2 * gap] = sum * factor;
    }
}

// Rows of all channels, into slabs from a row on; what fills the last slab is zero.
template <class From, class To>
inline void rows_to_slabs(const From* x, long channels, const Maps<To>& to, long row, long rows) {
    for (long s = 0; s < slabs(channels); s++)
        for (long r = 0; r < rows; r++)
            for (long v = 0; v < SLAB; v += LANES)
                store(to.slab(s, row + r) + v, load(x + r * channels + s * SLAB + v, std::max<long>(channels - s * SLAB - v, 0)));
}

// And back.
template <class T>
inline void slabs_to_rows(const Maps<const T>& from, long row, long rows, T* to) {
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < from.channels; c += LANES)
            store(to + r * from.channels + c, load(from.slab(c / SLAB, row + r) + c % SLAB), from.channels - c);
}
