"""Whole sweeps: real trainings, small ones."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESK, PHONE, browsers_end, fits, opened  # noqa: F401
from PIL import Image
from rich.console import Console

from densely import report
from densely.errors import DenselyError, UsageError
from densely.interruption import Interrupted
from densely.runs import Run, read_config
from densely.sweeps import trial as trials
from densely.sweeps.space import Space, parse
from densely.sweeps.study import Study
from densely.sweeps.sweep import Swept, sweep
from densely.sweeps.trial import Order, Result
from densely.training.batches import Batches
from densely.training.single import train

FIXED = {"model": "densenet-bc-16-8", "depth": 10, "epochs": 2}
RATES = {"learning_rate": {"low": 0.001, "high": 1.0, "log": True}}
SPACE = parse({**FIXED, **RATES, "growth_rate": [4, 8]})
QUIET = Console(quiet=True)


def tiny(space: Space, out: Path, **more: Any) -> Swept:
    return sweep(space, "digits", out=out, **{"trials": 4, "limit": 100, "console": QUIET, **more})


def told(swept: Swept) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.value, *t.settings.values(), *t.curve) for t in swept.trials]


@pytest.fixture
def without_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the page takes as long as all trials."""
    monkeypatch.setattr("densely.sweeps.sweep._write_page", lambda swept, study, data: None)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Four trials."""
    return tiny(SPACE, tmp_path_factory.mktemp("sweeps") / "whole")


def test_every_trial_is_a_run_that_was_scored_on_held_out_training_images(swept: Swept) -> None:
    assert [t.number for t in swept.trials] == sorted(range(4), key=lambda n: (-swept_value(swept, n), n))
    for trial in swept.trials:
        run = Run.open(swept.folder / trial.name)
        assert run.config.tune
        assert (run.config.recipe.epochs, run.config.limit) == (2, 100)
        assert run.config.recipe.learning_rate == trial.settings["learning_rate"]
        assert run.config.network.growth_rate == trial.settings["growth_rate"]
        assert trial.value == run.metrics["val"]["accuracy"]
        assert "test" not in run.metrics
        assert run.predictions.keys() == {"val", "val_labels"}
        assert trial.curve == [(row["epoch"], row["val_accuracy"]) for row in run.history]


def swept_value(swept: Swept, number: int) -> float:
    return Run.open(swept.folder / f"trial-{number:04d}").accuracy


def test_the_best_one_is_trained_on_all_training_images(swept: Swept) -> None:
    assert swept.command == f"densely train --config {swept.folder / 'best.toml'}"
    config, best = read_config(swept.folder / "best.toml"), swept.best.config
    assert not config.tune
    assert config.recipe.val_fraction == 0
    assert config.network == best.network
    assert config.recipe.learning_rate == best.recipe.learning_rate
    final = train(config=config, out=swept.folder.parent / "final", console=QUIET)
    assert final.metrics.keys() >= {"test"}
    assert "val" not in final.metrics


def test_the_page_shows_all_and_asks_nobody(swept: Swept) -> None:
    report.write(swept.best)
    tiny(SPACE, swept.folder)  # nothing is left to do but the page
    with opened(swept.folder / "sweep.html", PHONE, own=swept.folder.as_uri()) as page:
        assert page.title() == "4 trials on digits"
        assert fits(page)
        page.set_viewport_size({"width": DESK[0], "height": DESK[1]})
        assert fits(page)
        assert f"{100 * swept.best.accuracy:.2f} %" in page.inner_text("section[aria-labelledby=best]")
        assert page.inner_text("pre") == swept.command
        assert page.locator("section[aria-labelledby=course] svg").count() == 2
        assert page.locator("section[aria-labelledby=mattered] svg").count() >= 2
        rows = page.locator("table tr")
        assert rows.count() == 1 + 4
        links = rows.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
        assert links == [f"{swept.trials[0].name}/report.html"]
        page.locator("table a").click()
        assert page.title().startswith("densenet-bc-16-8 on digits")
    names = {path.stem for path in (swept.folder / "figures").iterdir()}
    assert {"history", "curves", "slices", "parallel"} <= names


@pytest.mark.usefixtures("without_page")
def test_what_was_broken_off_goes_on_and_ends_the_same(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, made = Batches.__getitem__, 0

    def make_batch(self: Batches, step: int) -> object:
        nonlocal made
        made += self.training
        if made == 14:  # five a trial: Keras makes one to see what it looks like, then there are two epochs of two
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, step)

    monkeypatch.setattr(Batches, "__getitem__", make_batch)
    with pytest.raises(Interrupted, match="after 2 of 4 trials"):
        tiny(SPACE, tmp_path / "sweep")
    first = (tmp_path / "sweep" / "trial-0000" / "metrics.json").stat()
    assert not (tmp_path / "sweep" / "trial-0003").exists()
    assert (tmp_path / "sweep" / "trial-0002" / "checkpoints").is_dir()
    done = tiny(SPACE, tmp_path / "sweep")
    assert told(done) == told(swept)
    assert (tmp_path / "sweep" / "trial-0000" / "metrics.json").stat() == first
    with pytest.raises(UsageError, match="already holds something else"):
        tiny(SPACE, tmp_path / "sweep", seed=1)


def pictures(folder: Path, seed: int, count: int, classes: tuple[str, ...]) -> None:
    """Grey noise, darker in the first class than in the second."""
    rng = np.random.default_rng(seed)
    for c, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (8, 8), dtype=np.uint8) + 120 * c
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.mark.usefixtures("without_page")
def test_another_test_part_changes_nothing(tmp_path: Path) -> None:
    """Were a test image looked at anywhere, some number would differ: here their labels are exchanged too."""
    found = []
    for name, test_classes in (("one", ("a", "b")), ("other", ("b", "a"))):
        pictures(tmp_path / name / "train", 0, 20, ("a", "b"))
        pictures(tmp_path / name / "test", len(found), 10 + 5 * len(found), test_classes)
        done = sweep(SPACE, tmp_path / name, trials=2, size=(8, 8), out=tmp_path / f"sweep-{name}", console=QUIET)
        files = sorted(done.folder.glob("trial-*/metrics.json")) + sorted(done.folder.glob("trial-*/predictions.*"))
        assert len(files) == 4
        found.append([*(file.read_bytes() for file in files), told(done)])
    assert found[0] == found[1]


def test_an_ended_trial_keeps_its_epochs_and_no_checkpoint(tmp_path: Path) -> None:
    asked = []

    def ask(epoch: trials.Epoch) -> bool:
        asked.append(epoch)
        return epoch.number == 2

    folder = tmp_path / "trial-0000"
    options = {"limit": 100, "save_every": 1}
    result = trials.run(ask, Order("digits", folder, {**FIXED, "epochs": 5, "growth_rate": 4}, options))
    run = Run.open(folder)
    assert result == Result(None, pytest.approx(sum(row["seconds"] for row in run.history)))
    assert [(e.number, e.of, e.value) for e in asked] == [(n, 5, run.history[n - 1]["val_accuracy"]) for n in (1, 2)]
    assert not (folder / "checkpoints").exists()
    assert not (folder / "metrics.json").exists()


def test_a_trial_that_fails_is_told_and_the_sweep_goes_on(tmp_path: Path) -> None:
    space = parse({**FIXED, "epochs": 1, "depth": [16, 17]})

    def drawn(seed: int, count: int) -> list[int]:
        study = Study(tmp_path / f"{seed}-{count}.db", space, seed, "none")
        found = [settings["depth"] for _, settings in study.begin(count)]
        study.close()
        return found

    seed = next(seed for seed in range(20) if drawn(seed, 2) == [17, 16])
    with pytest.raises(DenselyError, match=r"No trial came to its end.*depth 17 does not fit") as failed:
        tiny(space, tmp_path / "sweep", seed=seed, trials=1)
    assert failed.value.exit_code == 1
    done = tiny(space, tmp_path / "sweep", seed=seed, trials=2)
    assert [(t.number, t.state) for t in done.trials] == [(1, "done"), (0, "failed")]
    page = (tmp_path / "sweep" / "sweep.html").read_text()
    assert "depth 17 does not fit" in page


@pytest.mark.parametrize(
    ("space", "options", "said"),
    [
        (SPACE, {"trials": 0}, "--trials must be at least 1"),
        (SPACE, {"jobs": 0}, "--jobs must be at least 1"),
        (SPACE, {"ray": "ray://10.0.0.1:10001"}, "start this one within it"),
        (parse({**RATES, "recipe": "notebook"}), {}, "give a schedule too"),
        (parse({**FIXED, "depth": {"low": 17, "high": 18}}), {}, "depth 17 does not fit"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_written(
    space: Space, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        tiny(space, tmp_path / "sweep", **options)
    assert not (tmp_path / "sweep").exists()


SPACE_FILE = """
model = "densenet-bc-16-8"
epochs = 3
learning_rate = {low = 0.001, high = 1.0, log = true}
"""


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    (folder / "space.toml").write_text(SPACE_FILE)
    command = [sys.executable, "-u", "-m", "densely", "sweep", "space.toml", "digits", "--limit", "100", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_two_at_a_time_it_is_stopped_and_goes_on(stop: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "--trials", "5", "--jobs", "2")
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith("trial "))
    process.send_signal(stop)
    output, errors = process.communicate(timeout=900)
    assert "Traceback" not in output + errors
    if stop == signal.SIGINT:
        assert process.returncode == 130
        assert "Go on with:  densely sweep space.toml digits --limit 100 --trials 5 --jobs 2" in errors
    before = {path: path.stat() for path in tmp_path.glob("runs/digits-sweep-1/trial-*/metrics.json")}
    assert before
    again = start(tmp_path, "--trials", "5", "--jobs", "2")
    output, errors = again.communicate(timeout=900)
    assert again.returncode == 0, errors
    assert len(re.findall(r"^trial \d", output, re.MULTILINE)) + len(before) >= 5
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits-sweep-1"}
    folder = tmp_path / "runs" / "digits-sweep-1"
    assert len(list(folder.glob("trial-*/metrics.json"))) == 5
    assert all(path.stat() == stat for path, stat in before.items())
    assert (folder / "space.toml").read_text() == SPACE_FILE
    assert "Train the best with:  densely train --config runs/digits-sweep-1/best.toml" in output


@pytest.mark.slow
def test_over_a_ray_cluster_the_same_trials_have_the_same_scores(tmp_path: Path) -> None:
    """A real cluster, of this machine alone."""
    pytest.importorskip("ray")
    here = start(tmp_path, "--trials", "2", "--out", "here")
    there = start(tmp_path, "--trials", "2", "--out", "there", "--ray", "local", "--jobs", "1")
    for process in (here, there):
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        assert "Train the best with" in output
    for name in ("trial-0000", "trial-0001"):
        one, other = (Run.open(tmp_path / place / name) for place in ("here", "there"))
        assert one.config == other.config
        scores = [json.loads((run.folder / "metrics.json").read_text())["val"]["loss"] for run in (one, other)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-3)
