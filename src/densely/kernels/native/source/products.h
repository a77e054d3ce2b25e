// Matrix products in tiles of registers: every convolution here is some of these.
//
// Tiles are functions of their own, so that compilers give all registers to them.

#pragma once
#include "pairs.h"

// Compilers like to read a vector from memory again for each of its uses; loads are what a tile has too few of.
#if defined(__x86_64__)
#define STAY_IN_REGISTER(vector) asm("" : "+v"(vector))
#elif defined(__aarch64__)
#define STAY_IN_REGISTER(vector) asm("" : "+w"(vector))
#else
#define STAY_IN_REGISTER(vector)
#endif

// A loop that is written out, without which a tile would not stay in registers.
#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < count; i++)

// Widths of tiles are counted in half vectors: where a processor takes 512 bits in two steps (Zen 4) a half costs half, and
// nowhere more than a whole. So the last of an odd number, 3 or 5, is a vector's lower half. Without AVX-512 there are no halves.
constexpr int vectors_in(int halves) { return (halves + 1) / 2; }

// acc += A·B for M rows and HALVES of vectors of columns, over `count` terms (or PAIRS of terms, see pairs.h).
// A's element (i, k) is a[i * row + k * term]; B's row k begins at b + k * stride.
template <bool PAIRS, int M, int HALVES, int N = vectors_in(HALVES)>
inline __attribute__((always_inline)) void multiply(
    Vector (&acc)[M][N], const float* a, long row, long term, const float* b, long stride, long count) {
#pragma GCC unroll 2
    for (long k = 0; k < count; k++) {
        // By name, not in an array, which GCC would write to memory as well.
        Vector c0 = load(b), c1 = N > 1 ? load(b + LANES) : c0, c2 = N > 2 ? load(b + 2 * LANES) : c0;
        STAY_IN_REGISTER(c0);
        if constexpr (N > 1) STAY_IN_REGISTER(c1);
        if constexpr (N > 2) STAY_IN_REGISTER(c2);
        EACH(m, M) {
            const Vector element = splat(a[m * row]);
            acc[m][0] = plus_product<PAIRS>(acc[m][0], element, c0);
            if constexpr (N > 1) acc[m][1] = plus_product<PAIRS, HALVES == 3>(acc[m][1], element, c1);
            if constexpr (N > 2) acc[m][2] = plus_product<PAIRS, HALVES == 5>(acc[m][2], element, c2);
        }
        a += term;
        b += stride;
    }
}

template <int M, class F>
inline void rows_of_tiles(long row, long rows, F& body) {
    for (; row + M <= rows; row += M) body.template operator()<M>(row);
    if constexpr (M > 1) rows_of_tiles<M / 2>(row, rows, body);
}

// How many tiles cover rows × panels at least: what to divide other work by that is done between them.
inline long tiles(long rows, long panels) { return std::max<long>(1, rows / TILE_ROWS) * panels; }

// Calls body<M>(first row) for tiles of rows.
template <class F>
inline void for_rows(long rows, F body) {
    rows_of_tiles<TILE_ROWS>(0, rows, body);
}

inline long vectors_of(long columns) { return (columns + LANES - 1) / LANES; }

// Calls body<HALVES>(slab) for slabs of columns, HALVES of vectors wide: of the last one perhaps not all are wanted.
template <class F>
inline void for_slabs(long columns, F body) {
    long slab = 0;
    for (; columns >= SLAB; columns -= SLAB) body.template operator()<2 * TILE_VECTORS>(slab++);
    const long vectors = vectors_of(columns);
#if defined(__AVX512F__)
    if (vectors == 3 && columns <= 5 * LANES / 2) return body.template operator()<5>(slab);
    if (vectors == 2 && columns <= 3 * LANES / 2) return body.template operator()<3>(slab);
#endif
    if (vectors == 3) body.template operator()<6>(slab);
    if (vectors == 2) body.template operator()<4>(slab);
    if (vectors == 1) body.template operator()<2>(slab);
}

// A matrix whose columns lie together by panel: what B is read from. Columns that fill a vector are zero.
class Packed {
    Floats data;
    long terms, vectors;

    static long first(long vector) { return vector / TILE_VECTORS * TILE_VECTORS; }

   public:
    Packed(long terms, long columns)
        : data(terms * vectors_of(columns) * LANES), terms(terms), vectors(vectors_of(columns)) {}
    // Columns `column` to `column + count` of a term: factor·from[0], factor·from[stride] ...
    void set(long term, long column, const float* from, long stride, long count, float factor) {
        while (count > 0) {
            const long vector = column / LANES, tile = first(vector), width = std::min<long>(TILE_VECTORS, vectors - tile);
            float* to = &data[(tile * terms + term * width + vector - tile) * LANES + column % LANES];
            const long many = std::min(count, (tile + width) * LANES - column);
            for (long i = 0; i < many; i++) to[i] = from[i * stride] * factor;
            column += many;
            from += many * stride;
            count -= many;
        }
    }
    // The same in pairs of terms; an odd last one is paired with zeros.
    Packed paired() const {
        Packed pairs((terms + 1) / 2, vectors * LANES);
        for (long tile = 0; tile < vectors; tile += TILE_VECTORS) {
            const long floats = std::min<long>(TILE_VECTORS, vectors - tile) * LANES;
            const float* from = &data[tile * terms * LANES];
            float* to = &pairs.data[tile * pairs.terms * LANES];
            pair_all_rows(to, from, terms, floats);
        }
        return pairs;
    }
    // Where the terms of a slab begin that is HALVES of vectors wide.
    template <int HALVES>
    const float* slab(long s, long term = 0) const { return data.data() + (s * TILE_VECTORS * terms + term * vectors_in(HALVES)) * LANES; }
};

// A product's left side, whose terms may come in stretches (slabs).
struct Left {
    const float* start;
    long row;           // from a row to the next
    long terms;
    long stretch, gap;  // terms together, and from one stretch to the next
    bool fetch = true;  // whether the rows behind a tile are to be fetched into the first-level cache
    long times = 1, apart = 0;  // all this again, so far apart
};

// to = A·panel for M rows, plus bias, or plus what is there. Fetches the rows behind them.
template <bool PAIRS, int M, int HALVES, bool ADD>
__attribute__((noinline)) void tile(const Left& a, long first, const float* panel, const float* bias, float* to, long to_stride) {
    constexpr int N = vectors_in(HALVES);
    Vector acc[M][N];
    EACH(m, M) EACH(n, N) {
        if constexpr (ADD) {
            acc[m][n] = load(to + m * to_stride + n * LANES);
        } else {
            acc[m][n] = m ? acc[0][n] : bias ? load(bias + n * LANES) : Vector{};
        }
    }
    for (long time = 0; time < a.times; time++) {
        const float* from = a.start + first * a.row + time * a.apart;
        for (long left = a.terms; left > 0; left -= a.stretch, from += a.gap) {
            const long many = std::min(left, a.stretch);
            if (a.fetch) fetch<false>(from + M * a.row, M * a.row);
            multiply<PAIRS, M, HALVES>(acc, from, a.row, 1, panel, N * LANES, many);
            panel += many * N * LANES;
        }
    }
    if constexpr (HALVES % 2) EACH(m, M) acc[m][N - 1] = lower_half(acc[m][N - 1]);
    EACH(m, M) EACH(n, N) store(to + m * to_stride + n * LANES, acc[m][n]);
}

// Terms whose panel of B stays in the first-level cache while all rows go past it.
constexpr long MOST_TERMS = 7 * SLAB;

// to = bias + A·panel for all rows, or to += A·panel. Calls `between` before each tile.
template <int HALVES, bool PAIRS = false, class Between>
inline void product(
    const Left& a, long rows, const float* panel, const float* bias, float* to, long to_stride, Between between, bool add = false) {
    const bool at_once = a.times * a.terms <= MOST_TERMS || a.stretch > MOST_TERMS;
    const long times = at_once ? 1 : a.times, most = at_once ? a.terms : MOST_TERMS / a.stretch * a.stretch;
    for (long time = 0; time < times; time++)
        for (long done = 0; done < a.terms; done += most) {
            const bool begun = time || done;
            const Left part{a.start + time * a.apart + done / a.stretch * a.gap, a.row, std::min(a.terms - done, most), a.stretch, a.gap, a.fetch,
                            at_once ? a.times : 1, a.apart};
            for_rows(rows, [&]<int M>(long row) {
                if (!begun) between();
                (begun || add ? tile<PAIRS, M, HALVES, true> : tile<PAIRS, M, HALVES, false>)(
                    part, row, panel, bias, to + row * to_stride, to_stride);
            });
            panel += part.terms * vectors_in(HALVES) * LANES;
        }
}

// to += Aᵀ·B for M rows over `outer` stretches of `inner` terms, with A's element (i, o, k) a[i + o * a_outer + k * a_inner],
// and B's row (o, k) at b + o * b_outer + k * b_row.
template <bool PAIRS, int M, int HALVES>
__attribute__((noinline)) void outer_tile(
    float* to, long stride, const float* a, long a_outer, long a_inner, const float* b, long b_outer, long outer, long inner, long b_row) {
    constexpr int N = vectors_in(HALVES);
    EACH(m, M) fetch<false, true>(to + m * stride, N * LANES);  // sums of wide layers lie far away
    Vector acc[M][N] = {};
    for (long o = 0; o < outer; o++) multiply<PAIRS, M, HALVES>(acc, a + o * a_outer, 1, a_inner, b + o * b_outer, b_row, inner);
    if constexpr (HALVES % 2) EACH(m, M) acc[m][N - 1] = lower_half(acc[m][N - 1]);
    EACH(m, M) EACH(n, N) store(to + m * stride + n * LANES, load(to + m * stride + n * LANES) + acc[m][n]);
}

// sums (rows × HALVES of vectors, rows `stride` apart) += Aᵀ·B, where B's rows are `b_row` apart: gradients of kernels.
template <int HALVES, bool PAIRS = false>
inline void accumulate_outer(
    float* sums, long stride, long rows, const float* a, long a_outer, long a_inner, const float* b, long b_outer, long outer, long inner,
    long b_row) {
    for_rows(rows, [&]<int M>(long row) {
        outer_tile<PAIRS, M, HALVES>(sums + row * stride, stride, a + row, a_outer, a_inner, b, b_outer, outer, inner, b_row);
    });
}
