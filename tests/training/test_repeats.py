"""Several trainings in one: seeds share the test part, folds share it out."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small import SMALL

from densely import data
from densely.errors import UsageError
from densely.interruption import Interrupted
from densely.training.batches import Batches
from densely.training.parts import parts_of
from densely.training.repeats import repeat
from densely.training.single import train

TINY = {"model": SMALL, "epochs": 1, "limit": 120, "console": Console(quiet=True), "recipe": "auto"}


def test_folds_score_every_image_once(tmp_path: Path) -> None:
    done = repeat("digits", folds=3, out=tmp_path / "cv", **TINY)
    assert [run.folder.name for run in done.runs] == ["fold-1", "fold-2", "fold-3"]
    parts = [parts_of(run) for run in done.runs]
    seen = [image.tobytes() for part in parts for image in part.test.images]
    assert len(seen) == 120
    assert len({*seen}) == len({image.tobytes() for image in np.concatenate([p.test.images for p in parts])})
    for part in parts:
        held_out = {image.tobytes() for image in part.test.images}
        assert held_out.isdisjoint(image.tobytes() for image in part.train.images)
    accuracies = [run.accuracy for run in done.runs]
    summary = json.loads((tmp_path / "cv" / "summary.json").read_text())["accuracy"]
    assert summary["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["std"] == pytest.approx(np.std(accuracies, ddof=1))
    assert f"{100 * np.mean(accuracies):.2f} ± " in repr(done)


def test_seeds_share_the_test_part(tmp_path: Path) -> None:
    done = repeat("digits", seeds=2, seed=5, out=tmp_path / "seeds", **TINY)
    assert [run.config.seed for run in done.runs] == [5, 6]
    one, two = (parts_of(run).test for run in done.runs)
    assert one.fingerprint() == two.fingerprint()
    weights = [np.concatenate([w.numpy().ravel() for w in run.model().trainable_weights]) for run in done.runs]
    assert not np.array_equal(*weights)


def test_a_config_brings_its_seed_and_whether_it_was_tuned(tmp_path: Path) -> None:
    tuned = train("digits", tune=True, seed=4, out=tmp_path / "tuned", **TINY)
    options = {"config": tuned.folder / "config.toml", "console": TINY["console"]}
    done = repeat("digits", seeds=2, out=tmp_path / "seeds", **options)
    assert [run.config.seed for run in done.runs] == [4, 5]
    accuracies = [run.metrics["val"]["accuracy"] for run in done.runs]
    assert done.summary["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    with pytest.raises(UsageError, match="leave --tune out"):
        repeat("digits", folds=2, out=tmp_path / "folds", **options)


def test_folds_share_out_the_validation_images_too(tmp_path: Path) -> None:
    digits = data.complete(data.load("digits"), val_fraction=0.3, test_fraction=0.2, seed=0)[0]
    done = repeat(digits, folds=2, out=tmp_path / "cv", **{**TINY, "limit": None})
    assert sum(run.metrics["test"]["n"] for run in done.runs) == len(digits.train) + len(digits.val)


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({}, "either seeds or folds"),
        ({"seeds": 2, "folds": 2}, "either seeds or folds"),
        ({"seeds": 1}, "--seeds must be at least 2"),
        ({"folds": 3, "tune": True}, "leave --tune out"),
        ({"seeds": 2, "epochs": 0}, "epochs=0"),
    ],
)
def test_wrong_use_is_told_before_anything_is_written(counts: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        repeat("digits", out=tmp_path / "none", **counts)
    assert not (tmp_path / "none").exists()


def test_what_was_broken_off_goes_on_in_the_same_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = repeat("digits", seeds=2, out=tmp_path / "whole", **TINY)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits-9").mkdir(parents=True)
    (tmp_path / "runs" / "digits-9" / "asked.json").write_text("damaged")
    original, made = Batches.__getitem__, 0

    def make_batch(self: Batches, step: int) -> object:
        nonlocal made
        made += self.training
        if made == 5:  # in a run Keras makes one to see what it looks like, then there are two steps
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    monkeypatch.setattr(Batches, "__getitem__", make_batch)
    with pytest.raises(Interrupted, match="in epoch 1, after step 1"):
        repeat("digits", seeds=2, **TINY)
    assert not (tmp_path / "runs" / "digits-1" / "summary.json").exists()
    done = repeat("digits", seeds=2, **TINY)
    assert done.folder == Path("runs/digits-1")
    assert done.summary == expected.summary
    for one, other in zip(done.runs, expected.runs, strict=True):
        for weight, same in zip(one.model().weights, other.model().weights, strict=True):
            np.testing.assert_array_equal(weight.numpy(), same.numpy())
    assert repeat("digits", seeds=2, **TINY).folder == Path("runs/digits-2")


def test_a_folder_of_other_repeats_is_refused(tmp_path: Path) -> None:
    repeat("digits", seeds=2, out=tmp_path / "seeds", **TINY)
    with pytest.raises(UsageError, match="already holds something else"):
        repeat("digits", seeds=3, out=tmp_path / "seeds", **TINY)
    with pytest.raises(UsageError, match="already holds something else"):
        repeat("digits", seeds=2, resume="never", out=tmp_path / "seeds", **TINY)
    again = repeat("digits", seeds=2, out=tmp_path / "seeds", **TINY)
    assert len(again.runs) == 2


@pytest.mark.slow
def test_two_at_a_time_the_scores_are_the_same(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that each of two has as many
    try:
        one, two = (repeat("digits", seeds=2, jobs=jobs, out=tmp_path / str(jobs), **TINY) for jobs in (1, 2))
    finally:
        torch.set_num_threads(threads)
    assert two.summary == one.summary
    for run, same in zip(one.runs, two.runs, strict=True):
        np.testing.assert_array_equal(run.predictions["test"], same.predictions["test"])


def test_a_live_page_of_two_at_a_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="follows one training"):
        repeat("digits", seeds=2, jobs=2, live=True, out=tmp_path / "none", **TINY)
    assert not (tmp_path / "none").exists()
