// Three taps down the rows by four products for two rows in place of six: F(2, 3) of Winograd (1980), as Lavin & Gray (2016)
// use it, in one dimension. Of rows d0 to d3 and taps g0 to g2,
//
//   m1 = (d1 + d2)·(g0 + g1 + g2)/2,  m2 = (d2 - d1)·(g0 - g1 + g2)/2,  m0 = (d0 - d2)·g0,  m3 = (d1 - d3)·g2,
//   row 1 = (m1 + m2) + m0,  row 2 = (m1 - m2) - m3.
//
// Gradients of the taps, from the same rows d of one side and two rows a of the other:
//
//   m1 = (d1 + d2)·(a0 + a1)/2,  m2 = (d2 - d1)·(a0 - a1)/2,  m0 = (d0 - d2)·a0,  m3 = (d1 - d3)·a1,
//   tap 0 = (m1 + m2) + m0,  tap 1 = m1 - m2,  tap 2 = (m1 + m2) - m3.
//
// "Turned" are the four factors of one side, in the order 1, 2, 0, 3 in which they are used. Taps carry the sign of m3.

#pragma once
#include "maps.h"

// a, b = a + b, a - b.
inline void sum_and_difference(float* a, float* b, long floats) {
    for (long i = 0; i < floats; i += LANES) {
        const Vector one = load(a + i), other = load(b + i);
        store(a + i, one + other);
        store(b + i, one - other);
    }
}

// Four rows turned; `gap` between the four.
inline void turn_rows(float* to, long gap, const float* r0, const float* r1, const float* r2, const float* r3, long floats) {
    for (long i = 0; i < floats; i += LANES) {
        const long lanes = floats - i;
        const Vector d0 = load(r0 + i, lanes), d1 = load(r1 + i, lanes), d2 = load(r2 + i, lanes), d3 = load(r3 + i, lanes);
        store(to + i, d1 + d2, lanes);
        store(to + gap + i, d2 - d1, lanes);
        store(to + 2 * gap + i, d0 - d2, lanes);
        store(to + 3 * gap + i, d1 - d3, lanes);
    }
}

// The first two factors of two rows a that lie one after the other, `gap` between them; the others are the rows themselves.
inline void halves(float* to, long gap, const float* a, long floats) {
    const Vector half = splat(0.5f);
    for (long i = 0; i < floats; i += LANES) {
        const Vector a0 = load(a + i), a1 = load(a + floats + i);
        store(to + i, (a0 + a1) * half);
        store(to + gap + i, (a0 - a1) * half);
    }
}

// A kernel (3, taps) turned, (4, taps); from the last row of taps to the first if it is wanted upside down.
inline Floats turned_taps(const float* kernel, long taps, bool upside_down) {
    const float *g0 = kernel + (upside_down ? 2 * taps : 0), *g1 = kernel + taps, *g2 = kernel + (upside_down ? 0 : 2 * taps);
    Floats turned(4 * taps);
    for (long i = 0; i < taps; i++) {
        turned[i] = (g0[i] + g1[i] + g2[i]) / 2;
        turned[taps + i] = (g0[i] - g1[i] + g2[i]) / 2;
        turned[2 * taps + i] = g0[i];
        turned[3 * taps + i] = -g2[i];
    }
    return turned;
}
