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

// sum + a·b; of the lower HALF of the lanes alone, if so wanted, and then the upper are anything.
template <bool PAIRS, bool HALF = false>
inline __attribute__((always_inline)) Vector plus_product(Vector sum, Vector a, Vector b) {
#if defined(__AVX512F__)
    if constexpr (HALF) {
        const auto lower = [](Vector v) { return _mm512_castps512_ps256((__m512)v); };
        const auto whole = [](__m256 v) { return (Vector)_mm512_castps256_ps512(v); };
#if defined(__AVX512BF16__)
        if constexpr (PAIRS) return whole(_mm256_dpbf16_ps(lower(sum), (__m256bh)lower(a), (__m256bh)lower(b)));
#endif
        return whole(_mm256_fmadd_ps(lower(a), lower(b), lower(sum)));
    }
#endif
#if defined(__AVX512BF16__)
    if constexpr (PAIRS) return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#endif
    return sum + a * b;
}

#if defined(__AVX512BF16__)
// Two rows that lie one behind the other in a register: each element of the first with that of the second.
inline Vector zipped(__m512i rows) {
    constexpr int HALF = LANES << 16;
    Bits order;
    for (int i = 0; i < LANES; i++) order[i] = HALF | i << 16 | i;
    return (Vector)_mm512_permutexvar_epi16((__m512i)order, rows);
}

// Each element of a row with the one below it.
inline Vector paired(const bfloat16* row, const bfloat16* below) {
    const auto at = [](const bfloat16* r) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(r)); };
    return zipped(_mm512_inserti64x4(_mm512_castsi256_si512(at(row)), at(below), 1));
}

inline Vector paired(Vector row, Vector below) { return zipped((__m512i)_mm512_cvtne2ps_pbh((__m512)below, (__m512)row)); }
#else  // compiled, never called
inline Vector paired(const bfloat16*, const bfloat16*) { return Vector{}; }
inline Vector paired(Vector, Vector) { return Vector{}; }
#endif

inline Vector paired(const float* row, const float* below) { return paired(load(row), load(below)); }

// Without a row below, with zeros.
template <class T>
inline void pair_rows(float* to, const T* row, const T* below, long count) {
    static const T none[LANES] = {};
    for (long i = 0; i < count; i += LANES) store(to + i, paired(row + i, below ? below + i : none));
}

// Rows, each with the one below it; the last of an odd number with zeros.
template <class T>
inline void pair_all_rows(float* to, const T* from, long rows, long count) {
    for (long r = 0; r < rows; r += 2, from += 2 * count, to += count) pair_rows(to, from, r + 1 < rows ? from + count : nullptr, count);
}
