"""Dropout's bits: the numbers that `densely.kernels.dropout`, which says what they are, has for the same key."""

import triton
import triton.language as tl


@triton.jit
def kept(key, rows, columns, channels, DROPPED: tl.constexpr):
    """Whether elements of (M, channels) maps are kept: (rows, columns) of booleans.

    `key` points to two numbers of 32 bits; DROPPED of 65,536 equally likely values mean "drop".
    """
    RARER: tl.constexpr = 65536 - DROPPED if 2 * DROPPED > 65536 else DROPPED
    first, second = tl.load(key).to(tl.uint32), tl.load(key + 1).to(tl.uint32)
    elements = rows[:, None].to(tl.int64) * channels + columns[None, :]
    drawn = _mixed((elements >> 2).to(tl.uint32), first, second) >> ((elements & 3) * 8).to(tl.uint32) & 255
    extra = _mixed((elements >> 8).to(tl.uint32), second, first) & 255
    limits = RARER // 256 + (extra < RARER % 256).to(tl.uint32)
    if 2 * DROPPED > 65536:
        return drawn < limits
    return drawn >= limits


@triton.jit
def _mixed(numbers, first, second):
    return _round(_round(numbers + first) ^ second)


@triton.jit
def _round(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)
