"""The learning-rate sweep: on curves whose answer is known, and on real digits."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densely.errors import DenselyError, UsageError
from densely.training import finder

RATES = np.geomspace(1e-4, 10, 100)


def test_the_steepest_fall_of_a_known_curve() -> None:
    """A logistic fall around 0.01, then a wall at 1."""
    x = np.log10(RATES)
    losses = 1 / (1 + np.exp(6 * (x + 2))) + np.where(x > 0, 10 * x**2, 0)
    assert finder.steepest(RATES, losses) == pytest.approx(0.01, rel=0.2)


def test_a_loss_that_never_falls_is_told() -> None:
    with pytest.raises(DenselyError, match="never fell"):
        finder.steepest(RATES, np.linspace(1, 2, 100))


def test_real_digits(tmp_path: Path) -> None:
    sweep = finder.find_learning_rate(
        "digits", model="densenet-bc-16-8", steps=60, highest=100.0, limit=400, console=Console(quiet=True)
    )
    assert 1e-3 < sweep.suggestion < 10
    assert len(sweep.rates) == len(sweep.losses)
    assert sweep.losses.min() < 0.9 * sweep.losses[0]
    finder.draw(sweep, tmp_path / "curve.png", "digits")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1050, 600)


def test_the_losses_are_those_of_the_single_steps() -> None:
    """Keras reports running means of an epoch; the sweep takes them apart again."""
    rise = finder._Rise(RATES[:4])
    rise.set_model(type("Model", (), {"optimizer": type("Optimizer", (), {})(), "stop_training": False})())
    own = [4.0, 2.0, 3.0, 1.0]
    for epoch in range(2):
        rise.on_epoch_begin(epoch)
        for batch in range(2):
            rise.on_train_batch_begin(batch)
            rise.on_train_batch_end(batch, {"loss": np.mean(own[2 * epoch : 2 * epoch + batch + 1])})
    expected, average = [], 0.0
    for t, loss in enumerate(own, start=1):
        average = 0.9 * average + 0.1 * loss
        expected.append(average / (1 - 0.9**t))
    assert rise.losses == pytest.approx(expected)
    assert rise.model.stop_training


@pytest.mark.parametrize("changes", [{"lowest": 0.0}, {"lowest": 1.0, "highest": 0.1}, {"steps": 5}])
def test_impossible_sweeps_are_refused(changes: dict) -> None:
    with pytest.raises(UsageError):
        finder.find_learning_rate("digits", **changes)
