// The way back through the 3×3 convolution of a layer, and through what stands before and after it.
//
// Products as forward (spatial.h), by four for two rows or, in pairs of bfloat16, by six: the gradient of what went in, from three
// taps around each pixel, and the kernel's.

#pragma once
#include "spatial.h"

// Term (dy, dx, o), column i: what comes back, in pairs; the taps are read from the other end.
inline Packed packed_pairs_backward(const Conv& conv, long in, long out) {
    Packed packed(9 * out, in);
    for (long tap = 0; tap < 9; tap++)
        for (long o = 0; o < out; o++) packed.set(tap * out + o, 0, conv.kernel + (8 - tap) * in * out + o, out, in, conv.factor);
    return packed.paired();
}

// Term (t, dx, o), column i: what comes back from the pixels around one, so that the taps are read from the other end.
inline Packed packed_taps_backward(const Conv& conv, long in, long out) {
    const Floats turned = turned_taps(conv.kernel, 3 * in * out, true);
    Packed packed(12 * out, in);
    for (long t = 0; t < 4; t++)
        for (long dx = 0; dx < 3; dx++)
            for (long o = 0; o < out; o++)
                packed.set((t * 3 + dx) * out + o, 0, &turned[(t * 3 + 2 - dx) * in * out + o], out, in, conv.factor);
    return packed;
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
    // Pixels that give kernels' gradients at once, some rows of an image (two at least) or several images: enough terms that their
    // sums, which lie far away where layers are wide, are seldom fetched; few enough for a second-level cache of 512 KiB, but in the
    // widest layers.
    const long at_once = std::clamp<long>(16384 / in / 16 * 16, 32, 128) * (1 + PAIRS);
    const Bands bands(shape, at_once);
    const long together = bands.together, pairs = together > 1 ? (H + 1) / 2 : std::max<long>(at_once / W / 2, 1);  // of rows
    const long group = 2 * pairs, d_at = (PAIRS ? 3 : 4) * taps * in_stride, bias_at = d_at + 2 * in_stride, floats = bias_at + out_stride;
    const Segments segments(bands.tasks, floats);
    Floats kernel_sums(d_at);
#pragma omp parallel num_threads(threads)
    {
        // Of an image, or a band: rows, with those around it; terms of what comes in; floats of what one side of the kernel's
        // gradient makes of that, in pairs of pixels or turned.
        const long most = bands.most() + 3, image_made = most * around, beside = W / 2 * taps;
        const long image_side = PAIRS ? most * beside : pairs * around, sides = together * image_side;
        const long gap = together * group * W * SLAB, half = gap / 2;
        Scratch<0> scratch((PAIRS ? 1 : 2) * in_slabs * gap + together * image_made + SLAB + (PAIRS ? 1 : 4) * sides + LANES + 2 * W * SLAB);
        float *activation = scratch.take(in_slabs * gap), *means_of_two = PAIRS ? nullptr : scratch.take(in_slabs * gap);
        Term<PAIRS>* all_made = reinterpret_cast<Term<PAIRS>*>(scratch.take(together * image_made + SLAB));
        float* side = scratch.take((PAIRS ? 1 : 4) * sides + LANES);
        float *panel = scratch.take(2 * W * SLAB), *panel_below = panel + W * SLAB;
        // Rows of an image as they come in, those of a band from the second on; each of its own rows is in one band's bias.
        const auto take_rows = [&](Term<PAIRS>* made, float* made_beside, long top, long first, long last, long begin, long below, float* bias) {
            for (long r = begin; r < below; r++) {
                const long place = (top + r) * W;
                maps.runs([&](const T* from, long channel, long many) {
                    (bits ? complete_row<true, Term<PAIRS>, T> : complete_row<false, Term<PAIRS>, T>)(
                        made + (r - first + 1) * around + out + channel, out, W, many, sources.data + (from - maps.data) + place * SLAB,
                        from + place * SLAB, cs, es, means, channel, bits, place * out + channel, r >= first && r < last ? bias : nullptr);
                });
                if constexpr (PAIRS) {
                    float* pair = made_beside + (r - first + 1) * beside;
                    pair_pixels(pair, made + (r - first + 1) * around, W, out);
                    std::fill(pair + beside, pair + beside + LANES, 0.0f);  // it ran over
                }
            }
        };
        // `rows` rows of x, from pixel `at` on, get their gradient from the rows that came in around them; `turned`, `own` and `of_two`
        // are their places in what the kernel's gradient is made of.
        const auto send_back = [&](const Term<PAIRS>* made, long at, long rows, float* turned, float* own, float* of_two, float* d_sums, const auto& fetch_next) {
            const auto finish = [&]<int HALVES>(float* d, long s, long pixel) {
                masked.template slab<HALVES>(d, x.slab(s, pixel), places.slab(s, pixel), W, s * SLAB, d_sums);
            };
            if constexpr (PAIRS) {
                for (long r = 0; r < rows; r++)
                    for_slabs(in, [&]<int HALVES>(long s) {
                        const Left a{reinterpret_cast<const float*>(made + r * around), out / 2, 3 * taps / 2, taps / 2, around / 2, false};
                        product<HALVES, true>(a, W, weights.template slab<HALVES>(s), nullptr, panel, SLAB, fetch_next);
                        finish.template operator()<HALVES>(panel, s, at + r * W);
                    });
                return;
            }
            const long twos = (rows + 1) / 2;
            for (long pair = 0; pair < twos; pair++) {
                const Term<PAIRS>* d = made + 2 * pair * around;
                if constexpr (!PAIRS) turn_rows(turned + pair * around, sides, d, d + around, d + 2 * around, d + 3 * around, around);
            }
            normalise(own, gap, x, at, rows * W, masked.affine);
            for (long s = 0; s < in_slabs; s++) {
                std::fill(own + s * gap + rows * W * SLAB, own + s * gap + 2 * twos * W * SLAB, 0.0f);
                for (long pair = 0; pair < twos; pair++)
                    halves(of_two + s * gap + pair * W * SLAB, half, own + s * gap + 2 * pair * W * SLAB, W * SLAB);
            }
            for (long pair = 0; pair < twos; pair++)
                for_slabs(in, [&]<int HALVES>(long s) {
                    const auto multiply_by = [&](long t, float* to, bool add) {
                        const Left a{turned + t * sides + pair * around, out, taps, taps, 0, false};
                        product<HALVES>(a, W, weights.template slab<HALVES>(s, t * taps), nullptr, to, SLAB, fetch_next, add);
                    };
                    multiply_by(0, panel, false);
                    multiply_by(1, panel_below, false);
                    sum_and_difference(panel, panel_below, W * SLAB);
                    multiply_by(2, panel, true);
                    finish.template operator()<HALVES>(panel, s, at + 2 * pair * W);
                    if (2 * pair + 1 == rows) return;
                    multiply_by(3, panel_below, true);
                    finish.template operator()<HALVES>(panel_below, s, at + (2 * pair + 1) * W);
                });
        };
        // The kernel's gradient from `rows` rows, from pixel `at` on, of each of a task's images, and what came in around them.
        const auto add_kernels = [&](const float* came_in, long at, long images, long rows, float* sums) {
            for_slabs(in, [&]<int HALVES>(long s) {
                if constexpr (PAIRS) {
                    normalise_row_pairs(activation, x.slab(s, at), images * rows * W, masked.affine, s * SLAB);
                    for (long dy = 0; dy < 3; dy++)
                        accumulate_outer<HALVES, true>(
                            sums + dy * taps * in_stride + s * SLAB, in_stride, taps, came_in + dy * beside, image_side, taps, activation,
                            rows * W / 2 * SLAB, images, rows * W / 2, SLAB);
                } else {
                    const float *own = activation + s * gap, *mean = means_of_two + s * gap;
                    const auto add_up = [&](long t, const float* b, long b_outer) {
                        accumulate_outer<HALVES>(
                            sums + t * taps * in_stride + s * SLAB, in_stride, taps, came_in + t * sides, around, out, b, b_outer,
                            images * ((rows + 1) / 2), W, SLAB);
                    };
                    add_up(0, mean, W * SLAB);
                    add_up(1, mean + half, W * SLAB);
                    add_up(2, own, 2 * W * SLAB);
                    add_up(3, own + W * SLAB, 2 * W * SLAB);
                }
            });
        };
#pragma omp for schedule(dynamic, 1)
        for (long segment = 0; segment < segments.count; segment++) {
            float* sums = segments.begin(segment);
            for (long task = segments.first(segment); task < segments.first(segment + 1); task++) {
                const long images = bands.images(task), first = bands.first(task), last = bands.last(task), end = std::min(last + 1, H);
                // `all_made` begins, for each image, a row above the first and a pixel left of it; beside the image it is zero.
                std::fill(all_made, all_made + images * image_made, Term<PAIRS>{});
                if (PAIRS) std::fill(side, side + images * image_side, 0.0f);
                for (long row = first; row < last; row += group) {
                    const long rows = std::min(group, last - row), task_at = (bands.image(task) * H + row) * W;
                    for (long image = 0; image < images; image++) {
                        const long top = (bands.image(task) + image) * H, at = (top + row) * W;
                        const long begin = row == first ? std::max<long>(first - 1, 0) : row + 1, below = std::min(row + rows + 1, end);
                        Term<PAIRS>* made = all_made + image * image_made;
                        float* own_side = side + image * image_side;
                        take_rows(made, own_side, top, first, last, begin, below, sums + bias_at);
                        // The rows after these, of this image or the next.
                        const long left = std::clamp<long>(rows_of_all / W - top - row - rows, 0, rows) * W;
                        const long later = std::clamp<long>(rows_of_all / W - top - below, 0, rows) * W;
                        const long steps = (PAIRS ? rows : 4 * ((rows + 1) / 2)) * tiles(W, in_slabs);
                        Ahead<const T> ahead_x(x, at + rows * W, left, steps), ahead_maps(maps, (top + below) * W, later, steps);
                        Ahead<const float> ahead_source(sources, (top + below) * W, later, steps);
                        Ahead<float, true> ahead_to(places, at + rows * W, left, steps);
                        const auto fetch_next = [&] {
                            ahead_x.step();
                            ahead_to.step();
                            ahead_maps.step();
                            ahead_source.step();
                        };
                        send_back(
                            made + (row - first) * around, at, rows, own_side, activation + image * group * W * SLAB,
                            means_of_two + image * pairs * W * SLAB, sums + d_at, fetch_next);
                    }
                    add_kernels(PAIRS ? side + (row - first) * beside : side, task_at, images, rows, sums);
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

// In pairs where they can be.
template <class T>
void spatial_backward(
    const Shape& shape, const Maps<const T>& x, const Norm& norm, const Conv& conv, const Maps<const T>& maps,
    const float* source, const float* c, const float* e, const float* mean, bool grows, float* to, const Gradients& result, int threads) {
    const bool pairs = PAIRED<T> && x.channels % 2 == 0 && maps.channels % 2 == 0 && shape.width % 2 == 0;
    (pairs ? spatial_backward<PAIRED<T>, T> : spatial_backward<false, T>)(
        shape, x, norm, conv, maps, source, c, e, mean, grows, to, result, threads);
}
