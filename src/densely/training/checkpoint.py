"""Checkpoints: the whole state of a training on disk, so that it goes on as if it had never stopped.

    runs/photos-1/checkpoints/
        000003-000120/           after 3 epochs and 120 steps
            tensors.safetensors  weights, momenta, averages, states of random generators
            state.json           counters, history, random generators of NumPy and Python
            manifest.json        SHA-256 of the other two

One is written aside, flushed to the disk, and only then given its name; the one before it stays. Nothing in a
checkpoint is code, and nothing is used before its sum agrees.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from densely.errors import DataError
from densely.runs import flush

#: Whole checkpoints that stay: should the newest be damaged, there is one more.
KEPT = 2
_NAME = re.compile(r"\d{6,}-\d{6,}")
_FILES = ("tensors.safetensors", "state.json")


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        epoch: epochs that were finished.
        step: steps of the next epoch that were taken.
        tensors: arrays by name.
        state: everything else, as JSON has it.
    """

    epoch: int
    step: int
    tensors: dict[str, NDArray[Any]]
    state: dict[str, Any]


def save(run_folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whole, then remove all but the newest `KEPT`.

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
        save_file(checkpoint.tensors, aside / "tensors.safetensors")
        (aside / "state.json").write_text(json.dumps(checkpoint.state), encoding="utf-8")
        sums = {name: _sum(aside / name) for name in _FILES}
        (aside / "manifest.json").write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
        for path in (*aside.iterdir(), aside):
            flush(path)
        # One of this name is of this very step: either it is the same, or it was found to be damaged.
        _remove(target)
        aside.rename(target)
        flush(root)
    # safetensors has an error of its own for a full disk.
    except Exception as error:
        _remove(aside)
        reason = getattr(error, "strerror", None) or error
        kept = _whole_names(root)
        left = f"{root / kept[-1]} is whole" if kept else "there was none before it"
        raise DataError(
            f"The checkpoint {target} cannot be written: {reason}; {left}. Make room, then go on."
        ) from None
    for name in _whole_names(root)[:-KEPT]:
        _remove(root / name)
    return target


def newest(run_folder: Path, notify: Callable[[str], object]) -> Checkpoint | None:
    """The newest checkpoint of a run that is not damaged, or None.

    Args:
        run_folder: where `checkpoints` would lie.
        notify: told of each one that is damaged, in a sentence.
    """
    root = run_folder / "checkpoints"
    for name in reversed(_whole_names(root)):
        try:
            return _read(root / name)
        except Exception as error:  # whatever a damaged file makes its reader raise
            notify(f"The checkpoint {root / name} is damaged ({error}): going back to the one before it.")
    return None


def reached(epoch: int, step: int) -> str:
    """How far a training came, in words."""
    return f"after epoch {epoch}" + (f", step {step}" if step else "")


def remove_all(run_folder: Path) -> None:
    """Remove the checkpoints of a run that has come to its end."""
    _remove(run_folder / "checkpoints")


def _read(folder: Path) -> Checkpoint:
    sums = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name in _FILES:
        if _sum(folder / name) != sums[name]:
            raise DataError(f"{name} is not what was written")
    epoch, step = map(int, folder.name.split("-"))
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return Checkpoint(epoch, step, load_file(folder / "tensors.safetensors"), state)


def _whole_names(root: Path) -> list[str]:
    """Of all checkpoints that were written to the end, the oldest first."""
    if not root.is_dir():
        return []
    return sorted((path.name for path in root.iterdir() if _NAME.fullmatch(path.name)), key=_position)


def _position(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.split("-")))


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
