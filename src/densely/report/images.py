"""Images inside a page: as data addresses, so that the page needs no other file."""

import base64
import io
from typing import Any

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
        return _encoded(shown, "PNG", optimize=True)
    if max(height, width) > SIDE:
        scale = SIDE / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shown = shown.resize(size, Image.Resampling.LANCZOS)
    return _encoded(shown, "JPEG", quality=85)


def heat(values: NDArray[np.float32]) -> str:
    """A class activation map as a small transparent picture that the page lays over its image, smoothly enlarged."""
    return _encoded(Image.fromarray(overlay(values)), "PNG", optimize=True)


def _encoded(image: Image.Image, kind: str, **options: Any) -> str:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{data}"
