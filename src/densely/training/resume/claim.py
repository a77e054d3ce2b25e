"""Which run folder a training works in: a new one, or the one where the same training was broken off."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from densely import runs
from densely.errors import DataError, DenselyError, UsageError
from densely.files import is_aside, remove_asides
from densely.runs import RunConfig

Resume = Literal["auto", "never"]


def check(resume: str) -> None:
    """Refuse a choice that there is not.

    Raises:
        UsageError: if it is neither `"auto"` nor `"never"`.
    """
    if resume not in ("auto", "never"):
        raise UsageError(f"--resume is auto or never, not {resume!r}.")


@contextlib.contextmanager
def claimed(
    out: str | Path | None, config: RunConfig, fingerprints: Mapping[str, str], resume: Resume = "auto"
) -> Iterator[Path]:
    """A run folder for this training alone, while the block runs.

    Args:
        out: the folder; by default the newest `runs/NAME-N` in which this very training was broken off, else the next
            free one.
        config: what is to be trained.
        fingerprints: of its parts.
        resume: `"auto"`, or `"never"` to take only a folder that holds nothing.

    Raises:
        UsageError: if the folder holds something else, or a training with other settings.
        DenselyError: if another process is training in it.
        DataError: if it cannot be created.
    """
    with contextlib.ExitStack() as held:
        if out is not None:
            folder = Path(out)
            make(folder)
            # Before the lock, which is a file too, and in it: another process may have begun between the two.
            _check(folder, config, fingerprints, resume)
            lock(folder, held)
            _check(folder, config, fingerprints, resume)
        else:
            name = runs.name_for(config.data)
            found = _newest_broken_off(name, config, fingerprints, held) if resume == "auto" else None
            folder = found or runs.create_numbered(name)
            if found is None:
                lock(folder, held)
        yield folder


def _newest_broken_off(
    name: str, config: RunConfig, fingerprints: Mapping[str, str], held: contextlib.ExitStack
) -> Path | None:
    """The newest numbered folder with this very training in it, not finished and nobody's; locked."""
    for folder in reversed(runs.numbered(name)):
        if not broken_off(folder):
            continue
        # One that another process is in, or that holds something else, is passed over.
        with contextlib.suppress(DenselyError), contextlib.ExitStack() as trying:
            # Looked at before it is locked: its own training, begun again at the same time, must find it free.
            _check(folder, config, fingerprints, "auto")
            lock(folder, trying)
            if broken_off(folder):
                held.push(trying.pop_all())
                return folder
    return None


def empty(folder: Path) -> bool:
    """Whether a folder holds nothing but a lock, and what a process that was killed had begun to write."""
    return not any(path.name != ".lock" and not is_aside(path) for path in folder.iterdir())


def broken_off(folder: Path) -> bool:
    """Whether a training was begun in a folder, and not scored."""
    return (folder / "config.toml").is_file() and not (folder / "metrics.json").is_file()


def lock(folder: Path, held: contextlib.ExitStack) -> None:
    """Keep other processes out of a folder until `held` closes, or this process ends in whatever way.

    Raises:
        DenselyError: if another one is in it.
        DataError: if the folder cannot be written to.
    """
    try:
        held.enter_context(FileLock(folder / ".lock").acquire(timeout=0))
    except Timeout:
        raise DenselyError(f"Another process is training in {folder}: wait for it, or choose another --out.") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be locked: {error.strerror or error}.") from None
    remove_asides(folder)


def make(folder: Path) -> None:
    """Make a folder that the user named, where it is not there yet.

    Raises:
        UsageError: if it is a file.
        DataError: if it cannot be created.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file: --out names a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The run folder {error.filename} cannot be created: {error.strerror}.") from None


def folder_for(
    out: str | Path | None, name: str, asked: Any, resume: str, held: contextlib.ExitStack, *, end: str = ""
) -> Path:
    """A folder for several trainings, this process's alone: new, or where the same was asked for (`asked.json`).

    Args:
        out: the folder; by default the newest `runs/NAME-N` in which the same was begun, else the next free one.
        name: of numbered folders.
        asked: for what, as JSON has it.
        resume: `"auto"`, or `"never"` to take only a folder that holds nothing.
        held: keeps it locked.
        end: a file that stands only in a folder in which all is done; such a one is not taken unless it is named.

    Raises:
        UsageError: if the folder holds something else.
        DenselyError: if another process is in it.
        DataError: if it cannot be created.
    """
    if out is not None:
        folder = Path(out)
        make(folder)
        if not empty(folder) and (resume == "never" or _asked(folder) != asked):
            raise UsageError(f"{folder} already holds something else: choose another --out, or remove it first.")
        lock(folder, held)
    else:
        for folder in reversed(runs.numbered(name)) if resume == "auto" else ():
            # A damaged one, or one that another process is in, is passed over.
            with contextlib.suppress(DenselyError):
                if _asked(folder) == asked and not (end and (folder / end).is_file()):
                    lock(folder, held)
                    return folder
        folder = runs.create_numbered(name)
        lock(folder, held)
    runs.write_json(folder / "asked.json", asked)
    return folder


def _asked(folder: Path) -> Any:
    path = folder / "asked.json"
    return runs.read_json(path) if path.is_file() else None


def _check(folder: Path, config: RunConfig, fingerprints: Mapping[str, str], resume: Resume) -> None:
    """Refuse a folder that holds anything but this very training."""
    if empty(folder):
        return
    if not (folder / "config.toml").is_file():
        raise UsageError(f"{folder} already holds something: choose another --out, or remove it first.")
    if resume == "never":
        raise UsageError(f"{folder} already holds a training: choose another --out, or leave --resume out.")
    found = runs.differences(runs.read_config(folder / "config.toml"), config)
    if found:
        more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
        raise UsageError(
            f"{folder} holds a training with {'; '.join(found[:3])}{more}: give the same settings to go on with it, "
            "or choose another --out."
        )
    if (folder / "splits.json").is_file():
        recorded = runs.read_fingerprints(folder)
        if recorded != fingerprints:
            parts = sorted(recorded.keys() | fingerprints.keys())
            changed = ", ".join(part for part in parts if recorded.get(part) != fingerprints.get(part))
            raise DataError(f"The data have changed since {folder} was begun ({changed}): choose another --out.")
