"""Before the first step: what counts as right."""

import keras
import numpy as np
import pytest

from densely import data
from densely.recipes import Recipe
from densely.training.preparation import _accuracy


def test_a_mixed_answer_is_right_on_the_side_of_its_larger_share() -> None:
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    lamps = data.Dataset(np.zeros((2, 8, 8, 1), np.uint8), labels, ("red", "green"), "lamps")
    metric = _accuracy(Recipe(mixup=0.4), lamps)
    truth = np.array([[0.3, 0.7], [1.0, 0.0], [0.5, 0.2]], np.float32)
    logits = np.array([[-1.0, 2.0], [3.0, 0.1], [0.2, -0.4]], np.float32)
    metric.update_state(keras.ops.convert_to_tensor(truth), keras.ops.convert_to_tensor(logits))
    assert float(metric.result()) == pytest.approx(5 / 6)
