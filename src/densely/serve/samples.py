"""Images that the page offers to try, as files in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from densely import pictures
from densely.data import Dataset
from densely.data.images import EXTENSIONS, read_image
from densely.errors import DataError, UsageError

COUNT = 10
"""Samples that a page offers, at most."""
SIDE = 512
"""Pixels of a longest side from which on a sample is made smaller."""


class Sample(NamedTuple):
    """An image to try: what it is called, its file, and the file's kind."""

    name: str
    data: bytes
    kind: str = "image/png"


def of_dataset(dataset: Dataset, count: int = COUNT) -> list[Sample]:
    """Images of a data set, one class after the other, each called by its class."""
    first = dataset.labels.argmax(axis=1) if dataset.multi_label else dataset.labels
    of_each = [np.flatnonzero(first == c) for c in range(len(dataset.class_names))]
    turns = range(max(map(len, of_each), default=0))
    chosen = [found[turn] for turn in turns for found in of_each if turn < len(found)][:count]
    return [Sample(", ".join(dataset.names_of(i)) or "none", _png(dataset.images[i])) for i in chosen]


def of_folder(folder: Path, count: int = COUNT) -> list[Sample]:
    """Images of a folder, in the order of their names, each called by its name.

    Raises:
        UsageError: there is no such folder, or no image in it.
        DataError: an image cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder} with samples: check the path.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)[:count]
    if not paths:
        raise UsageError(f"{folder} has no {', '.join(EXTENSIONS)} images: name another folder as --samples.")
    return [Sample(path.stem, _readable(path), _kind(path)) for path in paths]


def write(folder: Path, samples: Sequence[Sample]) -> None:
    """Hand samples over to another process, as files."""
    folder.mkdir()
    for number, sample in enumerate(samples):
        (folder / f"{number:03}.png").write_bytes(sample.data)
        (folder / f"{number:03}.txt").write_text(sample.name, encoding="utf-8")


def read(folder: Path) -> list[Sample]:
    """What `write` wrote."""
    paths = sorted(folder.glob("*.png"))
    return [Sample(path.with_suffix(".txt").read_text(encoding="utf-8"), path.read_bytes()) for path in paths]


def _png(image: np.ndarray) -> bytes:
    # Four channels are colour and transparency, which the network sees too.
    shown = Image.fromarray(image) if image.shape[2] == 4 else pictures.seen(image)
    if max(shown.size) > SIDE:
        shown.thumbnail((SIDE, SIDE))
    with io.BytesIO() as file:
        shown.save(file, "PNG", optimize=True)
        return file.getvalue()


def _readable(path: Path) -> bytes:
    read_image(path, (8, 8))  # raises if it is none
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _kind(path: Path) -> str:
    return {".png": "image/png", ".webp": "image/webp", ".bmp": "image/bmp"}.get(path.suffix.lower(), "image/jpeg")
