"""Checkpoints: the whole state of a training on disk, so that it goes on as if it had never stopped.

    runs/photos-1/checkpoints/
        000003-000120/           after 3 epochs and 120 steps
            tensors.safetensors  weights, momenta, averages, seeds of dropout
            state.json           counters, history, states of random generators
            best.weights.h5      a second name of the run's own
            manifest.json        SHA-256 of the others

One is written aside, flushed to the disk, and only then given its name; the one before it stays. Nothing in a
checkpoint is code, and nothing is used before its sum agrees.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from densely.errors import DataError, reason
from densely.files import flush, write_whole

_NAME = re.compile(r"\d{6,}-\d{6,}")
_TENSORS, _STATE, _BEST, _MANIFEST = "tensors.safetensors", "state.json", "best.weights.h5", "manifest.json"


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        epoch: epochs that were finished.
        step: steps of the next epoch that were taken.
        tensors: arrays by name.
        state: everything else, as JSON has it.
        folder: where it was read from.
    """

    epoch: int
    step: int
    tensors: dict[str, NDArray[Any]]
    state: dict[str, Any]
    folder: Path | None = None


def save(run_folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whole; of the others only the one before it stays, should this one be damaged.

    Returns:
        Its folder.

    Raises:
        DataError: if the disk is full or refuses; what was there before is untouched.
    """
    root = run_folder / "checkpoints"
    target = root / f"{checkpoint.epoch:06}-{checkpoint.step:06}"
    aside = root / f".{target.name}.part"
    try:
        root.mkdir(exist_ok=True)
        _remove(aside)
        aside.mkdir()
        save_file(checkpoint.tensors, aside / _TENSORS)
        (aside / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        if (run_folder / _BEST).is_file():
            _name_again(run_folder / _BEST, aside / _BEST)
        sums = {path.name: _sum(path) for path in sorted(aside.iterdir())}
        (aside / _MANIFEST).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            flush(path)
        _remove(target)  # of this very step: the same
        aside.rename(target)
        flush(root)
    except MemoryError:
        raise
    except Exception as error:  # safetensors has an error of its own for a full disk
        _remove(aside)
        why = getattr(error, "strerror", None) or reason(error)
        kept = _names(root)
        left = f"{root / kept[-1]} is whole" if kept else "there was none before it"
        raise DataError(
            f"The checkpoint {target} cannot be written: {why}; {left}. Make room, then go on with the same command."
        ) from None
    names = _names(root)
    before = names[: names.index(target.name)][-1:]
    for name in names:
        if name not in (target.name, *before):
            _remove(root / name)
    return target


def newest(run_folder: Path, notify: Callable[[str], object]) -> Checkpoint | None:
    """The newest checkpoint of a run that is not damaged, or None.

    Args:
        run_folder: where `checkpoints` would lie.
        notify: told of each one that is damaged, in a sentence.
    """
    root = run_folder / "checkpoints"
    for name in reversed(_names(root)):
        try:
            return _read(root / name)
        except (DataError, FileNotFoundError, ValueError, LookupError, TypeError, SafetensorError) as error:
            notify(f"The checkpoint {root / name} is damaged ({reason(error)}): going back to the one before it.")
            _remove(root / f"{name}.damaged")
            (root / name).rename(root / f"{name}.damaged")
        except OSError as error:
            raise DataError(f"The checkpoint {root / name} cannot be read: {error.strerror or error}.") from None
    return None


def put_best_back(run_folder: Path, checkpoint: Checkpoint) -> None:
    """Give a run the best weights that it had at a checkpoint: those on the disk may be of a later, lost epoch."""
    source = checkpoint.folder / _BEST if checkpoint.folder is not None else None
    if source is not None and source.is_file():
        write_whole(run_folder / _BEST, lambda aside: shutil.copyfile(source, aside))


def reached(epoch: int, step: int) -> str:
    """How far a training came, in words."""
    return f"in epoch {epoch + 1}, after step {step}" if step else f"after epoch {epoch}"


def remove_all(run_folder: Path) -> None:
    """Remove the checkpoints of a run that has come to its end."""
    _remove(run_folder / "checkpoints")


def _read(folder: Path) -> Checkpoint:
    sums = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(sums, dict) or not {_TENSORS, _STATE} <= sums.keys() <= {_TENSORS, _STATE, _BEST}:
        raise DataError(f"{_MANIFEST} is not what was written")
    for name in sums:
        if _sum(folder / name) != sums[name]:
            raise DataError(f"{name} is not what was written")
    epoch, step = _position(folder.name)
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(epoch, step, load_file(folder / _TENSORS), state, folder)


def _names(root: Path) -> list[str]:
    """Of all checkpoints that were written to the end and not found damaged, the oldest first."""
    if not root.is_dir():
        return []
    return sorted((path.name for path in root.iterdir() if _NAME.fullmatch(path.name)), key=_position)


def _name_again(path: Path, other: Path) -> None:
    """A second name of a file, or a copy where the disk knows no such thing: the first is only ever replaced whole."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def _position(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split("-")))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
