"""How far from the machine's limits a training step is: its ceilings, and what each network reaches of them.

    python benchmarks/roofline.py                                          # the paper's CIFAR networks, float32
    python benchmarks/roofline.py --dtype float32 bfloat16 --network densenet-bc-100-12

Ceilings: matrix products at their best, PyTorch's and the compiled loops', over several shapes; passes
over memory and over the cache. Then, for each network, the floor (the multiply-adds of a step, forward and both
gradients, at the ceiling of products: no step that multiplies so can be shorter), what `model.fit` achieves, and the
ratio. What lies between the two is passes over memory, copies, and Python.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from interleave import machine, race

from densely.architecture import spec
from densely.cost import multiply_adds, stages
from densely.kernels.native import library

NETWORKS = ["densenet-40-12", "densenet-bc-100-12", "densenet-bc-40-36", "densenet-fast"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Rows, inputs and outputs of products as they come in dense blocks, and a large square one.
SHAPES = [
    (4096, 168, 240),
    (65536, 128, 48),
    (65536, 288, 144),
    (16384, 512, 128),
    (4096, 1024, 1024),
    (2048, 2048, 2048),
]
BYTES = 2**28
"""Of the tensor that passes over memory read: larger than any cache."""


def best(work: Callable[[], object], seconds: float = 0.5) -> float:
    """Seconds of the fastest of many runs: a ceiling is what is possible."""
    work()
    found: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(found) < 3:
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def products(dtype: torch.dtype) -> tuple[float, str]:
    """GFLOP/s of the fastest product, and which it was: PyTorch's, or a 1×1 convolution by the compiled loops."""
    found: list[tuple[float, str]] = []
    for rows, inputs, outputs in SHAPES:
        a, b = torch.randn(rows, inputs, dtype=dtype), torch.randn(inputs, outputs, dtype=dtype)
        side = int(rows**0.5)
        image = a[: side * side].reshape(1, side, side, inputs).permute(0, 3, 1, 2)
        kernel = b.t().reshape(outputs, inputs, 1, 1)
        ways: list[tuple[str, int, Callable[[], object]]] = [
            ("mm", rows, functools.partial(torch.mm, a, b)),
            ("1×1 conv2d", side * side, functools.partial(torch.nn.functional.conv2d, image, kernel)),
        ]
        if library.usable(a):
            ways.append(("compiled loops", rows, compiled(rows, inputs, outputs, dtype)))
        for way, count, work in ways:
            speed = 2 * count * inputs * outputs / best(work) / 1e9
            found.append((speed, f"{way}, {count:,} × {inputs} by {inputs} × {outputs}"))
    return max(found)


def compiled(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> Callable[[], object]:
    """A 1×1 convolution as dense blocks do it, normalisation included."""
    slab = library.slab(dtype)
    x, y = (torch.randn(-(-channels // slab), rows, slab).to(dtype) for channels in (inputs, outputs))
    norm = [torch.rand(inputs) + 0.5 for _ in range(4)]
    kernel = torch.randn(1, 1, inputs, outputs)
    call, sizes = library.call, (rows, inputs, outputs)
    return lambda: call("pointwise_forward", dtype, *sizes, x, *norm, kernel, None, 1.0, None, y, None, None)


def passes(size: int) -> float:
    """GB/s, read and written, of y = x + x over tensors of so many bytes each."""
    x = torch.ones(size // 4)
    y = torch.empty_like(x)
    times = max(1, 2**24 // size)  # small ones many times, or the call itself would be measured

    def work() -> None:
        for _ in range(times):
            torch.add(x, x, out=y)

    return 2 * size * times / best(work) / 1e9


def floor(network: Any, ceiling: float) -> float:
    """Seconds an image that the products of a training step take at the ceiling: forward, and the gradients of inputs
    and kernels, but for the images themselves, whose gradient nobody wants."""
    forward = multiply_adds(network)
    return 2 * (3 * forward - stages(network)[0].multiply_adds) / (ceiling * 1e9)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=NETWORKS)
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=list(DTYPES))
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)

    print(machine(options.threads, "cpu"))
    print(f"\n{'memory':<10} {passes(BYTES):7.1f} GB/s\n{'cache':<10} {passes(2**17):7.1f} GB/s (128 KiB tensors)")
    ceilings = {}
    for dtype in options.dtype:
        ceilings[dtype], which = products(DTYPES[dtype])
        print(f"{dtype:<10} {ceilings[dtype]:7.1f} GFLOP/s ({which})")
    print(
        f"\nWhole steps of model.fit, batch {options.batch}, dropout {options.dropout:g}, medians of {options.rounds} "
        f"rounds of {options.steps} steps, seed {options.seed}\n\n"
        "| network | numbers | products of a step | floor | achieved | of the floor's speed |\n"
        "| --- | --- | ---: | ---: | ---: | ---: |"
    )
    for name in options.network:
        for dtype in options.dtype:
            task = {"network": name, "changes": {}, "dtype": dtype, "dropout": options.dropout, "batch": options.batch,
                    "steps": options.steps, "seed": options.seed, "device": "cpu"}  # fmt: skip
            result = race(["densely"], task, rounds=options.rounds, warmups=1, threads=options.threads)["densely"]
            network = spec(name)
            least = floor(network, ceilings[dtype])
            cost = f"| {name} | {dtype} | {least * ceilings[dtype]:.2f} GFLOP an image | {1 / least:.0f} img/s |"
            if result.failure:
                print(f"{cost} did not run: {result.failure} | |", flush=True)
                continue
            speed = options.batch * options.steps / statistics.median(result.seconds)
            print(f"{cost} {speed:.1f} img/s | {100 * speed * least:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
