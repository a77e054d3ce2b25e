"""A hostile file can fail in any way: whatever it raises becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densely.errors import DataError, DenselyError, reason


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Inside, a file of weights is read.

    Raises:
        DataError: for whatever another library raises; Densely's own errors, and memory that ran out, stay as they are.
    """
    try:
        yield
    except (DenselyError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be converted: {reason(error)}.") from None
