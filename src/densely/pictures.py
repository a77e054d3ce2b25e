"""Images for the eye: any channels as grey or RGB, small ones enlarged, in rows with words beneath."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK, PAPER, FAINT = "black", "white", "#666666"
TITLE, TEXT, SMALL = 24, 16, 13
"""Heights of letters, in pixels."""
GAP = 6
"""Pixels between images."""


def seen(image: NDArray[np.uint8]) -> Image.Image:
    """What the eye is shown of an image, uint8 `(H, W, C)`: grey, RGB, the mean of two channels, the first three of
    more."""
    channels = image.shape[2]
    if channels == 2:
        image = np.rint(image.mean(axis=2, keepdims=True)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(image[..., :3] if channels > 2 else image[..., 0]))


def fitting(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width in which to show an image: a whole multiple of a small one, a large one made smaller."""
    longest = max(height, width)
    if longest <= side:
        return height * (side // longest), width * (side // longest)
    return max(1, height * side // longest), max(1, width * side // longest)


def resized(image: NDArray[np.uint8], height: int, width: int) -> Image.Image:
    """An image at a size in pixels: hard pixels when enlarged, smooth when made smaller."""
    method = Image.Resampling.NEAREST if height >= image.shape[0] else Image.Resampling.LANCZOS
    return seen(image).resize((width, height), method)


def row(cells: Sequence[Image.Image], words: Sequence[str]) -> Image.Image:
    """Pictures side by side, words beneath each; RGB on white."""
    # Narrow pictures must still carry their words.
    widths = [max(cell.width, round(font(TEXT).getlength(text))) for cell, text in zip(cells, words, strict=True)]
    height = max(cell.height for cell in cells)
    whole = Image.new("RGB", (sum(widths) + 2 * GAP * (len(cells) + 1), height + TEXT + 5 * GAP), PAPER)
    pen, x = ImageDraw.Draw(whole), 2 * GAP
    for cell, text, width in zip(cells, words, widths, strict=True):
        whole.paste(cell.convert("RGB"), (x, 2 * GAP))
        pen.text((x, height + 3 * GAP), cut(text, TEXT, width + GAP), INK, font(TEXT))
        x += width + 2 * GAP
    return whole


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own, the only one that is everywhere; it has neither × nor α."""
    return ImageFont.load_default(size=size)


def cut(text: str, size: int, width: int) -> str:
    """The text in one line, shortened with … where it is wider than `width` pixels."""
    letters = font(size)
    # A folder's name, or a table's label, may hold line breaks.
    text = " ".join(text.split())
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def data_url(image: Image.Image, kind: str, **options: Any) -> str:
    """An image inside a page or an answer: its file of a kind (`"PNG"`, `"JPEG"`; Pillow's options) as a data URL."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{data}"
