// Ways into slabs and out of them, and dropout's bits.

#pragma once
#include "passes.h"

// task(first row, rows): chunks of rows, shared out to threads.
template <class Task>
inline void for_chunks(long rows, long channels, int threads, Task task) {
    const long chunk = chunk_rows(channels), tasks = (rows + chunk - 1) / chunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long i = 0; i < tasks; i++) task(i * chunk, std::min(chunk, rows - i * chunk));
}

// A block's input, into slabs; its statistics, where they are wanted, on the way. Without a `to`, statistics alone.
template <class T>
void take_in(long rows, long channels, const T* x, T* to, float* mean, float* variance, int threads) {
    const long chunk = chunk_rows(channels), in_slabs = slabs(channels), gap = chunk * SLAB;
    Moments moments(mean ? (rows + chunk - 1) / chunk : 0, in_slabs * SLAB);
    const Finish<float> finish{nullptr, channels, &moments};
    for_chunks(rows, channels, threads, [&](long first, long count) {
        if (to) rows_to_slabs(x + first * channels, channels, Maps<T>{to, rows, 0, channels}, first, count);
        if (!mean) return;
        Scratch<0> scratch(in_slabs * gap);
        const Maps<float> wide{scratch.take(in_slabs * gap), chunk, 0, channels};
        rows_to_slabs(x + first * channels, channels, wide, 0, count);
        for (long s = 0; s < in_slabs; s++) finish(wide.slab(s, 0), SLAB, count, SLAB, wide.slab(s, 0), SLAB, 0, first / chunk, s * SLAB);
    });
    if (mean) moments.merge(mean, variance, channels);
}

// A block's output, out of slabs.
template <class T>
void give_out(long rows, long channels, const T* from, T* to, int threads) {
    const Maps<const T> maps{from, rows, 0, channels};
    for_chunks(rows, channels, threads, [&](long first, long count) { slabs_to_rows(maps, first, count, to + first * channels); });
}

// A block's incoming gradient, into slabs.
template <class T>
void take_gradient(long rows, long channels, const T* x, float* to, int threads) {
    const Maps<float> maps{to, rows, 0, channels};
    for_chunks(rows, channels, threads, [&](long first, long count) { rows_to_slabs(x + first * channels, channels, maps, first, count); });
}

// to = source + c + e·(maps - mean), in rows of all channels; source and maps lie in slabs or, with ROWS_OF_ALL, in such rows too.
template <bool ROWS_OF_ALL, class T>
void complete(long rows, long channels, const T* maps, const float* source, const float* c, const float* e, const float* mean, T* to, int threads) {
    const Channels cs(channels, [=](long i) { return c[i]; }), es(channels, [=](long i) { return e[i]; });
    const Channels means(channels, [=](long i) { return mean[i]; });
    const Maps<const float> from{source, rows, 0, channels};
    const Maps<const T> read{maps, rows, 0, channels};
    for_chunks(rows, channels, threads, [&](long first, long count) {
        for (long r = first; r < first + count; r++)
            for (long v = 0; v < channels; v += LANES) {
                const long lanes = channels - v, at = r * channels + v;
                const float* g = ROWS_OF_ALL ? source + at : from.slab(v / SLAB, r) + v % SLAB;
                const T* x = ROWS_OF_ALL ? maps + at : read.slab(v / SLAB, r) + v % SLAB;
                store(to + at, load(g, lanes) + (load(x, lanes) - means.at(v)) * es.at(v) + cs.at(v), lanes);
            }
    });
}

// 32 random bits from a counter and a key; `dropout.py` has the same in PyTorch, and says what it is.
inline uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

constexpr long GROUP = 256;  // elements that are drawn together

// Of each byte a bit: whether it is below a limit of 0 to 256, or whether it is not.
inline void bits_below(const uint8_t* bytes, uint32_t limit, bool below, uint8_t* bits) {
#if defined(__AVX512BW__)
    for (long i = 0; i < GROUP; i += 64) {
        const uint64_t under = limit > 255 ? ~0ull : _mm512_cmplt_epu8_mask(_mm512_loadu_si512(bytes + i), _mm512_set1_epi8(char(limit)));
        const uint64_t wanted = below ? under : ~under;
        memcpy(bits + i / 8, &wanted, 8);
    }
#else
    uint8_t wanted[GROUP];
    for (long i = 0; i < GROUP; i++) wanted[i] = (bytes[i] < limit) == below;
    for (long i = 0; i < GROUP; i += 8) {  // eight bytes of 0 or 1 become one
        uint64_t eight;
        memcpy(&eight, wanted + i, 8);
        bits[i / 8] = uint8_t(eight * 0x0102040810204080u >> 56);
    }
#endif
}

// bits[i / 8] bit i % 8: whether element i is kept.
inline void draw(long elements, uint32_t key0, uint32_t key1, int dropped, uint8_t* bits, int threads) {
    const bool below = 2 * dropped > 65536;
    const int rarer = below ? 65536 - dropped : dropped;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long group = 0; group < (elements + GROUP - 1) / GROUP; group++) {
        const uint32_t extra = mixed(mixed(uint32_t(group) + key1) ^ key0) & 255;
        const uint32_t limit = rarer / 256 + (extra < uint32_t(rarer % 256));
        uint32_t drawn[GROUP / 4];
        for (long i = 0; i < GROUP / 4; i++) drawn[i] = mixed(mixed(uint32_t(group * (GROUP / 4) + i) + key0) ^ key1);
        uint8_t bytes[GROUP], kept[GROUP / 8];
        memcpy(bytes, drawn, sizeof bytes);
        bits_below(bytes, limit, below, kept);
        memcpy(bits + group * GROUP / 8, kept, (std::min(GROUP, elements - group * GROUP) + 7) / 8);
    }
}
