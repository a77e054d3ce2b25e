"""Many file names in little memory, and what goes wrong with one of them told where it stands."""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import overload

import numpy as np

from densely.errors import DenselyError


class Paths(Sequence[str]):
    """Paths, read-only: their bytes end to end, and where each of them ends.

    A million of them are a hundred megabytes less than as Python's own strings, and a process that is forked shares
    them for good: no counter of references is written beside each.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        encoded = bytearray()
        ends = array("q", [0])
        for path in paths:
            encoded += os.fsencode(path)
            ends.append(len(encoded))
        self._encoded = bytes(encoded)
        self._ends = np.array(ends, dtype=np.int64)

    @classmethod
    def joined(cls, several: Iterable["Paths"]) -> "Paths":
        """Several, one behind the other."""
        whole, given = cls(), list(several)
        whole._encoded = b"".join(paths._encoded for paths in given)
        lengths = np.concatenate([np.diff(paths._ends) for paths in given])
        whole._ends = np.concatenate([[0], np.cumsum(lengths)])
        return whole

    def __len__(self) -> int:
        """How many there are."""
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """One of them, or some."""
        if isinstance(index, slice):
            return Paths(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        return os.fsdecode(self._encoded[self._ends[place] : self._ends[place + 1]])


@contextmanager
def placed(places: Sequence[str], i: int) -> Iterator[None]:
    """What goes wrong with file `i` is told with the place that names it, e.g. `"labels.csv, line 3"`.

    Args:
        places: one for each file; or none at all, where a path says enough.
        i: the file.
    """
    try:
        yield
    except DenselyError as error:
        if not places:
            raise
        raise type(error)(f"{places[i]}: {error}") from error
