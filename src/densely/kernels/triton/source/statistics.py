"""Mean and variance of every channel: each tile's own, around its own mean, and then all tiles' merged.

Plain sums of x and x² would lose the variance where a mean is large. Chan, Golub and LeVeque, *Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances* (1979), merge them without.
"""

import triton
import triton.language as tl


@triton.jit
def store_moments(moments, tile, values, inside, count, columns, channels):
    """Row `tile` of (tiles, 2, channels): mean, and the squared distances from it, of the rows inside the maps."""
    mean = tl.sum(tl.where(inside[:, None], values, 0.0), 0) / count
    distances = tl.where(inside[:, None], values - mean[None, :], 0.0)
    at = moments + tile * 2 * channels + columns
    tl.store(at, mean, mask=columns < channels)
    tl.store(at + channels, tl.sum(distances * distances, 0), mask=columns < channels)


@triton.jit(do_not_specialize=["pixels", "channel_units", "stride_units"])
def take_in(
    x, out, moments, pixels, channel_units, stride_units,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Copies maps to where there is an `out`, and leaves each tile's moments."""
    channels, stride = channel_units * ALIGN, stride_units * ALIGN
    tile = tl.program_id(0)
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside, known = rows < pixels, columns < channels
    long_rows = rows.to(tl.int64)[:, None]
    values = tl.load(x + long_rows * channels + columns[None, :], mask=inside[:, None] & known[None, :], other=0.0)
    if out is not None:
        tl.store(out + long_rows * stride + columns[None, :], values, mask=inside[:, None] & known[None, :])
    count = tl.minimum(pixels - tile * BLOCK_M, BLOCK_M)
    store_moments(moments, tile, values.to(tl.float32), inside, count, columns, channels)


@triton.jit(do_not_specialize=["tiles", "pixels", "channels", "ROWS"])
def merge_moments(moments, merged, tiles, pixels, channels, ROWS, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr):
    """(2, channels): mean and biased variance of all pixels, from tiles of ROWS of them (the last may have fewer)."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = columns < channels
    # Relative to one tile's mean what is averaged is small, and nothing is rounded away.
    origin = tl.load(moments + columns, mask=known, other=0.0)
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for start in range(0, tiles, BLOCK_T):
        mean, _, count = _tiles(moments, start, tiles, pixels, columns, channels, ROWS, BLOCK_T)
        total += count * (mean - origin[None, :])
    mean_of_all = origin + tl.sum(total, 0) / pixels
    total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for start in range(0, tiles, BLOCK_T):
        mean, squares, count = _tiles(moments, start, tiles, pixels, columns, channels, ROWS, BLOCK_T)
        distances = mean - mean_of_all[None, :]
        total += squares + count * distances * distances
    tl.store(merged + columns, mean_of_all, mask=known)
    tl.store(merged + channels + columns, tl.sum(total, 0) / pixels, mask=known)


@triton.jit
def _tiles(moments, start, tiles, pixels, columns, channels, ROWS, BLOCK_T: tl.constexpr):
    tile = start + tl.arange(0, BLOCK_T)
    there = (tile < tiles)[:, None] & (columns < channels)[None, :]
    at = moments + tile[:, None] * 2 * channels + columns[None, :]
    mean = tl.load(at, mask=there, other=0.0)
    squares = tl.load(at + channels, mask=there, other=0.0)
    count = tl.minimum(tl.maximum(pixels - tile * ROWS, 0), ROWS).to(tl.float32)
    return mean, squares, count[:, None]
