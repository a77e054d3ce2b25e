"""WeightAverage against a loop over plain arrays."""

import keras
import numpy as np
import pytest

from densely.training.averaging import WeightAverage


@pytest.fixture
def model() -> keras.Model:
    inputs = keras.Input((3,))
    outputs = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(keras.layers.Dense(2)(inputs)))
    return keras.Model(inputs, outputs)


def moved(model: keras.Model, step: int) -> list[np.ndarray]:
    """Give every weight new values; statistics too."""
    rng = np.random.default_rng(step)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape))
    return [v.numpy() for v in model.weights]


def test_it_is_the_exponential_average_with_a_quick_start(model: keras.Model) -> None:
    average = WeightAverage(model, 0.8)
    expected = [v.numpy() for v in model.weights]
    for step in range(1, 60):
        values = moved(model, step)
        decay = min(0.8, step / (step + 9))
        expected = [decay * e + (1 - decay) * v for e, v in zip(expected, values, strict=True)]
        average.update()
    with average.applied():
        for variable, value in zip(model.weights, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, rtol=1e-4, atol=1e-6)


def test_the_model_s_own_weights_come_back_even_after_an_error(model: keras.Model) -> None:
    average = WeightAverage(model, 0.9)
    own = moved(model, 1)
    average.update()
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    for variable, value in zip(model.weights, own, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_average_survives_being_applied(model: keras.Model) -> None:
    average = WeightAverage(model, 0.9)
    moved(model, 1)
    average.update()
    with average.applied():
        first = [v.numpy() for v in model.weights]
    with average.applied():
        second = [v.numpy() for v in model.weights]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
