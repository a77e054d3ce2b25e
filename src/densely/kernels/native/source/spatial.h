// The 3×3 convolution of a layer, with what stands before and after it, an image (or a band of its rows) at a time.
//
// Two rows of a result come from four of what is convolved by four products in place of six (Winograd's F(2, 3), down the
// rows alone): see `winograd.h`. Across, the three taps stand side by side as columns: k maps are 3k columns of a product, whose
// parts are then added one pixel apart. So 12 maps fill 36 of 40 lanes, not 12 of 16.
//
// In pairs of bfloat16 (pairs.h) all six products are taken: each costs half, and sums of two rows, rounded to bfloat16, would
// make gradients half as wrong again.

#pragma once
#include "pointwise.h"
#include "winograd.h"

struct Shape {
    long images, height, width;
    long pixels() const { return images * height * width; }
};

// An image is one task, or several bands of rows where it is large or where images are few: by their shape alone. They begin
// at even rows, since rows are made two by two.
class Bands {
    long height, bands;
    long start(long band) const { return height * band / bands / 2 * 2; }

   public:
    const long tasks;
    explicit Bands(const Shape& s) : height(s.height), bands(many(s)), tasks(s.images * bands) {}
    static long many(const Shape& s) {
        const long pixels = s.height * s.width, large = (pixels + 2047) / 2048, few = (16 + s.images - 1) / s.images;
        return std::clamp<long>(std::max(large, std::min(few, pixels / 128)), 1, s.height);
    }
    long image(long task) const { return task / bands; }
    long first(long task) const { return start(task % bands); }
    long last(long task) const { return task % bands + 1 == bands ? height : start(task % bands + 1); }
    long most() const { return (height + bands - 1) / bands + 1; }
};

// Term (dy, i), column (dx, o) of a kernel (3, 3, in, out), in pairs; dy is 0, 1, 2, 0, 1, so that three can begin with any.
inline Packed packed_pairs(const Conv& conv, long in, long out) {
    Packed packed(5 * in, 3 * out);
    for (long dy = 0; dy < 5; dy++)
        for (long dx = 0; dx < 3; dx++)
            for (long i = 0; i < in; i++)
                packed.set(dy * in + i, dx * out, conv.kernel + ((dy % 3 * 3 + dx) * in + i) * out, 1, out, conv.factor);
    return packed.paired();
}

// Term (dy, dx, o), column i: what comes back, in pairs; the taps are read from the other end.
inline Packed packed_pairs_backward(const Conv& conv, long in, long out) {
    Packed packed(9 * out, in);
    for (long tap = 0; tap < 9; tap++)
        for (long o = 0; o < out; o++) packed.set(tap * out + o, 0, conv.kernel + (8 - tap) * in * out + o, out, in, conv.factor);
    return packed.paired();
}

// Term (t, i), column (dx, o) of a kernel (3, 3, in, out), t a turned row of taps.
inline Packed packed_taps(const Conv& conv, long in, long out) {
    const std::vector<float> turned = turned_taps(conv.kernel, 3 * in * out, false);
    Packed packed(4 * in, 3 * out);
    for (long t = 0; t < 4; t++)
        for (long dx = 0; dx < 3; dx++)
            for (long i = 0; i < in; i++) packed.set(t * in + i, dx * out, &turned[((t * 3 + dx) * in + i) * out], 1, out, conv.factor);
    return packed;
}

// Term (t, dx, o), column i: what comes back from the pixels around one, so that the taps are read from the other end.
inline Packed packed_taps_backward(const Conv& conv, long in, long out) {
    const std::vector<float> turned = turned_taps(conv.kernel, 3 * in * out, true);
    Packed packed(12 * out, in);
    for (long t = 0; t < 4; t++)
        for (long dx = 0; dx < 3; dx++)
            for (long o = 0; o < out; o++)
                packed.set((t * 3 + dx) * out + o, 0, &turned[(t * 3 + 2 - dx) * in * out + o], out, in, conv.factor);
    return packed;
}

// A 3×3 convolution forward, of rows that are made on the way.
template <bool PAIRS>
struct Convolution {
    long height, width, in, out;
    Packed weights;
    Channels biases;

    Convolution(const Shape& shape, long in, long out, const Conv& conv)
        : height(shape.height), width(shape.width), in(in), out(out), weights((PAIRS ? packed_pairs : packed_taps)(conv, in, out)), biases(conv.scaled_bias(out)) {}

    long vectors() const { return vectors_of(3 * out); }
    long out_stride() const { return slabs(out) * SLAB; }
    long row_floats() const { return slabs(in) * width * SLAB; }
    long parts_floats() const { return (width + 2) * vectors() * LANES + LANES; }
    long scratch() const { return 7 * row_floats() + 2 * parts_floats(); }

    // Rows first to last of one image, (rows · width, out_stride). make(row, to) makes a row, slabs of `width` pixels, of what
    // is convolved; ahead(row, pixels, steps) fetches what that will read. Scratch as above.
    template <class Make, class Fetch>
    void band(long first, long last, Make make, Fetch ahead, float* scratch, float* made) const {
        if constexpr (PAIRS) {
            six_products(first, last, make, ahead, scratch, made);
        } else {
            four_products(first, last, make, ahead, scratch, made);
        }
    }

   private:
    template <class Make, class Fetch>
    void six_products(long first, long last, Make make, Fetch ahead, float* scratch, float* made) const {
        const long size = row_floats() / 2, gap = width * SLAB / 2, stride = vectors() * LANES;
        const long steps = tiles(width, slabs(3 * out));
        float *ring = scratch, *parts = ring + 3 * size;
        beside_the_image(parts);
        const auto at = [&](long r) { return ring + (r + 3) % 3 * size; };
        const auto make_row = [&](long r) {
            if (r < 0 || r >= height) return std::fill(at(r), at(r) + size, 0.0f);
            make(r, reinterpret_cast<bfloat16*>(at(r)));
        };
        make_row(first - 1);
        make_row(first);
        for (long row = first; row < last; row++) {
            make_row(row + 1);
            auto later = ahead(row + 2, std::clamp<long>(height - row - 2, 0, 1) * width, steps);
            // The three rows as they lie in the ring; the kernel's follow them around.
            const long dy = (4 - row % 3) % 3;
            const Left a{ring, SLAB / 2, in / 2, SLAB / 2, gap, true, 3, size};
            for_slabs(3 * out, [&]<int HALVES>(long s) {
                product<HALVES, true>(
                    a, width, weights.template slab<HALVES>(s, dy * in / 2), nullptr, parts + stride + s * SLAB, stride, [&] { later.step(); });
            });
            beside(parts, made + (row - first) * width * out_stride());
        }
    }

    template <class Make, class Fetch>
    void four_products(long first, long last, Make make, Fetch ahead, float* scratch, float* made) const {
        const long size = row_floats(), gap = width * SLAB, stride = vectors() * LANES;
        const long steps = 4 * tiles(width, slabs(3 * out));
        float *ring = scratch, *nothing = ring + 4 * size, *one = nothing + size, *other = one + size;
        float *parts = other + size, *parts_below = parts + parts_floats();
        std::fill(nothing, nothing + size, 0.0f);
        beside_the_image(parts);
        beside_the_image(parts_below);
        long next = std::max<long>(first - 1, 0);
        for (long row = first; row < last; row += 2) {
            const bool two = row + 1 < last;
            const long end = std::min(row + 2 + two, height);
            for (; next < end; next++) make(next, ring + next % 4 * size);
            const auto at = [&](long r) { return r < 0 || r >= end ? nothing : ring + r % 4 * size; };
            const float *above = at(row - 1), *here = at(row), *below = at(row + 1), *last_one = at(row + 2);
            auto later = ahead(end, std::clamp<long>(height - end, 0, 2) * width, steps);
            const auto multiply_by = [&](const float* rows, long t, float* to, bool add) {
                const Left a{rows, SLAB, in, SLAB, gap};
                for_slabs(3 * out, [&]<int HALVES>(long s) {
                    product<HALVES>(
                        a, width, weights.template slab<HALVES>(s, t * in), nullptr, to + stride + s * SLAB, stride, [&] { later.step(); }, add);
                });
            };
            add_rows(one, here, below, size);
            multiply_by(one, 0, parts, false);
            subtract_rows(other, below, here, size);
            multiply_by(other, 1, parts_below, false);
            sum_and_difference(parts + stride, parts_below + stride, width * stride);
            subtract_rows(one, above, below, size);
            multiply_by(one, 2, parts, true);
            if (two) {
                subtract_rows(other, here, last_one, size);
                multiply_by(other, 3, parts_below, true);
            }
            beside(parts, made + (row - first) * width * out_stride());
            if (two) beside(parts_below, made + (row + 1 - first) * width * out_stride());
        }
    }

    // There is nothing.
    void beside_the_image(float* parts) const {
        const long stride = vectors() * LANES;
        std::fill(parts, parts + stride, 0.0f);
        std::fill(parts + (width + 1) * stride, parts + parts_floats(), 0.0f);
    }
    // A row of the result: the parts of three taps, one pixel apart.
    void beside(const float* parts, float* to) const {
        const long stride = vectors() * LANES;
        for (long pixel = 0; pixel < width; pixel++, to += out_stride()) {
            const float *left = parts + pixel * stride, *here = left + stride + out, *right = here + stride + out;
            for (long o = 0; o < out; o += LANES) store(to + o, load(left + o) + load(here + o) + load(right + o) + biases.at(o));
        }
    }
};

// What the next rows read, and where they will be written.
template <class T>
struct Both {
    Ahead<const T> read;
    Ahead<T, true> written;
    void step() {
        read.step();
        written.step();
    }
};

template <bool PAIRS, class T>
void spatial_forward(
    const Shape& shape, const Maps<const T>& x, const Norm& norm, const Conv& conv, const Maps<T>& y, float* mean,
    float* variance, int threads) {
    const long W = shape.width, out = y.channels;
    const Convolution<PAIRS> convolution(shape, x.channels, out, conv);
    const Affine affine(norm);
    const Bands bands(shape);
    Moments moments(mean ? bands.tasks : 0, convolution.out_stride());
    const Finish<T> finish{conv.bits, out, mean ? &moments : nullptr};
#pragma omp parallel num_threads(threads)
    {
        Scratch<0> scratch(convolution.scratch() + bands.most() * W * convolution.out_stride());
        float *own = scratch.take(convolution.scratch()), *made = scratch.take(bands.most() * W * convolution.out_stride());
#pragma omp for schedule(dynamic, 1)
        for (long task = 0; task < bands.tasks; task++) {
            const long top = bands.image(task) * shape.height, first = bands.first(task), last = bands.last(task);
            const auto make = [&](long row, auto* to) { normalise(to, W * SLAB, x, (top + row) * W, W, affine); };
            const auto ahead = [&](long row, long pixels, long steps) {
                return Both{Ahead<const T>(x, (top + row) * W, pixels, steps), Ahead<T, true>(y, (top + row) * W, row < last ? pixels : 0, steps)};
            };
            convolution.band(first, last, make, ahead, own, made);
            const long place = (top + first) * W, count = (last - first) * W;
            y.runs([&](T* to, long channel, long many) {
                finish(made + channel, convolution.out_stride(), count, many, to + place * SLAB, SLAB, place * out + channel, task, channel);
            });
        }
    }
    if (mean) moments.merge(mean, variance, out);
}

// Some channels of a row of the new maps' gradient: source + c + e·(maps - mean) behind dropout's mask. Adds up the bias's where
// one is given.
template <bool DROP, class To, class T>
inline void complete_row(
    To* made, long stride, long width, long count, const float* source, const T* maps, const Channels& c, const Channels& e,
    const Channels& mean, long channel, const uint8_t* bits, long element, float* bias) {
    for (long v = 0; v < count; v += LANES) {
        const long lanes = count - v;
        const Vector plus = load(c.from(channel + v), lanes), times = load(e.from(channel + v), lanes);
        const Vector middle = load(mean.from(channel + v), lanes);
        Vector sum = {};
        for (long pixel = 0; pixel < width; pixel++) {
            const long at = pixel * SLAB + v;
            Vector g = load(source + at, lanes) + (load(maps + at, lanes) - middle) * times + plus;
            if (DROP) g = keep_where(lanes_kept(bits, element + pixel * stride + v), g);
            store(made + pixel * stride + v, g, lanes);
            sum += g;
        }
        if (bias) store(bias + channel + v, load(bias + channel + v, lanes) + sum, lanes);
    }
}

// Taps around each pixel of a row in pairs of pixels; the row begins a pixel left of the first. Runs over by less than a vector.
inline void pair_pixels(float* to, const bfloat16* row, long width, long maps) {
    const long taps = 3 * maps;
    for (long pixel = 0; pixel < width; pixel += 2, row += 2 * maps, to += taps)
        for (long i = 0; i < taps; i += LANES) store(to + i, paired(row + i, row + maps + i));
}

// The new maps' gradient is completed (source + c + e·(maps - mean)), masked by dropout, and sent back through the kernel and the
// normalisation of x to its place: to += scale·d where it grows, else to = d.
template <bool PAIRS, class T>
void spatial_backward(
    const Shape& shape, const Maps<const T>& x, const Norm& norm, const Conv& conv, const Maps<const T>& maps,
    const float* source, const float* c, const float* e, const float* mean, bool grows, float* to, const Gradients& result, int threads) {
    const long H = shape.height, W = shape.width, in = x.channels, out = maps.channels, rows_of_all = shape.pixels();
    const long in_slabs = slabs(in), in_stride = in_slabs * SLAB, out_stride = slabs(out) * SLAB;
    const long around = (W + 2) * out, taps = 3 * out;
    const Packed weights = (PAIRS ? packed_pairs_backward : packed_taps_backward)(conv, in, out);
    const Masked masked(norm, grows, grows);
    const uint8_t* bits = conv.bits;
    const Channels cs(out, [=](long i) { return c[i]; }), es(out, [=](long i) { return e[i]; }), means(out, [=](long i) { return mean[i]; });
    const Maps<float> places{to, rows_of_all, 0, in};
    const Maps<const float> sources{source, rows_of_all, maps.first, out};
    const Bands bands(shape);
    const long pairs = std::max<long>(chunk_rows(in) / W / 2, 1);  // of rows, whose kernel gradients are made at once
    const long group = 2 * pairs, d_at = (PAIRS ? 3 : 4) * taps * in_stride, bias_at = d_at + 2 * in_stride, floats = bias_at + out_stride;
    const Segments segments(bands.tasks, floats);
    std::vector<float> kernel_sums(d_at);
#pragma omp parallel num_threads(threads)
    {
        const long gap = group * W * SLAB, half = gap / 2, most = bands.most() + 3, beside = W / 2 * taps + LANES;
        Scratch<0> scratch((PAIRS ? 1 : 2) * in_slabs * gap + most * around + SLAB + (PAIRS ? most * beside : 4 * pairs * around) + 2 * W * SLAB);
        float *activation = scratch.take(in_slabs * gap), *means_of_two = PAIRS ? nullptr : scratch.take(in_slabs * gap);
        Term<PAIRS>* made = reinterpret_cast<Term<PAIRS>*>(scratch.take(most * around + SLAB));
        // Of one side of the kernel's gradient: in pairs of pixels, or turned.
        float *in_pairs = PAIRS ? scratch.take(most * beside) : nullptr, *turned = PAIRS ? nullptr : scratch.take(4 * pairs * around);
        float *panel = scratch.take(2 * W * SLAB), *panel_below = panel + W * SLAB;
#pragma omp for schedule(dynamic, 1)
        for (long segment = 0; segment < segments.count; segment++) {
            float* sums = segments.begin(segment);
            for (long task = segments.first(segment); task < segments.first(segment + 1); task++) {
                const long top = bands.image(task) * H, first = bands.first(task), last = bands.last(task), end = std::min(last + 1, H);
                // `made` begins a row above the first and a pixel left of it; beside the image it is zero.
                std::fill(made, made + (last - first + 3) * around, Term<PAIRS>{});
                if (PAIRS) std::fill(in_pairs, in_pairs + (last - first + 3) * beside, 0.0f);
                long next = std::max<long>(first - 1, 0);
                for (long row = first; row < last; row += group) {
                    const long rows = std::min(group, last - row), at = (top + row) * W, twos = (rows + 1) / 2;
                    for (; next < std::min(row + rows + 1, end); next++) {
                        const long place = (top + next) * W;
                        float* bias = next >= first && next < last ? sums + bias_at : nullptr;
                        maps.runs([&](const T* from, long channel, long many) {
                            (bits ? complete_row<true, Term<PAIRS>, T> : complete_row<false, Term<PAIRS>, T>)(
                                made + (next - first + 1) * around + out + channel, out, W, many,
                                sources.data + (from - maps.data) + place * SLAB, from + place * SLAB, cs, es, means, channel, bits,
                                place * out + channel, bias);
                        });
                        if constexpr (PAIRS) pair_pixels(in_pairs + (next - first + 1) * beside, made + (next - first + 1) * around, W, out);
                    }
                    const long left = std::clamp<long>(last - row - rows, 0, rows) * W, later = std::min(rows, end - next) * W;
                    const long steps = (PAIRS ? rows : 4 * twos) * tiles(W, in_slabs);
                    Ahead<const T> ahead_x(x, at + rows * W, left, steps), ahead_maps(maps, (top + next) * W, later, steps);
                    Ahead<const float> ahead_source(sources, (top + next) * W, later, steps);
                    Ahead<float, true> ahead_to(places, at + rows * W, left, steps);
                    const auto fetch_next = [&] {
                        ahead_x.step();
                        ahead_to.step();
                        ahead_maps.step();
                        ahead_source.step();
                    };
                    if constexpr (PAIRS) {
                        for (long r = 0; r < rows; r++)
                            for_slabs(in, [&]<int HALVES>(long s) {
                                const float* around_it = reinterpret_cast<const float*>(made + (row - first + r) * around);
                                const Left a{around_it, out / 2, 3 * taps / 2, taps / 2, around / 2, false};
                                product<HALVES, true>(a, W, weights.template slab<HALVES>(s), nullptr, panel, SLAB, fetch_next);
                                masked.template slab<HALVES>(panel, x.slab(s, at + r * W), places.slab(s, at + r * W), W, s * SLAB, sums + d_at);
                            });
                        for_slabs(in, [&]<int HALVES>(long s) {
                            normalise_row_pairs(activation, x.slab(s, at), rows * W, masked.affine, s * SLAB);
                            for (long dy = 0; dy < 3; dy++)
                                accumulate_outer<HALVES, true>(
                                    sums + dy * taps * in_stride + s * SLAB, in_stride, taps, in_pairs + (row - first + dy) * beside, beside,
                                    taps, activation, W / 2 * SLAB, rows, W / 2, SLAB);
                        });
                    } else {
                        for (long pair = 0; pair < twos; pair++)
                            turn_rows(turned + pair * around, pairs * around, made + (row - first + 2 * pair) * around, around);
                        normalise(activation, gap, x, at, rows * W, masked.affine);
                        for (long s = 0; s < in_slabs; s++) {
                            float* own = activation + s * gap;
                            std::fill(own + rows * W * SLAB, own + 2 * twos * W * SLAB, 0.0f);
                            for (long pair = 0; pair < twos; pair++)
                                halves(means_of_two + s * gap + pair * W * SLAB, half, own + 2 * pair * W * SLAB, W * SLAB);
                        }
                        for (long pair = 0; pair < twos; pair++)
                            for_slabs(in, [&]<int HALVES>(long s) {
                                const auto multiply_by = [&](long t, float* to, bool add) {
                                    const Left a{turned + (t * pairs + pair) * around, out, taps, taps, 0, false};
                                    product<HALVES>(a, W, weights.template slab<HALVES>(s, t * taps), nullptr, to, SLAB, fetch_next, add);
                                };
                                multiply_by(0, panel, false);
                                multiply_by(1, panel_below, false);
                                sum_and_difference(panel, panel_below, W * SLAB);
                                multiply_by(2, panel, true);
                                const long upper = at + 2 * pair * W, lower = upper + W;
                                masked.template slab<HALVES>(panel, x.slab(s, upper), places.slab(s, upper), W, s * SLAB, sums + d_at);
                                if (2 * pair + 1 == rows) return;
                                multiply_by(3, panel_below, true);
                                masked.template slab<HALVES>(panel_below, x.slab(s, lower), places.slab(s, lower), W, s * SLAB, sums + d_at);
                            });
                        for_slabs(in, [&]<int HALVES>(long s) {
                            const float *own = activation + s * gap, *mean = means_of_two + s * gap;
                            const auto add_up = [&](long t, const float* b, long b_outer) {
                                accumulate_outer<HALVES>(
                                    sums + t * taps * in_stride + s * SLAB, in_stride, taps, turned + t * pairs * around, around, out, b, b_outer,
                                    twos, W, SLAB);
                            };
                            add_up(0, mean, W * SLAB);
                            add_up(1, mean + half, W * SLAB);
                            add_up(2, own, 2 * W * SLAB);
                            add_up(3, own + W * SLAB, 2 * W * SLAB);
                        });
                    }
                }
            }
        }
        segments.total([&](long i, float sum) {
            if (i < d_at) {
                kernel_sums[i] = sum;
            } else {
                put_sums(result, norm, conv.factor, i - d_at, in_stride, out, sum);
            }
        });
#pragma omp for schedule(static)
        for (long tap = 0; tap < taps; tap++)
            for (long channel = 0; channel < in; channel++) {
                const auto m = [&](long t) { return kernel_sums[(t * taps + tap) * in_stride + channel]; };
                const float g[3] = {PAIRS ? m(0) : m(0) + m(1) + m(2), PAIRS ? m(1) : m(0) - m(1), PAIRS ? m(2) : m(0) + m(1) - m(3)};
                for (long dy = 0; dy < 3; dy++) {
                    const long from = 8 - dy * 3 - tap / out;  // the taps are read from the other end
                    result.kernel[(from * in + channel) * out + tap % out] = g[dy] * conv.factor;
                }
            }
    }
}
