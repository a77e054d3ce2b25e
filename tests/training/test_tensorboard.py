"""Event files, read back by TensorBoard's own reader: every epoch once, whatever happened on the way."""

import os
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console
from small import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from densely.errors import DataError, UsageError
from densely.interruption import Interrupted
from densely.runs import Run
from densely.training import single
from densely.training.batches import Batches
from densely.training.single import train
from densely.training.tensorboard import TAGS

TINY = {"model": SMALL, "limit": 100, "batch_size": 32, "epochs": 3, "console": Console(quiet=True)}


def agrees(run: Run, reader: EventAccumulator | None = None) -> None:
    """Every number of the history stands in the event files once, under its epoch."""
    reader = (reader or EventAccumulator(str(run.folder / "tensorboard"))).Reload()
    assert set(reader.Tags()["scalars"]) == set(TAGS)
    for tag in TAGS:
        points = reader.Scalars(tag)
        assert [(p.step, p.value) for p in points] == [
            (row["epoch"], pytest.approx(row[tag], rel=1e-6)) for row in run.history
        ]
        assert sorted(p.wall_time for p in points) == [p.wall_time for p in points]


@pytest.fixture
def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that a signal ended in its third epoch, with one checkpoint."""
    made, original = 0, Batches.__getitem__

    def stopped(self: Batches, step: int) -> object:
        nonlocal made
        made += self.training
        if made == 8:  # Keras makes one to see what it looks like, then three an epoch
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step)

    monkeypatch.setattr(Batches, "__getitem__", stopped)
    with pytest.raises(Interrupted, match="in epoch 3"):
        train("digits", out=tmp_path / "run", tensorboard=True, **TINY)
    monkeypatch.undo()
    return tmp_path / "run"


def test_a_training_that_goes_on_writes_every_epoch_once(broken_off: Path) -> None:
    # The checkpoint is lost, so epochs that have been written come again.
    (checkpoint,) = (broken_off / "checkpoints").iterdir()
    (checkpoint / "state.json").write_text("{}")
    watching = EventAccumulator(str(broken_off / "tensorboard")).Reload()
    assert [point.step for point in watching.Scalars("loss")] == [1, 2]
    # A file that the power failed in.
    (torn,) = (broken_off / "tensorboard").iterdir()
    torn.write_bytes(torn.read_bytes()[:-7])
    run = train("digits", out=broken_off, tensorboard=True, **TINY)
    assert len(run.history) == 3
    agrees(run)
    agrees(run, watching)


def test_it_may_be_asked_for_only_when_it_goes_on_or_only_before(broken_off: Path) -> None:
    run = train("digits", out=broken_off, **TINY)
    (run.folder / "metrics.json").unlink()
    assert len(EventAccumulator(str(run.folder / "tensorboard")).Reload().Scalars("loss")) == 2
    # Trained, and only to be scored: what is lacking is written all the same.
    agrees(train("digits", out=broken_off, tensorboard=True, **TINY))


def test_a_missing_package_is_told_before_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'densely\[tensorboard\]'"):
        train(tmp_path / "nowhere", tensorboard=True, out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = single._fit

    def in_the_way(run: Run, *more: object, **options: object) -> None:
        (run.folder / "tensorboard").write_text("a file")
        fit(run, *more, **options)

    monkeypatch.setattr(single, "_fit", in_the_way)
    with pytest.raises(DataError, match="tensorboard cannot be written"):
        train("digits", out=tmp_path / "run", tensorboard=True, **{**TINY, "epochs": 1})
