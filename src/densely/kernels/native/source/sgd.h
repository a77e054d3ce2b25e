// A step of SGD with momentum and coupled decay.

#pragma once
#include "vectors.h"

// One parameter: weights, gradients, velocity (missing without momentum), how many.
struct Parameter {
    float* w;
    const float* g;
    float* v;
    long count;
};

inline void sgd(const Parameter* parameters, long count, float rate, float momentum, float decay, bool nesterov, int threads) {
    constexpr long PART = 4096;  // of a parameter, a task
    std::vector<std::pair<long, long>> parts;
    for (long p = 0; p < count; p++)
        for (long first = 0; first < parameters[p].count; first += PART) parts.emplace_back(p, first);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < parts.size(); i++) {
        const Parameter& p = parameters[parts[i].first];
        const long first = parts[i].second, last = std::min(first + PART, p.count);
        for (long at = first; at < last; at += LANES) {
            const long lanes = last - at;
            const Vector w = load(p.w + at, lanes), step = (load(p.g + at, lanes) + w * decay) * -rate;
            if (!p.v) {
                store(p.w + at, w + step, lanes);
                continue;
            }
            const Vector v = load(p.v + at, lanes) * momentum + step;
            store(p.v + at, v, lanes);
            store(p.w + at, w + (nesterov ? v * momentum + step : v), lanes);
        }
    }
}
