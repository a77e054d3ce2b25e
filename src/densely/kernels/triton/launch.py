"""Which tile a kernel works on, and its start.

How pixels are cut up, and with it the order of all sums, depends on shapes alone. What is left (how many terms of a
product are taken at once, warps, stages) is tried out by Triton once a size and GPU, when a kernel first meets it: call
a block once before capturing it in a CUDA graph. Under `torch.use_deterministic_algorithms` nothing is tried out, so
that results are the same in every process; and none is in Triton's interpreter.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import triton

from densely.kernels.triton.source import convolution, statistics

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_PROGRAMS = 512  # what keeps the largest GPUs busy: some for each of their 130 multiprocessors


def _tuned(kernel: Any, block: str, *choices: tuple[int, int, int], restore: Sequence[str] = ()) -> Any:
    """The kernel with a side of its tile, warps and stages to choose from; the first choice where nothing is tried."""
    configs = [triton.Config({block: side}, num_warps=warps, num_stages=stages) for side, warps, stages in choices]
    return triton.autotune(
        configs[:1] if _INTERPRETED else configs,
        key=["bucket", "TAPS"],
        restore_value=restore,
        prune_configs_by={
            "early_config_prune": lambda configs, _, **__: (
                configs[:1] if torch.are_deterministic_algorithms_enabled() else configs
            )
        },
    )(kernel)


forward = _tuned(convolution.forward, "BLOCK_K", (64, 8, 2), (32, 8, 3), (32, 4, 3))
data_gradient = _tuned(convolution.data_gradient, "BLOCK_N", (64, 8, 2), (32, 4, 3), restore=["to"])
kernel_gradient = _tuned(convolution.kernel_gradient, "BLOCK_K", (64, 4, 2), (32, 4, 3), (64, 8, 3))
complete, take_in, merge_moments = convolution.complete, statistics.take_in, statistics.merge_moments


def launch(kernel: Any, grid: Any, on: torch.Tensor, *arguments: Any, **settings: Any) -> None:
    """Starts a kernel on a tensor's device."""
    with torch.cuda.device_of(on):  # type: ignore[no-untyped-call]
        kernel[grid](*arguments, **settings, enable_fp_fusion=True)


def rows_of_a_tile(pixels: int) -> int:
    """Enough tiles to keep a GPU busy, as large as that leaves them."""
    return 128 if pixels >= 1 << 16 else 64 if pixels >= 1 << 14 else 32


def columns_of_a_tile(channels: int, most: int) -> int:
    """A power of two, at least the 16 that a product of matrices needs."""
    return min(most, max(16, 1 << (channels - 1).bit_length()))


def groups_of_rows(pixels: int, programs_each: int) -> tuple[int, int]:
    """How many groups to sum over the pixels in, and how large: a multiple of 64."""
    groups = max(1, _PROGRAMS // programs_each)
    rows = 64 * math.ceil(pixels / (64 * groups))
    return math.ceil(pixels / rows), rows


def bucket(pixels: int, channels: int) -> int:
    """What sizes to tune as one."""
    return 64 * pixels.bit_length() + channels.bit_length()


def alignment(*numbers: int) -> int:
    """The largest power of two up to 16 that divides them all."""
    return math.gcd(16, *numbers)
