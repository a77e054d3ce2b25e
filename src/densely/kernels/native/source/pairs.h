// Products of bfloat16, where the processor has an instruction for them: two terms at a time, sums in float.
//
// A pair of terms is a word of 32 bits, the first in its lower half. So what is laid out in floats is laid out in pairs in
// the same way, with half the terms, and is passed on as if it were floats.

#pragma once
#include "maps.h"

// Whether products of such maps are taken in pairs.
#if defined(__AVX512BF16__)
template <class T>
constexpr bool PAIRED = std::is_same_v<T, bfloat16>;
#else
template <class T>
constexpr bool PAIRED = false;
#endif

template <bool PAIRS>
inline __attribute__((always_inline)) Vector plus_product(Vector sum, Vector a, Vector b) {
#if defined(__AVX512BF16__)
    if constexpr (PAIRS) return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + a * b;
}

// Each element of a row with the one below it; without a row below, with zero.
inline Vector paired(Vector row, Vector below) {
    typedef uint16_t Narrow __attribute__((vector_size(2 * LANES)));
    bfloat16 halves[2][LANES];
    store(halves[0], row);
    store(halves[1], below);
    Narrow low, high;
    memcpy(&low, halves[0], sizeof low);
    memcpy(&high, halves[1], sizeof high);
    return (Vector)(__builtin_convertvector(low, Bits) | __builtin_convertvector(high, Bits) << 16);
}

inline void pair_rows(float* to, const float* row, const float* below, long floats) {
    for (long i = 0; i < floats; i += LANES) store(to + i, paired(load(row + i), below ? load(below + i) : Vector{}));
}

// Rows of floats, `stride` apart, to pairs within each row; what fills an odd row up is zero.
inline void pair_within_rows(float* to, const float* from, long stride, long rows, long channels) {
    for (long r = 0; r < rows; r++, from += stride, to += stride / 2) {
        bfloat16* narrow = reinterpret_cast<bfloat16*>(to);
        for (long c = 0; c < channels; c += LANES) store(narrow + c, load(from + c));
        if (channels % 2) narrow[channels] = {0};
    }
}
