// How feature maps lie in memory, and how work on them is cut up.
//
// A layer reads the first C channels of all pixels. Were a pixel's channels one long row, that would leave a gap behind
// each read, and memory with gaps is read at a quarter of its speed (measured). So maps lie in slabs of SLAB channels,
// the width of a tile: a slab has all its pixels one after the other, and the first C channels are some whole slabs.

#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "vectors.h"

// Channels [first, first + channels) of maps of `rows` pixels.
template <class T>
struct Maps {
    T* data;
    long rows, first, channels;

    T* slab(long s, long row) const { return data + (s * rows + row) * SLAB; }
    // Calls run(where, channel, count) for stretches of channels that lie in one slab, `where` of row 0.
    template <class F>
    inline __attribute__((always_inline)) void runs(F run) const {
        for (long c = 0; c < channels;) {
            const long at = first + c, count = std::min(channels - c, SLAB - at % SLAB);
            run(slab(at / SLAB, 0) + at % SLAB, c, count);
            c += count;
        }
    }
};

// A vector of channels, padded with zeros to whole slabs.
class Channels {
    std::vector<float> data;

   public:
    template <class F>
    Channels(long channels, F value) : data(slabs(channels) * SLAB) {
        for (long c = 0; c < channels; c++) data[c] = value(c);
    }
    const float* from(long channel) const { return data.data() + channel; }
    Vector at(long channel) const { return load(data.data() + channel); }
};

// Rows (pixels) that one task takes: by channels alone, so that the number of threads never changes a result. What a
// task reads and makes, and what is fetched for the next one, stays in a second-level cache of 512 KiB.
inline long chunk_rows(long channels) { return std::clamp<long>(8192 / channels / 16 * 16, 16, 128); }

// Rows that go through a product and what follows it while they are in the first-level cache.
constexpr long BLOCK = 32;

// Rows that the next task needs, fetched bit by bit between the tiles of this one.
template <class T, bool WRITTEN = false>
class Ahead {
    Maps<T> maps;
    long row, end, each;

   public:
    Ahead(Maps<T> maps, long row, long rows, long steps)
        : maps(maps), row(row), end(maps.data ? row + rows : row), each((rows + steps - 1) / steps) {}
    void step() {
        const long count = std::min(each, end - row);
        if (count <= 0) return;
        maps.runs([&](T* from, long, long many) __attribute__((always_inline)) {
            from += row * SLAB;
            if (2 * many > SLAB) return fetch<true, WRITTEN>(from, count * SLAB);
            for (long r = 0; r < count; r++) fetch<true, WRITTEN>(from + r * SLAB, many);
        });
        row += count;
    }
};

// The same of memory that lies together.
template <class T, bool WRITTEN = false>
class AheadOf {
    T *at, *end;
    long each;

   public:
    AheadOf(T* from, long count, long steps) : at(from), end(from + count), each((count + steps - 1) / steps) {}
    void step() {
        const long count = std::min(each, end - at);
        if (count <= 0) return;
        fetch<true, WRITTEN>(at, count);
        at += count;
    }
};

// Memory of a thread that its next tasks, and calls, use again: what is fresh from the system costs a fault a page.
template <int WHICH>
class Scratch {
    static std::vector<float>& memory() {
        static thread_local std::vector<float> kept;
        return kept;
    }
    size_t used = 0;

   public:
    explicit Scratch(size_t most) {
        if (memory().size() < most) std::vector<float>(most).swap(memory());
    }
    float* take(size_t count) {
        used += count;
        return memory().data() + used - count;
    }
};

// What a large vector of one call leaves, and one of the very same size in the next takes up, for the same reason. A network's
// sizes are the same in every step.
template <class T>
class Reused {
    static constexpr size_t LEAST = 1 << 15, MOST = 1 << 24;  // elements that one has, that lie idle in all
    struct Idle {
        std::vector<std::pair<T*, size_t>> blocks;  // the one left last at the end
        size_t elements = 0;
        void drop(size_t at) {
            elements -= blocks[at].second;
            blocks.erase(blocks.begin() + at);
        }
        ~Idle() {
            for (const auto& block : blocks) ::operator delete(block.first);
        }
    };
    static Idle& idle() {
        static thread_local Idle kept;
        return kept;
    }

   public:
    using value_type = T;
    bool operator==(const Reused&) const = default;

    T* allocate(size_t count) {
        const auto& blocks = idle().blocks;
        for (size_t at = blocks.size(); at-- > 0;)
            if (blocks[at].second == count) {
                T* found = blocks[at].first;
                idle().drop(at);
                return found;
            }
        return static_cast<T*>(::operator new(count * sizeof(T)));
    }
    void deallocate(T* data, size_t count) {
        if (count < LEAST || count > MOST) return ::operator delete(data);
        while (idle().elements + count > MOST) {
            ::operator delete(idle().blocks.front().first);
            idle().drop(0);
        }
        idle().blocks.emplace_back(data, count);
        idle().elements += count;
    }
};

using Floats = std::vector<float, Reused<float>>;

// Gradients are summed in segments of consecutive tasks, each with sums of its own, added up in order at the end.
class Segments {
    long tasks;
    Scratch<1> scratch;

   public:
    const long count, floats;
    float* const sums;

    Segments(long tasks, long floats)
        : tasks(tasks), scratch(most(tasks, floats) * floats), count(most(tasks, floats)), floats(floats), sums(scratch.take(count * floats)) {}
    static long most(long tasks, long floats) { return std::min(tasks, std::clamp<long>((1L << 23) / floats, 8, 32)); }
    long first(long segment) const { return tasks * segment / count; }
    float* begin(long segment) const {
        std::fill(sums + segment * floats, sums + (segment + 1) * floats, 0.0f);
        return sums + segment * floats;
    }
    // Within a parallel region: put(i, sum).
    template <class Put>
    void total(Put put) const {
        constexpr long STEP = 256;
#pragma omp for schedule(static)
        for (long from = 0; from < floats; from += STEP) {
            double sum[STEP] = {};
            const long many = std::min(STEP, floats - from);
            for (long s = 0; s < count; s++)
                for (long i = 0; i < many; i++) sum[i] += sums[s * floats + from + i];
            for (long i = 0; i < many; i++) put(from + i, float(sum[i]));
        }
    }
};

// The gradients that the passes back give for a convolution and the normalisation before it; the bias's may be missing.
struct Gradients {
    float *gamma, *beta, *kernel, *bias;
};

// Mean and biased variance a channel, from each task's own, merged in order.
struct Moments {
    long tasks, channels;
    Floats means, squares;
    std::vector<long> rows;

    Moments(long tasks, long channels)
        : tasks(tasks), channels(channels), means(tasks * channels), squares(tasks * channels), rows(tasks) {}

    // One task's own, of one vector of channels.
    void set(long task, long count, long channel, Vector mean, Vector square) {
        rows[task] = count;
        store(&means[task * channels + channel], mean, channels - channel);
        store(&squares[task * channels + channel], square, channels - channel);
    }
    void merge(float* mean, float* variance, long wanted) const {
        std::vector<double> middle(channels), off(channels);
        double total = 0;
        for (long t = 0; t < tasks; t++) {
            total += rows[t];
            for (long c = 0; c < channels; c++) middle[c] += double(rows[t]) * means[t * channels + c];
        }
        for (long c = 0; c < channels; c++) middle[c] /= total;
        for (long t = 0; t < tasks; t++)
            for (long c = 0; c < channels; c++) {
                const double d = means[t * channels + c] - middle[c];
                off[c] += squares[t * channels + c] + rows[t] * d * d;
            }
        for (long c = 0; c < wanted; c++) {
            mean[c] = float(middle[c]);
            variance[c] = float(off[c] / total);
        }
    }
};
