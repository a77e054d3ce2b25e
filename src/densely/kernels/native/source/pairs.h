// Products of bfloat16, where the processor has an instruction for them: two terms at a time, sums in float.
//
// A pair of terms is a word of 32 bits, the first in its lower half. So what is laid out in floats is laid out in pairs in
// the same way, with half the terms, and is passed on as if it were floats.

#pragma once
#include <type_traits>

#include "maps.h"

// Whether products of such maps are taken in pairs, and what products take then.
#if defined(__AVX512BF16__)
template <class T>
constexpr bool PAIRED = std::is_same_v<T, bfloat16>;
#else
template <class T>
constexpr bool PAIRED = false;
#endif
template <bool PAIRS>
using Term = std::conditional_t<PAIRS, bfloat16, float>;

template <bool PAIRS>
inline __attribute__((always_inline)) Vector plus_product(Vector sum, Vector a, Vector b) {
#if defined(__AVX512BF16__)
    if constexpr (PAIRS) return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + a * b;
}

// Each element of a row with the one below it.
inline Vector paired(const bfloat16* row, const bfloat16* below) {
    typedef uint16_t Narrow __attribute__((vector_size(2 * LANES)));
    Narrow low, high;
    memcpy(&low, row, sizeof low);
    memcpy(&high, below, sizeof high);
    return (Vector)(__builtin_convertvector(low, Bits) | __builtin_convertvector(high, Bits) << 16);
}

inline Vector paired(Vector row, Vector below) {
    bfloat16 narrow[2][LANES];
    store(narrow[0], row);
    store(narrow[1], below);
    return paired(narrow[0], narrow[1]);
}

// Without a row below, with zeros.
inline void pair_rows(float* to, const float* row, const float* below, long floats) {
    for (long i = 0; i < floats; i += LANES) store(to + i, paired(load(row + i), below ? load(below + i) : Vector{}));
}

// Rows of floats, `stride` apart, to pairs within each row. What fills an odd row up meets zeros, and has to be a number.
inline void pair_within_rows(float* to, const float* from, long stride, long rows, long channels) {
    for (long r = 0; r < rows; r++, from += stride, to += stride / 2) {
        bfloat16* narrow = reinterpret_cast<bfloat16*>(to);
        for (long c = 0; c < channels; c += LANES) store(narrow + c, load(from + c));
    }
}

// Rows of floats, each with the one below it; the last of an odd number with zeros.
inline void pair_all_rows(float* to, const float* from, long rows, long floats) {
    for (long r = 0; r < rows; r += 2, from += 2 * floats, to += floats) pair_rows(to, from, r + 1 < rows ? from + floats : nullptr, floats);
}
