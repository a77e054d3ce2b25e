"""C++ or Numba for the compiled loops: one 1×1 convolution of a dense block, written in both.

    pip install numba && python benchmarks/compiled_loops.py

Normalise, ReLU, product, mean and variance of what comes out, a chunk of rows at a time while it is in the cache: the
forward half of a layer. Numba has no vector registers to name, so its products are BLAS's (`numpy.dot`, a chunk at a
time) or loops that LLVM vectorises; the C++ is the one that Densely uses, whose products are tiles in registers.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

# Numba's threads each call BLAS for their own chunk.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numba
import numpy as np
import torch
from interleave import machine
from numpy.typing import NDArray

from densely.kernels.native import library

CHUNK = 64
SHAPES = [(65536, 120, 48), (65536, 200, 48), (16384, 300, 48), (65536, 128, 128)]
Array = NDArray[np.float32]


@numba.njit(parallel=True, fastmath=True)  # type: ignore[untyped-decorator]
def by_blas(x: Array, scale: Array, shift: Array, w: Array, y: Array, sums: Array) -> None:
    """y = ReLU(x·scale + shift) @ w and the sums of y and y², a chunk a turn."""
    rows, inputs = x.shape
    for chunk in numba.prange(rows // CHUNK):
        first = chunk * CHUNK
        a = np.empty((CHUNK, inputs), np.float32)
        for i in range(CHUNK):
            for c in range(inputs):
                a[i, c] = max(x[first + i, c] * scale[c] + shift[c], np.float32(0))
        part = np.dot(a, w)
        for i in range(CHUNK):
            for o in range(part.shape[1]):
                y[first + i, o] = part[i, o]
                sums[chunk, 0, o] += part[i, o]
                sums[chunk, 1, o] += part[i, o] * part[i, o]


@numba.njit(parallel=True, fastmath=True)  # type: ignore[untyped-decorator]
def by_loops(x: Array, scale: Array, shift: Array, w: Array, y: Array, sums: Array) -> None:
    """The same with the product in loops, a row at a time, which stays in the first cache."""
    rows, inputs = x.shape
    for chunk in numba.prange(rows // CHUNK):
        for i in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            row = y[i]
            row[:] = 0
            for c in range(inputs):
                a = max(x[i, c] * scale[c] + shift[c], np.float32(0))
                for o in range(len(row)):
                    row[o] += a * w[c, o]
            for o in range(len(row)):
                sums[chunk, 0, o] += row[o]
                sums[chunk, 1, o] += row[o] * row[o]


def contest(rows: int, inputs: int, outputs: int, rounds: int) -> None:
    """Times both ways on one shape, and checks that they find the same."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs), dtype=np.float32)
    w = rng.standard_normal((inputs, outputs), dtype=np.float32)
    gamma, beta, mean, rstd = (rng.random(inputs, dtype=np.float32) + 0.5 for _ in range(4))
    scale = gamma * rstd
    shift = beta - mean * scale
    y, sums = np.empty((rows, outputs), np.float32), np.zeros((rows // CHUNK, 2, outputs), np.float32)

    slab = library.slab(torch.float32)
    into, out = (torch.empty(-(-channels // slab), rows, slab) for channels in (inputs, outputs))
    library.call("take_in", torch.float32, rows, inputs, torch.from_numpy(x), into, None, None)
    norm = [torch.from_numpy(t) for t in (gamma, beta, mean, rstd)]
    kernel = torch.from_numpy(w).view(1, 1, inputs, outputs)
    found = torch.empty(outputs), torch.empty(outputs)
    native, given = torch.empty(rows, outputs), (x, scale, shift, w, y, sums)

    def cpp() -> None:
        library.call("pointwise_forward", torch.float32, rows, inputs, outputs, into, *norm, kernel, None, 1.0, None,
                     out, *found)  # fmt: skip

    cpp()
    library.call("give_out", torch.float32, rows, outputs, out, native)
    for way in (by_blas, by_loops):
        way(*given)
        np.testing.assert_allclose(y, native.numpy(), rtol=1e-3, atol=1e-3)
    ways: dict[str, Callable[[], object]] = {
        "C++": cpp,
        "Numba, BLAS": lambda: by_blas(*given),
        "Numba, loops": lambda: by_loops(*given),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            began = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - began)
            time.sleep(0.05)  # the threads of one pool spin for a moment after their work
    products = 2 * rows * inputs * outputs / 1e9
    told = []
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(seconds, times["C++"], strict=True))
        told.append(f"{name} {products / statistics.median(seconds):.0f} GFLOP/s ({ratio:.2f} × the time)")
    print(f"{rows:,} × {inputs} to {outputs}: {', '.join(told)}")


def main() -> None:
    """All shapes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(options.threads)
    print(f"{machine(options.threads, 'cpu')}, numba {numba.__version__}, {options.rounds} rounds")
    for shape in SHAPES:
        contest(*shape, options.rounds)


if __name__ == "__main__":
    main()
