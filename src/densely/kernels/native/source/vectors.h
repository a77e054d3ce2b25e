// Vectors of floats as wide as the processor's registers, loads and stores that may end anywhere, and bfloat16.

#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TILE_ROWS = 8;  // × TILE_VECTORS accumulators, of 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int TILE_ROWS = 4;  // of 16 registers
#elif defined(__aarch64__)
constexpr int LANES = 4;
constexpr int TILE_ROWS = 8;
#else
constexpr int LANES = 4;
constexpr int TILE_ROWS = 4;
#endif
constexpr int TILE_VECTORS = 3;
constexpr long SLAB = TILE_VECTORS * LANES;  // channels that lie together, see maps.h

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

struct bfloat16 {
    uint16_t bits;
};

inline long slabs(long channels) { return (channels + SLAB - 1) / SLAB; }

inline Vector splat(float value) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(value);
#elif defined(__AVX2__)
    return _mm256_set1_ps(value);
#else
    return Vector{value, value, value, value};
#endif
}

inline Vector load(const float* from) {
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

#if defined(__AVX512F__)
inline Vector widened(__m256i narrow) { return (Vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16); }

inline Vector load(const bfloat16* from) { return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))); }
#else
inline Vector load(const bfloat16* from) {
    typedef uint16_t Narrow __attribute__((vector_size(2 * LANES)));
    Narrow n;
    memcpy(&n, from, sizeof n);
    const Bits wide = __builtin_convertvector(n, Bits) << 16;
    Vector v;
    memcpy(&v, &wide, sizeof v);
    return v;
}
#endif

inline void store(float* to, Vector v) { memcpy(to, &v, sizeof v); }

inline float number(float value) { return value; }

inline float number(bfloat16 value) {
    uint32_t wide = uint32_t(value.bits) << 16;
    float f;
    memcpy(&f, &wide, sizeof f);
    return f;
}

// To nearest, ties to even; a NaN stays one.
inline void store(bfloat16* to, Vector v) {
#if defined(__AVX512BF16__)
    const __m256bh narrow = _mm512_cvtneps_pbh((__m512)v);
#else
    typedef uint16_t Narrow __attribute__((vector_size(2 * LANES)));
    const Bits bits = (Bits)v, rounded = bits + 0x7fff + ((bits >> 16) & 1), number = v == v;
    const Narrow narrow = __builtin_convertvector(((rounded & number) | ((bits | 0x400000) & ~number)) >> 16, Narrow);
#endif
    memcpy(to, &narrow, sizeof narrow);
}

// The first `count` lanes, the others zero.
template <class T>
inline Vector load(const T* from, long count) {
    if (count >= LANES) return load(from);
    Vector v = {};
    for (long i = 0; i < count; i++) v[i] = number(from[i]);
    return v;
}

#if defined(__AVX512F__)
template <>
inline Vector load(const float* from, long count) {
    return count >= LANES ? load(from) : (Vector)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from);
}
#if defined(__AVX512BW__) && defined(__AVX512VL__)
template <>
inline Vector load(const bfloat16* from, long count) {
    return count >= LANES ? load(from) : widened(_mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), from));
}
#endif
#elif defined(__AVX2__)
inline __m256i first(long count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)), lanes);
}
template <>
inline Vector load(const float* from, long count) {
    return count >= LANES ? load(from) : (Vector)_mm256_maskload_ps(from, first(count));
}
#endif

// The first `count` lanes alone.
template <class T>
inline void store(T* to, Vector v, long count) {
    if (count >= LANES) return store(to, v);
    T part[LANES];
    store(part, v);
    for (long i = 0; i < count; i++) to[i] = part[i];
}

#if defined(__AVX512BF16__) && defined(__AVX512VL__)
template <>
inline void store(bfloat16* to, Vector v, long count) {
    count >= LANES ? store(to, v) : _mm256_mask_storeu_epi16(to, __mmask16((1u << count) - 1), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#endif
#if defined(__AVX512F__)
template <>
inline void store(float* to, Vector v, long count) {
    count >= LANES ? store(to, v) : _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), (__m512)v);
}
#elif defined(__AVX2__)
template <>
inline void store(float* to, Vector v, long count) {
    count >= LANES ? store(to, v) : _mm256_maskstore_ps(to, first(count), (__m256)v);
}
#endif

// Asks for a stretch of memory that will be read soon, or written too: far ahead for the second-level cache, else for the
// first. So products hide the way from memory. Always in line: GCC leaves out calls of functions that only prefetch.
template <bool FAR, bool WRITTEN = false, class T>
inline __attribute__((always_inline)) void fetch(const T* from, long count) {
    const char *at = reinterpret_cast<const char*>(from), *end = reinterpret_cast<const char*>(from + count);
    for (; at < end; at += 64) __builtin_prefetch(at, WRITTEN, FAR ? 2 : 3);
    __builtin_prefetch(end - 1, WRITTEN, FAR ? 2 : 3);
}

// Zeros in the upper half of the lanes.
inline Vector lower_half(Vector v) {
    for (int i = LANES / 2; i < LANES; i++) v[i] = 0.0f;
    return v;
}

inline Vector keep_where(Bits mask, Vector v) { return (Vector)((Bits)v & mask); }

// ReLU's question, with a NaN's answer yes: it must not vanish.
inline Bits open_at(Vector v) { return ~(v <= 0.0f); }

inline Vector positive(Vector v) { return keep_where(open_at(v), v); }

// Masks of dropout: one bit an element, flat. All ones in the lanes whose bit is set.
inline Bits lanes_kept(const uint8_t* bits, unsigned long element) {
    uint32_t word;
    memcpy(&word, bits + element / 8, sizeof word);  // the array is 8 bytes longer than its bits
    Bits powers;
    for (int i = 0; i < LANES; i++) powers[i] = 1 << i;
    return ((Bits{} + int32_t(word >> element % 8)) & powers) != 0;
}
