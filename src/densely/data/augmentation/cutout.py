"""Cutout: a square of each image is blanked, so that a network learns to look at more than one place.

Source: T. DeVries, G. W. Taylor, *Improved Regularization of Convolutional Neural Networks with Cutout*, 2017.
"""

import numpy as np
from numpy.typing import NDArray

from densely.errors import UsageError


def cutout(images: NDArray[np.float32], rng: np.random.Generator, size: int, fill: float = 0.0) -> NDArray[np.float32]:
    """Blank a square at a random place of each image.

    Args:
        images: float32 (n, h, w, c), preprocessed; not changed.
        rng: what is drawn, in this order: n rows, n columns, of the squares' centres.
        size: side of the square, in pixels. Its centre is any pixel of the image, equally likely: it may stick out.
        fill: what it is set to; 0 is the mean colour of standardised images.

    Raises:
        UsageError: the size is negative.
    """
    if size < 0:
        raise UsageError(f"The square to cut out is {size} pixels wide: it must not be negative.")
    n, h, w, _ = images.shape
    top = rng.integers(h, size=(n,))[:, None] - size // 2
    left = rng.integers(w, size=(n,))[:, None] - size // 2
    rows, columns = np.arange(h), np.arange(w)
    across = (rows >= top) & (rows < top + size)
    along = (columns >= left) & (columns < left + size)
    blank = across[:, :, None] & along[:, None, :]
    return np.where(blank[..., None], np.float32(fill), images)
