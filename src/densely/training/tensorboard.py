"""`--tensorboard`: the history of a run as an event file that TensorBoard reads, one point an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from densely.errors import DataError, UsageError
from densely.training.conductor import Conductor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

#: Columns of `history.csv` that are drawn.
TAGS = ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")


def check() -> None:
    """Look whether event files can be written here.

    Raises:
        UsageError: if the package is missing.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UsageError(
            "--tensorboard needs a package that is not installed: pip install 'densely[tensorboard]'."
        ) from None


class TensorBoard(keras.callbacks.Callback):
    """Adds every epoch to `RUN/tensorboard`; the first that ends here brings those before it along.

    Args:
        conductor: has the history; it comes before this one in the list of callbacks.
    """

    def __init__(self, conductor: Conductor) -> None:
        super().__init__()
        self.conductor = conductor
        self.folder = conductor.run.folder / "tensorboard"
        self.writer: SummaryWriter | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch, onto the disk."""
        rows = self.conductor.history.rows
        if self.writer is None:
            self.writer = _written_anew(self.folder, rows)
        else:
            with _disk(self.folder):
                _add(self.writer, rows[-1:])

    def close(self) -> None:
        """Close the file; also after an interruption, where Keras does not call `on_train_end`."""
        if self.writer is not None:
            with suppress(OSError):  # every epoch is written already
                self.writer.close()


def write(run_folder: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write the whole history of a run that is trained.

    Raises:
        DataError: if the disk refuses.
    """
    _written_anew(run_folder / "tensorboard", rows).close()


def _written_anew(folder: Path, rows: Sequence[dict[str, float]]) -> SummaryWriter:
    """A new event file in place of what is there.

    A training that goes on may come to an epoch for the second time, or have been without an event file before.
    """
    from torch.utils.tensorboard import SummaryWriter

    with _disk(folder):
        for path in folder.glob("events.out.tfevents.*"):
            path.write_bytes(b"")  # not removed: a TensorBoard that is looking on would wait for it for ever
        # It forgets what it has read from this epoch on: all.
        writer = SummaryWriter(str(folder), purge_step=1)
        _add(writer, rows)
    return writer


def _add(writer: SummaryWriter, rows: Sequence[dict[str, float]]) -> None:
    """Write rows of which the last has just ended, the others so long ago as training took since."""
    ended = time.time() - sum(row["seconds"] for row in rows[1:])
    for i, row in enumerate(rows):
        ended += row["seconds"] if i else 0.0
        for tag in TAGS:
            if tag in row:
                writer.add_scalar(tag, row[tag], int(row["epoch"]), walltime=ended)
    writer.flush()


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}.") from None
