"""Files written whole: aside, then renamed, so that no reader ever meets half of one."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from densely.errors import DataError, reason


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: never half a file, even on a full disk."""
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(aside)
        flush(aside)
        aside.replace(path)
        flush(path.parent)
    except (OSError, RuntimeError) as error:  # HDF5 tells a full disk by a RuntimeError
        raise DataError(f"{path} cannot be written: {getattr(error, 'strerror', None) or reason(error)}.") from None
    finally:
        with contextlib.suppress(OSError):  # a file system that may not be written does not say that there is none
            aside.unlink()


def write_cache(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """The same for what can be made again: only this user may read it, and where it cannot be written, it is not."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                write(stream)
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise


def remove_asides(folder: Path) -> None:
    """Remove what a process that was killed had begun to write in a folder; only for who has the folder to himself."""
    for path in folder.iterdir():
        if is_aside(path):
            path.unlink(missing_ok=True)


def is_aside(path: Path) -> bool:
    """Whether a file is one that `write_whole` had not put in place yet."""
    return re.match(r"\.\d+\.", path.name) is not None


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
