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
// at even rows, since rows are made two by two, and have two at least. Or several whole images are a task, up to so many pixels, if
// 17 tasks or more are left to be shared out.
class Bands {
    long height, bands, all;
    long start(long band) const { return height * band / bands / 2 * 2; }

   public:
    const long together, tasks;
    explicit Bands(const Shape& s, long pixels = 0)
        : height(s.height), bands(many(s)), all(s.images),
          together(bands > 1 ? 1 : std::clamp<long>(pixels / (s.height * s.width), 1, (s.images + 31) / 32)),
          tasks((s.images + together - 1) / together * bands) {}
    static long many(const Shape& s) {
        const long pixels = s.height * s.width, large = (pixels + 2047) / 2048, few = (16 + s.images - 1) / s.images;
        return std::clamp<long>(std::max(large, std::min(few, pixels / 128)), 1, std::max<long>(1, s.height / 2));
    }
    long image(long task) const { return task / bands * together; }
    long images(long task) const { return std::min(together, all - image(task)); }
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

// Term (t, i), column (dx, o) of a kernel (3, 3, in, out), t a turned row of taps.
inline Packed packed_taps(const Conv& conv, long in, long out) {
    const Floats turned = turned_taps(conv.kernel, 3 * in * out, false);
    Packed packed(4 * in, 3 * out);
    for (long t = 0; t < 4; t++)
        for (long dx = 0; dx < 3; dx++)
            for (long i = 0; i < in; i++) packed.set(t * in + i, dx * out, &turned[((t * 3 + dx) * in + i) * out], 1, out, conv.factor);
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
    long scratch() const { return 9 * row_floats() + 2 * parts_floats(); }

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
        float *ring = scratch, *nothing = ring + 4 * size, *turned = nothing + size;
        float *parts = turned + 4 * size, *parts_below = parts + parts_floats();
        std::fill(nothing, nothing + size, 0.0f);
        beside_the_image(parts);
        beside_the_image(parts_below);
        long next = std::max<long>(first - 1, 0);
        for (long row = first; row < last; row += 2) {
            const bool two = row + 1 < last;
            const long end = std::min(row + 2 + two, height);
            for (; next < end; next++) make(next, ring + next % 4 * size);
            const auto at = [&](long r) { return r < 0 || r >= end ? nothing : ring + r % 4 * size; };
            turn_rows(turned, size, at(row - 1), at(row), at(row + 1), at(row + 2), size);
            auto later = ahead(end, std::clamp<long>(height - end, 0, 2) * width, steps);
            const auto multiply_by = [&](long t, float* to, bool add) {
                const Left a{turned + t * size, SLAB, in, SLAB, gap};
                for_slabs(3 * out, [&]<int HALVES>(long s) {
                    product<HALVES>(
                        a, width, weights.template slab<HALVES>(s, t * in), nullptr, to + stride + s * SLAB, stride, [&] { later.step(); }, add);
                });
            };
            multiply_by(0, parts, false);
            multiply_by(1, parts_below, false);
            sum_and_difference(parts + stride, parts_below + stride, width * stride);
            multiply_by(2, parts, true);
            if (two) multiply_by(3, parts_below, true);
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

// In pairs where they can be.
template <class T>
void spatial_forward(
    const Shape& shape, const Maps<const T>& x, const Norm& norm, const Conv& conv, const Maps<T>& y, float* mean,
    float* variance, int threads) {
    const bool pairs = PAIRED<T> && x.channels % 2 == 0;
    (pairs ? spatial_forward<PAIRED<T>, T> : spatial_forward<false, T>)(shape, x, norm, conv, y, mean, variance, threads);
}
