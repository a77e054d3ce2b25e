"""The image files below a folder, one after the other, however many there are.

Only the names in the folders between the first and the present one are held, never all files; a folder or link that
cannot be followed is told and passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from densely.data.images import EXTENSIONS


class Found(NamedTuple):
    """A file that is called an image, or a folder that could not be looked into.

    Attributes:
        path: as it was reached from the folder that was named.
        wrong: why it cannot be looked into, in a sentence; empty for a file.
    """

    path: str
    wrong: str = ""


def images_below(folder: str | os.PathLike[str], other: Callable[[], object] = lambda: None) -> Iterator[Found]:
    """Files ending as images do, at any depth, in the order of their sorted paths.

    Hidden files and folders are left out. Links are followed, but not in a circle.

    Args:
        folder: where to begin.
        other: called once for each file that is not called an image.
    """
    # A stack of its own: folders may be nested deeper than Python's calls.
    stack: list[tuple[tuple[int, int], str, Iterator[tuple[str, bool]]]] = []

    def enter(path: str) -> str:
        """Go into a folder; or, in a sentence, why not."""
        try:
            status = os.stat(path)
            own = status.st_dev, status.st_ino
            if any(own == above for above, _, _ in stack):
                return f"{path} is a link that leads back to a folder above it: remove it."
            stack.append((own, path, iter(_names(path, other))))
        except OSError as error:
            return f"{path} cannot be looked into: {error.strerror or error}."
        return ""

    if wrong := enter(os.fspath(folder)):
        yield Found(os.fspath(folder), wrong)
    while stack:
        _, path, names = stack[-1]
        name, is_folder = next(names, ("", False))
        inside = os.path.join(path, name)
        if not name:
            stack.pop()
        elif not is_folder:
            yield Found(inside)
        elif wrong := enter(inside):
            yield Found(inside, wrong)


def _names(path: str, other: Callable[[], object]) -> list[tuple[str, bool]]:
    """What is to be visited in a folder, sorted, and whether each is a folder itself."""
    found = []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                found.append((entry.name, True))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                found.append((entry.name, False))
            else:
                other()
    return sorted(found)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link that leads to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False
