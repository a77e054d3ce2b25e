"""Images inside a page: as data addresses, so that the page needs no other file."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from densely import pictures
from densely.explain import overlay

SIDE = 160
"""Longest side that an image has in the page's file, in pixels; the page enlarges small ones itself."""


def is_small(image: NDArray[np.uint8]) -> bool:
    """Whether an image's own pixels are to be seen."""
    return bool(max(image.shape[:2]) <= 64)


def address(image: NDArray[np.uint8]) -> str:
    """An image, uint8 `(H, W, C)`, as a data address: PNG if it is small, JPEG if it was made smaller."""
    height, width = image.shape[:2]
    shown = pictures.seen(image)
    if is_small(image):
        return pictures.data_url(shown, "PNG", optimize=True)
    if max(height, width) > SIDE:
        scale = SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    return pictures.data_url(shown, "JPEG", quality=85)


def heat(values: NDArray[np.float32]) -> str:
    """A class activation map as a small transparent picture that the page lays over its image, smoothly enlarged."""
    return pictures.data_url(Image.fromarray(overlay(values)), "PNG", optimize=True)
