"""A training that streams its images ends with the very weights of one that holds them, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densely.runs import Run
from densely.training.single import train

QUICK = {
    **{"model": "densenet-bc-16-8", "size": (16, 16), "epochs": 2, "batch_size": 8, "network": {"dropout": 0.2}},
    **{"shift": 1, "flip": True, "mixup": 0.2, "val_fraction": 0.2, "console": Console(quiet=True)},
}
OPTIONS = [
    *("--model", "densenet-bc-16-8", "--size", "16", "--epochs", "2", "--batch-size", "8", "--dropout", "0.2"),
    *("--shift", "1", "--flip", "--mixup", "0.2", "--val-fraction", "0.2", "--save-every", "2"),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed") / "photos"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the training leaves that holds all images."""
    return left(train(photos, out=tmp_path_factory.mktemp("whole") / "run", **QUICK))


def left(run: Run) -> dict[str, object]:
    """Of all that a training leaves, but for times."""
    weights = {name: b"".join(w.numpy().tobytes() for w in run.model(name).weights).hex() for name in ("final", "best")}
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in run.history]
    splits = json.loads((run.folder / "splits.json").read_text())
    return {**weights, "metrics": run.metrics, "splits": splits, "history": history}


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    """Equal to the byte; not `==` in the test, which would print weights."""
    return one == other


@pytest.mark.parametrize(("cache", "workers"), [(10 * 16 * 16 * 3, 2), pytest.param(0, 0, marks=pytest.mark.slow)])
def test_streamed_it_comes_to_the_same_bytes(
    photos: Path, whole: dict[str, object], tmp_path: Path, cache: int, workers: int
) -> None:
    run = train(photos, out=tmp_path / "run", cache=cache, workers=workers, report=True, **QUICK)
    assert same(left(run), whole)
    assert (run.folder / "report.html").is_file()


def begin(*words: str) -> "subprocess.Popen[str]":
    """A command in a group of its own, so that what it leaves behind can be seen."""
    return subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def is_gone(group: int, seconds: float = 20.0) -> bool:
    """Whether all processes of a group have ended, or do so soon."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_killed_it_goes_on_with_other_workers_to_the_same_bytes(
    photos: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    folder, script = tmp_path / "run", str(Path(__file__).with_name("dying.py"))
    for moment, cache, workers in ((20, "5KB", "2"), (25, "0", "1"), (0, "20KB", "0")):
        more = ["--cache", cache, "--workers", workers]
        died = begin(script, str(moment), str(folder), "train", str(photos), "--out", str(folder), *OPTIONS, *more)
        _, told = died.communicate(timeout=300)
        assert died.returncode == (-signal.SIGKILL if moment else 0), told
        assert "Traceback" not in told
        assert is_gone(died.pid)
    assert same(left(Run.open(folder)), whole)


@pytest.mark.slow
def test_ctrl_c_ends_it_with_its_workers_and_without_a_traceback(photos: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "--epochs", "1000", "--cache", "0", "--workers", "2"]
    running = begin("-m", "densely", "train", str(photos), "--out", str(tmp_path / "run"), *options)
    until = time.monotonic() + 200
    while not (tmp_path / "run" / "history.csv").is_file() and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, told = running.communicate(timeout=100)
    assert running.returncode == 130, told
    assert "Go on with:" in told
    assert "Traceback" not in told
    assert is_gone(running.pid)
