"""Runs to export, trained once for all tests."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from densely.data import Dataset, Parts
from densely.runs import Run
from densely.training.single import train

TINY = {"model": "densenet-bc-16-8", "console": Console(quiet=True)}


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def digits(runs_folder: Path) -> Run:
    """Grey, ten classes."""
    return train("digits", out=runs_folder / "digits", epochs=3, **TINY)


@pytest.fixture(scope="session")
def several(runs_folder: Path) -> Run:
    """Several labels an image, in colour, with names that look like markup; given in Python."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (90, 3), dtype=np.uint8)
    images = (labels[:, None, None, :] * 200 + rng.integers(0, 40, (90, 12, 12, 3))).astype(np.uint8)
    names = ("red <b>", "green | co", "blue\nsky")
    return train(
        Dataset(images, labels, names, "squares"), out=runs_folder / "several", recipe="paper", epochs=1, **TINY
    )


@pytest.fixture(scope="session")
def digit_parts() -> Parts:
    from densely import data

    return data.load("digits")
