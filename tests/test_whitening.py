"""The whitening stem: decorrelated outputs, nothing trained, kept with the weights."""

from pathlib import Path

import keras
import numpy as np
import pytest

from densely import architecture, whitening


@pytest.fixture
def images() -> np.ndarray:
    """Smooth, correlated images."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 18, 18, 3))
    smooth = noise[:, 1:-1, 1:-1] + noise[:, 2:, 1:-1] + noise[:, 1:-1, 2:]
    return (smooth + 0.5 * smooth[..., ::-1]).astype("float32")


def test_patches_leave_decorrelated_with_mean_square_one(images: np.ndarray) -> None:
    layer = whitening.Whitening()
    layer.build(images.shape)
    layer.set_from([images])
    out = np.asarray(keras.ops.convert_to_numpy(layer(images)))[:, :-1, :-1]  # without the padded border
    rows = out.reshape(-1, 24)[:, :12]
    np.testing.assert_allclose(rows.T @ rows / len(rows), np.eye(12), atol=0.02)
    np.testing.assert_allclose(out[..., 12:], -out[..., :12], atol=1e-6)


def test_directions_without_variance_are_not_blown_up() -> None:
    flat = np.ones((4, 6, 6, 1), "float32")
    assert np.isfinite(whitening.filters([flat])).all()
    assert np.abs(whitening.filters([flat])).max() < 1 / np.sqrt(whitening.EPSILON) + 1


def test_it_is_not_trained_and_is_saved_with_the_weights(images: np.ndarray, tmp_path: Path) -> None:
    network = architecture.spec("densenet-fast", input_shape=(16, 16, 3), layers=(1, 1), growth_rate=4)
    model = architecture.build(network)
    whitening.fit(model, [images])
    layer = model.get_layer("whitening")
    assert not layer.trainable_weights
    np.testing.assert_array_equal(layer.kernel.numpy(), whitening.filters([images]))
    model.save_weights(tmp_path / "w.weights.h5")
    again = architecture.build(network)
    again.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(again.predict_on_batch(images), model.predict_on_batch(images), rtol=1e-5)


def test_a_saved_model_opens(images: np.ndarray, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), whitening.Whitening(), keras.layers.GlobalAveragePooling2D()])
    whitening.fit(model, [images])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict_on_batch(images), model.predict_on_batch(images), rtol=1e-5)


@pytest.mark.parametrize(("n", "most"), [(3, 5), (5, 5), (6, 5), (49_000, 5_000)])
def test_a_sample_comes_from_all_over(n: int, most: int) -> None:
    sample = whitening.sample(np.arange(n), most)
    assert most / 2 < len(sample) <= most or len(sample) == n
    steps = np.diff(np.append(sample, n))
    assert sample[0] == 0 and steps.max() <= steps[0]
