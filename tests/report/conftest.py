"""Real runs, small ones, that reports are made of; each is trained once for all tests."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from densely.data import Dataset, Parts
from densely.runs import Run
from densely.training.single import train

TINY = {"model": "densenet-bc-16-8", "console": Console(quiet=True)}


def squares(n: int, classes: int, seed: int) -> Dataset:
    """Pictures of 12×12 with any of `classes` coloured squares in them, each in a place of its own."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, classes)) < 0.4).astype(np.uint8)
    images = rng.integers(0, 40, (n, 12, 12, 3), dtype=np.uint8)
    for i, c in np.argwhere(labels):
        row, column = divmod(int(c), 2)
        images[i, 6 * row + 1 : 6 * row + 5, 6 * column + 1 : 6 * column + 5, c % 3] = 230
    names = ("red <b>", "green & co", "blue", "grey")[:classes]
    return Dataset(images, labels, names, "squares/train")


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def digits(runs_folder: Path) -> Run:
    """Grey, ten classes, with a report."""
    return train("digits", out=runs_folder / "digits", epochs=4, report=True, **TINY)


@pytest.fixture(scope="session")
def other_digits(runs_folder: Path) -> Run:
    """The same with another seed and a higher rate."""
    return train("digits", out=runs_folder / "other", epochs=1, seed=1, learning_rate=0.2, **TINY)


@pytest.fixture(scope="session")
def cifar(runs_folder: Path, cifar_dir: Path) -> Run:
    """Colour, real photographs, augmented."""
    options = {"recipe": "few-shot", "epochs": 2, "limit": 400, "network": {"growth_rate": 8}, "data_dir": cifar_dir}
    return train("cifar10", out=runs_folder / "cifar", report=True, val_fraction=0.1, **options, **TINY)


@pytest.fixture(scope="session")
def hundred(runs_folder: Path, cifar_dir: Path) -> tuple[Run, Parts]:
    """A hundred classes, real photographs with labels drawn by lot: nobody could be right."""
    from densely import data

    parts = data.load("cifar10", data_dir=cifar_dir)
    names = tuple(f"kind number {i}" for i in range(100))

    def renamed(part: Dataset, n: int) -> Dataset:
        labels = np.random.default_rng(n).permutation(np.arange(n) % 100)
        return Dataset(part.images[:n], labels, names, "hundred/train")

    assert parts.test is not None
    made = Parts(renamed(parts.train, 500), renamed(parts.train, 200), renamed(parts.test, 1500))
    return train(made, out=runs_folder / "hundred", recipe="paper", epochs=1, report=True, **TINY), made


@pytest.fixture(scope="session")
def several(runs_folder: Path) -> tuple[Run, Parts]:
    """Several labels an image, with names that look like markup."""
    parts = Parts(squares(300, 4, 0), squares(80, 4, 1), squares(120, 4, 2))
    return train(parts, out=runs_folder / "several", recipe="paper", epochs=3, report=True, **TINY), parts
