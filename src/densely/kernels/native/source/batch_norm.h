// Batch normalisation that stands alone, in rows of all channels.

#pragma once
#include "rows.h"

// y = (x - mean)·rstd·gamma + beta.
template <class T>
void batch_norm_forward(long rows, const T* x, const Norm& norm, T* y, int threads) {
    const long channels = norm.channels;
    const Affine affine(norm);
    for_chunks(rows, channels, threads, [&](long first, long count) {
        for (long r = first; r < first + count; r++)
            for (long c = 0; c < channels; c += LANES) {
                const long at = r * channels + c, lanes = channels - c;
                store(y + at, (load(x + at, lanes) - affine.mean.at(c)) * affine.scale.at(c) + affine.beta.at(c), lanes);
            }
    });
}

// Gradients of gamma and beta, and where `dx` is there, dx = gamma·rstd·(dy - Σdy/M - x̂·Σ(dy·x̂)/M).
template <class T>
void batch_norm_backward(
    long rows, const T* x, const Norm& norm, const T* dy, float* gamma_gradient, float* beta_gradient, T* dx, int threads) {
    const long channels = norm.channels, chunk = chunk_rows(channels), tasks = (rows + chunk - 1) / chunk;
    const Channels mean(channels, [&](long c) { return norm.mean[c]; }), rstd(channels, [&](long c) { return norm.rstd[c]; });
    const long gap = slabs(channels) * SLAB;
    Floats sums(tasks * 2 * gap);  // of a task's rows, then in double
    for_chunks(rows, channels, threads, [&](long first, long count) {
        float* own = sums.data() + first / chunk * 2 * gap;
        for (long c = 0; c < channels; c += LANES) {
            Vector sum = {}, product = {};
            for (long at = first * channels + c; at < (first + count) * channels; at += channels) {
                const Vector g = load(dy + at, channels - c);
                sum += g;
                product += g * ((load(x + at, channels - c) - mean.at(c)) * rstd.at(c));
            }
            store(own + c, sum);
            store(own + gap + c, product);
        }
    });
    std::vector<double> all(2 * gap);
    for (long task = 0; task < tasks; task++)
        for (long i = 0; i < 2 * gap; i++) all[i] += sums[task * 2 * gap + i];
    for (long c = 0; c < channels; c++) {
        beta_gradient[c] = float(all[c]);
        gamma_gradient[c] = float(all[gap + c]);
    }
    if (!dx) return;
    const Channels scale(channels, [&](long c) { return norm.gamma[c] * norm.rstd[c]; });
    const Channels shift(channels, [&](long c) { return beta_gradient[c] / float(rows); });
    const Channels slope(channels, [&](long c) { return gamma_gradient[c] * norm.rstd[c] / float(rows); });
    for_chunks(rows, channels, threads, [&](long first, long count) {
        for (long r = first; r < first + count; r++)
            for (long c = 0; c < channels; c += LANES) {
                const long at = r * channels + c, lanes = channels - c;
                const Vector off = load(x + at, lanes) - mean.at(c);
                store(dx + at, scale.at(c) * (load(dy + at, lanes) - shift.at(c) - off * slope.at(c)), lanes);
            }
    });
}
