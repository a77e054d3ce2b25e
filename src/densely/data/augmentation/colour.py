"""Changes of light and colour, each image by its own strength; uint8 (n, h, w, c) in and out, any number of channels.

They follow Pillow's `ImageEnhance` and `ImageOps`, which the papers on automatic augmentation used, but round where
Pillow truncates. Strengths are float (n,), one an image.
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Strengths = NDArray[np.float64]

_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601: how bright red, green and blue look."""


def brightness(images: Bytes, factor: Strengths) -> Bytes:
    """Multiply the pixels: 0 is black, 1 changes nothing."""
    return _blend(np.float32(0), images, factor)


def contrast(images: Bytes, factor: Strengths) -> Bytes:
    """Pull the pixels towards the image's mean grey (0), or away from it (above 1)."""
    return _blend(_grey(images).mean((1, 2), keepdims=True), images, factor)


def saturation(images: Bytes, factor: Strengths) -> Bytes:
    """Pull the pixels of RGB images towards their own grey (0), or away from it (above 1)."""
    return _blend(_grey(images), images, factor)


def sharpness(images: Bytes, factor: Strengths) -> Bytes:
    """Blur (0) or sharpen (above 1) with the kernel [1 1 1; 1 5 1; 1 1 1] / 13; the outermost pixels stay."""
    wide = images.astype(np.uint16)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = images.astype(np.float32)
    smooth[:, 1:-1, 1:-1] = (box + 4 * wide[:, 1:-1, 1:-1]) / np.float32(13)
    return _blend(smooth, images, factor)


def posterize(images: Bytes, bits: Strengths) -> Bytes:
    """Keep the highest 1 to 8 `bits` (whole numbers) of each pixel."""
    mask = 256 - 2 ** (8 - bits.astype(np.int64))
    return images & mask.astype(np.uint8)[:, None, None, None]


def solarize(images: Bytes, threshold: Strengths) -> Bytes:
    """Invert the pixels that are not below `threshold`, 0 to 256."""
    return np.where(images < threshold.astype(np.float32)[:, None, None, None], images, 255 - images)


def autocontrast(images: Bytes) -> Bytes:
    """Stretch each channel of each image to the whole of 0..255; one that is flat stays."""
    # One axis after the other: NumPy is ten times slower over both, so few are the channels between them.
    low = images.min(axis=1, keepdims=True).min(axis=2, keepdims=True)
    high = images.max(axis=1, keepdims=True).max(axis=2, keepdims=True)
    span = (high - low).astype(np.float32)
    stretched = (images - low) * (np.float32(255) / np.where(span > 0, span, 1))
    return np.where(span > 0, _rounded(stretched), images)


def equalize(images: Bytes) -> Bytes:
    """Make all grey levels of each channel of each image equally frequent; one that is flat stays.

    The textbook's formula on exact counts: Pillow's whole steps of 1/255 do nothing to images below 255 pixels.
    """
    n, h, w, c = images.shape
    # Every channel of every image has 256 places of its own in one long histogram.
    place = np.arange(n * c).reshape(n, 1, 1, c) * 256 + images
    below = np.bincount(place.ravel(), minlength=n * c * 256).reshape(n * c, 256).cumsum(axis=1)
    lowest = np.where(below > 0, below, h * w).min(axis=1, keepdims=True)
    others = h * w - lowest
    levels = np.rint(np.clip(below - lowest, 0, None) * 255 / np.maximum(others, 1))
    levels = np.where(others > 0, levels, np.arange(256)).astype(np.uint8)
    found: Bytes = levels.reshape(-1).take(place)
    return found


def _grey(images: Bytes) -> Floats:
    """(n, h, w, 1): the luminance of RGB, else the mean over the channels."""
    c = images.shape[3]
    weights = _LUMINANCE if c == 3 else np.full(c, 1 / c, dtype=np.float32)
    return (images.astype(np.float32) @ weights)[..., None]


def _blend(other: Floats | np.float32, images: Bytes, factor: Strengths) -> Bytes:
    """`other` where the factor is 0, the images where it is 1, and on along that line."""
    share = factor.astype(np.float32)[:, None, None, None]
    return _rounded(images * share + other * (1 - share))


def _rounded(pixels: Floats) -> Bytes:
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
