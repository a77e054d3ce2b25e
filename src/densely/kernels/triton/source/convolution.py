"""A convolution with what stands before and after it: forward, and the three parts of its way back.

All kernels do 1×1 and 3×3: `TAPS` is 1 or 9. A 3×3 convolution is nine 1×1 ones on maps moved by a pixel, added up;
what moves in from outside the image is zero.
"""

import os

import triton
import triton.language as tl

from densely.kernels.triton.source.dropout import kept
from densely.kernels.triton.source.statistics import store_moments

# Numbers that differ from layer to layer: one compiled kernel does for all of them.
_SIZES = ["pixels", "height", "width", "in_units", "in_stride_units", "out_units", "bucket"]
_INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit(do_not_specialize=[*_SIZES, "out_stride_units", "out_first_units"])
def forward(
    x, gamma, beta, mean, rstd, kernel, bias, key, out, moments, pixels, height, width, in_units, in_stride_units,
    out_units, out_stride_units, out_first_units, factor, bucket,
    TAPS: tl.constexpr, DROPPED: tl.constexpr, IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = dropout(convolution(relu(norm(x)))), into its slice of longer rows."""
    channels, stride = in_units * IN_ALIGN, in_stride_units * IN_ALIGN
    filters, out_stride = out_units * OUT_ALIGN, out_stride_units * OUT_ALIGN
    tile = tl.program_id(0)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside, known = rows < pixels, columns < filters
    steps = tl.cdiv(channels, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(TAPS * steps):
        tap, terms = step // steps, step % steps * BLOCK_K + tl.arange(0, BLOCK_K)
        neighbours, there = _moved(rows, inside, tap, 1, height, width, TAPS)
        values, _ = _normalised(x, gamma, beta, mean, rstd, neighbours, there, terms, channels, stride)
        activation = tl.where(there[:, None], tl.where(values < 0, 0.0, values), 0.0)  # a NaN stays one
        weights = tl.load(
            kernel + (tap * channels + terms)[:, None] * filters + columns[None, :],
            mask=(terms < channels)[:, None] & known[None, :],
            other=0.0,
        )
        dtype = x.dtype.element_ty
        total = _product(activation.to(dtype), weights.to(dtype), total)
    if bias is not None:
        total += tl.load(bias + columns, mask=known, other=0.0).to(tl.float32)[None, :]
    if key is not None:
        total = tl.where(kept(key, rows, columns, filters, DROPPED), total * factor, 0.0)
    made = total.to(out.dtype.element_ty)
    slice_ = out + out_first_units * OUT_ALIGN
    at = slice_ + rows.to(tl.int64)[:, None] * out_stride + columns[None, :]
    tl.store(at, made, mask=inside[:, None] & known[None, :])
    if moments is not None:
        count = tl.minimum(pixels - tile * BLOCK_M, BLOCK_M)
        store_moments(moments, tile, made.to(tl.float32), inside, count, columns, filters)


@triton.jit(do_not_specialize=["pixels", "units", "source_stride_units", "maps_stride_units", "first_units"])
def complete(
    source, scale, maps, c, e, mean, key, out, sums, pixels, units, source_stride_units, maps_stride_units, first_units,
    factor,
    ALIGN: tl.constexpr, DROPPED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out = dropout's mask·(source·scale + c + e·(maps - mean)) of some channels; sums (tiles, channels) = a tile's."""
    channels = units * ALIGN
    tile = tl.program_id(0)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = columns < channels
    there = (rows < pixels)[:, None] & known[None, :]
    long_rows = rows.to(tl.int64)[:, None]
    read = first_units * ALIGN + columns
    value = tl.load(source + long_rows * (source_stride_units * ALIGN) + read[None, :], mask=there, other=0.0)
    if scale is not None:
        value *= tl.load(scale + columns, mask=known, other=0.0)[None, :]
    if c is not None:
        y = tl.load(maps + long_rows * (maps_stride_units * ALIGN) + read[None, :], mask=there, other=0.0)
        distance = y.to(tl.float32) - tl.load(mean + columns, mask=known, other=0.0)[None, :]
        value += distance * tl.load(e + columns, mask=known, other=0.0)[None, :]
        value += tl.load(c + columns, mask=known, other=0.0)[None, :]
    if key is not None:
        value = tl.where(kept(key, rows, columns, channels, DROPPED), value * factor, 0.0)
    tl.store(out + long_rows * channels + columns[None, :], value.to(out.dtype.element_ty), mask=there)
    if sums is not None:
        tl.store(sums + tile * channels + columns, tl.sum(tl.where(there, value, 0.0), 0), mask=known)


@triton.jit(do_not_specialize=[*_SIZES, "to_stride_units"])
def data_gradient(
    gradient, kernel, x, gamma, beta, mean, rstd, source, to, sums, pixels, height, width, in_units, in_stride_units,
    out_units, to_stride_units, bucket,
    TAPS: tl.constexpr, IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """d, the gradient at norm(x); to = d or source + s·d; sums (tiles, 2, channels) = a tile's Σ d and Σ d·x̂."""
    channels, stride, to_stride = in_units * IN_ALIGN, in_stride_units * IN_ALIGN, to_stride_units * IN_ALIGN
    filters = out_units * OUT_ALIGN
    tile = tl.program_id(0)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside, known = rows < pixels, columns < channels
    steps = tl.cdiv(filters, BLOCK_K)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(TAPS * steps):
        tap, terms = step // steps, step % steps * BLOCK_K + tl.arange(0, BLOCK_K)
        # What a tap took from here went to the pixel on the other side.
        neighbours, there = _moved(rows, inside, tap, -1, height, width, TAPS)
        back = tl.load(
            gradient + neighbours.to(tl.int64)[:, None] * filters + terms[None, :],
            mask=there[:, None] & (terms < filters)[None, :],
            other=0.0,
        )
        weights = tl.load(
            kernel + (tap * channels + columns)[None, :] * filters + terms[:, None],
            mask=(terms < filters)[:, None] & known[None, :],
            other=0.0,
        )
        total = _product(back, weights.to(back.dtype), total)
    values, normalised = _normalised(x, gamma, beta, mean, rstd, rows, inside, columns, channels, stride)
    there = inside[:, None] & known[None, :]
    d = tl.where(there & ~(values <= 0), total, 0.0)
    at = sums + tile * 2 * channels + columns
    tl.store(at, tl.sum(d, 0), mask=known)
    tl.store(at + channels, tl.sum(d * normalised, 0), mask=known)
    place = rows.to(tl.int64)[:, None] * to_stride + columns[None, :]
    if source is not None:
        scale = tl.load(gamma + columns, mask=known, other=0.0) * tl.load(rstd + columns, mask=known, other=0.0)
        d = tl.load(source + place, mask=there, other=0.0) + d * scale[None, :]
    tl.store(to + place, d, mask=there)


@triton.jit(do_not_specialize=[*_SIZES, "group_rows"])
def kernel_gradient(
    x, gamma, beta, mean, rstd, gradient, sums, pixels, height, width, group_rows, in_units, in_stride_units, out_units,
    bucket,
    TAPS: tl.constexpr, IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """sums (groups, TAPS, channels, filters): the kernel's gradient from a group of pixels; BLOCK_K of the channels."""
    channels, stride, filters = in_units * IN_ALIGN, in_stride_units * IN_ALIGN, out_units * OUT_ALIGN
    group, blocks = tl.program_id(0), tl.cdiv(filters, BLOCK_N)
    terms = tl.program_id(1) // blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    columns = tl.program_id(1) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    tap = tl.program_id(2)
    total = tl.zeros([BLOCK_K, BLOCK_N], tl.float32)
    for first in range(group * group_rows, tl.minimum(group * group_rows + group_rows, pixels), BLOCK_M):
        rows = first + tl.arange(0, BLOCK_M)
        inside = rows < pixels
        neighbours, there = _moved(rows, inside, tap, 1, height, width, TAPS)
        values, _ = _normalised(x, gamma, beta, mean, rstd, neighbours, there, terms, channels, stride)
        activation = tl.where(there[:, None], tl.where(values < 0, 0.0, values), 0.0)
        back = tl.load(
            gradient + rows.to(tl.int64)[:, None] * filters + columns[None, :],
            mask=inside[:, None] & (columns < filters)[None, :],
            other=0.0,
        )
        total = _product(tl.trans(activation.to(back.dtype)), back, total)
    at = sums + (((group * TAPS + tap) * channels + terms) * filters)[:, None] + columns[None, :]
    tl.store(at, total, mask=(terms < channels)[:, None] & (columns < filters)[None, :])


@triton.jit
def _product(a, b, total):
    """total + a·b, summed in float32; float32 numbers are not rounded to fewer bits."""
    if _INTERPRETED:  # where there is no bfloat16 arithmetic
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _moved(rows, inside, tap, sign, height, width, TAPS: tl.constexpr):
    """The pixels that a tap of the kernel looks at, and whether they lie in the same image."""
    if TAPS == 1:
        return rows, inside
    down, right = (tap // 3 - 1) * sign, (tap % 3 - 1) * sign
    row, column = rows // width % height + down, rows % width + right
    there = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return rows + down * width + right, there


@triton.jit
def _normalised(x, gamma, beta, mean, rstd, rows, there, columns, channels, stride):
    """γ·x̂ + β and x̂ in float32, of pixels that are there."""
    known = columns < channels
    maps = tl.load(
        x + rows.to(tl.int64)[:, None] * stride + columns[None, :], mask=there[:, None] & known[None, :], other=0.0
    )
    centre = tl.load(mean + columns, mask=known, other=0.0)
    rate = tl.load(rstd + columns, mask=known, other=0.0)
    factor = tl.load(gamma + columns, mask=known, other=0.0)
    shift = tl.load(beta + columns, mask=known, other=0.0)
    distance = maps.to(tl.float32) - centre[None, :]
    return distance * (factor * rate)[None, :] + shift[None, :], distance * rate[None, :]
