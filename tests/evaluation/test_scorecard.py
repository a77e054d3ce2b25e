"""What is printed of scores."""

import io

import numpy as np
import pytest
from rich.console import Console

from densely.data import Dataset
from densely.evaluation import scores
from densely.evaluation.calibration import with_temperature
from densely.evaluation.scorecard import CLASSES, show


def dataset(labels: np.ndarray, names: tuple[str, ...]) -> Dataset:
    return Dataset(np.zeros((len(labels), 2, 2, 1), np.uint8), labels, names, "made up")


def shown(
    p: np.ndarray, data: Dataset, temperature: float | None = None, interval: tuple[float, float] | None = None
) -> list[str]:
    found = scores(p, data)
    if temperature is not None:
        found["calibration"] = {"fitted_on": "val", **with_temperature(p, data, temperature)}
    if interval is not None:
        found["calibration"]["temperature_ci95"] = list(interval)
    console = Console(file=io.StringIO(), width=120)
    show(found, console)
    return console.file.getvalue().splitlines()


def where(lines: list[str], words: str) -> int:
    (found,) = (i for i, line in enumerate(lines) if words in line)
    return found


def test_worst_class_first_and_confusions_by_their_number() -> None:
    names = ("cat", "dog", "[red]fox", "none")
    truth = np.repeat([0, 1, 2], [10, 10, 5])
    guess = np.array([0] * 7 + [1] * 3 + [1] * 9 + [2] + [2] * 5)
    lines = shown(np.eye(4)[guess], dataset(truth, names), temperature=1.5)
    text = "\n".join(lines)
    assert "84.00 %" in lines[where(lines, "95 % interval")]
    assert "1.500" in lines[where(lines, "fitted on val")]
    table = lines[where(lines, "precision") :]
    order = [where(table, f" {name} ") for name in ("cat  ", "dog  ", "[red]fox", "none")]
    assert order == sorted(order)
    assert "70.00 %" in table[order[0]]
    assert "–" in table[order[3]]
    assert lines[-2:] == ["  cat taken for dog: 3", "  dog taken for [red]fox: 1"]
    assert "more class" not in text
    assert "top-5" not in text


def test_a_temperature_that_may_as_well_be_1_is_doubted() -> None:
    data = dataset(np.array([0, 1, 1]), ("a", "b"))
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    doubt = "The validation part is too small to tell this temperature from 1 (95 % interval 0.81 to 2.50)"
    assert doubt in "\n".join(shown(p, data, 1.5, (0.8123, 2.4999)))
    for interval in ((1.1, 2.5), (0.3, 0.99), None):
        assert "too small" not in "\n".join(shown(p, data, 1.5, interval))


def test_no_mistakes_no_confusions() -> None:
    assert not any("confusions" in line for line in shown(np.eye(2), dataset(np.arange(2), ("a", "b"))))


@pytest.mark.parametrize(("extra", "says"), [(0, None), (1, "1 more class;"), (3, "3 more classes;")])
def test_many_classes_are_cut_and_counted(extra: int, says: str | None) -> None:
    n = CLASSES + extra
    lines = shown(np.eye(n), dataset(np.arange(n), tuple(f"kind-{i}" for i in range(n))))
    assert sum("kind-" in line for line in lines) == CLASSES
    assert any("more class" in line for line in lines) == (says is not None)
    assert says is None or any(says in line for line in lines)
    assert any("top-5" in line for line in lines)


def test_several_labels_an_image() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], np.uint8)
    p = np.array([[0.9, 0.2], [0.3, 0.4], [0.1, 0.9], [0.2, 0.6]])
    lines = shown(p, dataset(labels, ("lamp", "door")))
    assert "50.00 %" in lines[where(lines, "95 % interval")]
    assert any("mean average precision" in line for line in lines)
    assert where(lines, "│ door") < where(lines, "│ lamp")  # average precision 5/6 against 1
    assert lines[-3:] == ["  lamp missed: 2", "  door missed: 1", "  door seen where there is none: 1"]
