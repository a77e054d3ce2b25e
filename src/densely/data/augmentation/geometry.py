"""Where the pixels go: shift, mirror, turn, cut out and enlarge, every image on its own.

The shift and the mirror are the paper's augmentation (its "+" columns). `keras.layers.RandomCrop` crops all images of
a batch at one place, so this is written here, without a Python loop.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from densely.data.augmentation.affine import affine, matrices
from densely.errors import UsageError

Images = TypeVar("Images", NDArray[np.uint8], NDArray[np.float32])
Fill = float | Sequence[float] | Literal["reflect"]


def shift_and_flip(
    images: Images,
    rng: np.random.Generator,
    *,
    shift: int = 4,
    flip: bool | NDArray[np.bool_] = True,
    fill: Fill = 0,
) -> Images:
    """Move each image by its own random offset, and mirror each with probability one half or those that are named.

    Args:
        images: (n, h, w, c), uint8 or float32; not changed.
        rng: what is drawn, in this order: n vertical offsets, n horizontal ones, n coins (none if `flip` names them).
        shift: largest offset, in pixels, in each direction; every offset in -shift..shift is equally likely (pad by
            `shift` on all sides, crop back to h x w). 0 does not move.
        flip: whether to mirror left to right, or which images, bool (n,); leave it off where that changes the meaning
            (digits, text).
        fill: what comes in at the border: one value, one per channel, or `"reflect"`. On images whose mean has been
            subtracted, 0 is the mean colour; on raw pixels, give the mean colour for the same effect.

    Returns:
        New images of the same shape and type.

    Raises:
        UsageError: the shift is negative or too large to reflect, or `fill` does not fit the images.
    """
    n, h, w, c = images.shape
    if shift < 0:
        raise UsageError(f"The shift is {shift} pixels: it must not be negative.")
    down, right = rng.integers(0, 2 * shift + 1, size=(2, n))
    if isinstance(flip, np.ndarray):
        mirrored = flip
    else:
        mirrored = np.less(rng.random(n), 0.5) if flip else np.zeros(n, dtype=np.bool_)

    padded = _pad(images, shift, fill)
    height, width = padded.shape[1:3]
    rows = down[:, None] + np.arange(h)
    columns = np.where(mirrored[:, None], np.arange(w)[::-1], np.arange(w)) + right[:, None]
    # One flat gather of whole pixels: several times faster than indexing three axes.
    first = np.arange(n)[:, None] * height + rows
    pixels = first[:, :, None] * width + columns[:, None, :]
    moved: Images = padded.reshape(-1, c).take(pixels, axis=0)
    return moved


def flip_vertically(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn each image (n, h, w, c) upside down, mirrored, with probability one half: where up has no meaning."""
    upset = rng.random(len(images)) < 0.5
    return np.where(upset[:, None, None, None], images[:, ::-1], images)


def turn(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Turn each image (n, h, w, c) by 0, 1, 2 or 3 quarters, equally likely: where no side is the upper one.

    Raises:
        UsageError: the images are not square.
    """
    n, h, w, _ = images.shape
    if h != w:
        raise UsageError(f"Images of {h}x{w} cannot be turned by a quarter: make them square, or leave turns out.")
    quarters = rng.integers(4, size=n)
    turned = images.copy()
    for count in (1, 2, 3):
        turned[quarters == count] = np.rot90(images[quarters == count], count, axes=(1, 2))
    return turned


def zoom_and_crop(
    images: NDArray[np.uint8],
    rng: np.random.Generator,
    least: float = 0.35,
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> NDArray[np.uint8]:
    """Cut a random rectangle out of each image and enlarge it to the image's size (bilinear).

    Args:
        images: uint8 (n, h, w, c); not changed.
        rng: what is drawn, in this order: n areas, n ratios, n vertical places, n horizontal ones.
        least: the smallest area, as a share of the image, above 0 and at most 1; every area from there to 1 is equally
            likely.
        ratio: smallest and largest width over height of the rectangle, in units of the image's own; its logarithm is
            equally distributed. A side longer than the image's is cut to it.

    Returns:
        New images of the same shape and type.

    Raises:
        UsageError: `least` is out of range, or `ratio` not two positive numbers in order.

    Source: C. Szegedy et al., *Going Deeper with Convolutions*, CVPR 2015, with a larger smallest area (theirs is
    0.08): few images are better shown whole than as fragments.
    """
    if not 0 < least <= 1:
        raise UsageError(f"The smallest crop is {least} of an image: it must be above 0 and at most 1.")
    if not 0 < ratio[0] <= ratio[1]:
        raise UsageError(f"The ratio of crops is {ratio}: it must be two positive numbers, the smaller first.")
    n, h, w, _ = images.shape
    area = rng.uniform(least, 1, n)
    stretch = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]), n))
    tall, wide = np.minimum(np.sqrt(area / stretch), 1), np.minimum(np.sqrt(area * stretch), 1)
    # The centre of the rectangle lies as far from the image's centre as its sides allow.
    down, right = rng.uniform(-0.5, 0.5, (2, n)) * np.stack([(1 - tall) * h, (1 - wide) * w])
    moves = matrices(n, down=down, right=right, zoom_down=tall, zoom_right=wide)
    return affine(images, moves, border="reflect")


def _pad(images: Images, shift: int, fill: Fill) -> Images:
    n, h, w, c = images.shape
    if isinstance(fill, str):
        if fill != "reflect":
            raise UsageError(f"The fill is {fill!r}: it must be a number, one per channel, or 'reflect'.")
        if shift >= min(h, w):
            raise UsageError(f"A shift of {shift} pixels cannot reflect images of {h}x{w}: make it smaller.")
        return np.pad(images, ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="reflect")
    colour = np.asarray(fill, dtype=np.float64)
    if colour.shape not in ((), (1,), (c,)):
        raise UsageError(
            f"The fill has {colour.size} values and the images {c} channels: give one, or one per channel."
        )
    if images.dtype == np.uint8:
        colour = np.rint(colour)
        if colour.min() < 0 or colour.max() > 255:
            raise UsageError(f"The fill {fill} is outside the pixels' 0..255: choose a colour within.")
    padded = np.empty((n, h + 2 * shift, w + 2 * shift, c), dtype=images.dtype)
    padded[:] = colour.astype(images.dtype)
    padded[:, shift : shift + h, shift : shift + w] = images
    return padded
