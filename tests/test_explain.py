"""Class activation maps: exact, and where there is another way to compute them, equal to it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import densely
from densely import explain, pictures
from densely.data import Preprocessing
from densely.errors import DataError, UsageError
from densely.runs import Run
from densely.training.single import train


@pytest.fixture(scope="module")
def model():
    return densely.build("densenet-bc-16-8", input_shape=(16, 16, 3), classes=5)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 16, 16, 3)).astype("float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    quiet = Console(quiet=True)
    return train(
        "digits", model="densenet-bc-16-8", epochs=1, limit=200, out=tmp_path_factory.mktemp("r"), console=quiet
    )


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    Image.fromarray(densely.load("digits").test.images[0][..., 0]).save(path)
    return path


def test_the_mean_of_a_map_is_the_logit_of_its_class(model, pixels: np.ndarray) -> None:
    seen = explain.look(model, pixels, batch_size=4)
    classes = [0, 1, 2, 3, 4, 0]
    maps = seen.activation_maps(classes)
    assert maps.shape == (6, 4, 4)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), seen.logits[np.arange(6), classes], atol=1e-5)


def test_features_are_what_the_classifier_reads(model) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    unit = Preprocessing.fit(images, "unit")
    found = explain.features(model, images, unit, batch_size=2)
    seen = explain.look(model, unit(images))
    np.testing.assert_allclose(found, seen.maps.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(found @ seen.kernel + seen.bias, seen.logits, atol=1e-5)


def test_the_logits_are_those_of_the_whole_model(model, pixels: np.ndarray) -> None:
    logits = explain.look(model, pixels).logits
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, np.asarray(model.predict_on_batch(pixels)), atol=1e-5)


def test_grad_cam_of_the_last_maps_is_the_exact_map_without_bias_and_what_speaks_against(model, pixels) -> None:
    classes = [4, 3, 2, 1, 0, 4]
    seen = explain.look(model, pixels)
    exact = seen.activation_maps(classes) - seen.bias[classes][:, None, None]
    found = explain.grad_cam(model, pixels, classes, "final_relu")
    # The mean's gradient is 1/16 at each of the 4×4 pixels.
    np.testing.assert_allclose(found, np.maximum(exact, 0) / 16, atol=1e-5)


@pytest.mark.parametrize("layer", ["stem_conv", "dense_block_1", "transition_2", "dense_block_3"])
def test_grad_cam_of_any_layer_equals_the_reference_path_s(model, pixels: np.ndarray, layer: str) -> None:
    plain = densely.build("densenet-bc-16-8", input_shape=(16, 16, 3), classes=5, fused=False)
    plain.set_weights(model.get_weights())
    found = explain.grad_cam(model, pixels, [0] * 6, layer)
    assert found.min() >= 0
    np.testing.assert_allclose(found, explain.grad_cam(plain, pixels, [0] * 6, layer), atol=1e-5)


def test_a_layer_without_a_map_is_refused(model, pixels: np.ndarray) -> None:
    with pytest.raises(UsageError, match="no layer named 'global_pool'"):
        explain.grad_cam(model, pixels, [0] * 6, "global_pool")


def test_another_model_is_refused(pixels: np.ndarray) -> None:
    import keras

    other = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(UsageError, match="not one of Densely's"):
        explain.look(other, pixels)


def test_an_image_is_explained_by_its_likeliest_classes(run: Run, digit: Path) -> None:
    found = explain.explain(run, digit, top=3)
    guesses = densely.prediction.predict(run, [digit], top=3)[0]
    assert found.classes == tuple(guess.label for guess in guesses)
    assert found.probabilities == pytest.approx([guess.probability for guess in guesses])
    assert found.maps.shape[0] == 3
    picture = explain.draw(found)
    assert picture.mode == "RGB" and picture.width > 4 * 256


def test_a_class_of_one_s_own_and_a_layer(run: Run, digit: Path) -> None:
    found = explain.explain(run, digit, of="7", layer="dense_block_1")
    assert found.classes == ("7",)
    assert found.maps.shape == (1, 8, 8)


def test_wrong_asks_are_told(run: Run, digit: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no class named 'seven'"):
        explain.explain(run, digit, of="seven")
    with pytest.raises(UsageError, match="--top must be at least 1"):
        explain.explain(run, digit, top=0)
    with pytest.raises(UsageError, match="check the path"):
        explain.explain(run, tmp_path / "none.png")
    with pytest.raises(UsageError, match="the run's images are"):
        explain.explain(run, np.zeros((9, 9, 1), np.uint8))
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(DataError):
        explain.explain(run, tmp_path / "b.png")


def test_colour_grows_with_the_map_from_clear_to_yellow() -> None:
    layer = explain.overlay(np.linspace(-3, 5, 16, dtype="float32").reshape(4, 4))
    assert layer[0, 0, 3] == 0
    assert tuple(layer[3, 3]) == (255, 226, 40, 165)
    assert (np.diff(layer[..., 3].ravel().astype(int)) >= 0).all()
    assert explain.overlay(np.ones((2, 2), "float32"))[..., 3].max() == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_can_be_seen(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 5, channels), dtype=np.uint8)
    assert pictures.seen(image).size == (5, 9)
    assert explain.laid_over(image, np.ones((2, 2), "float32"), 100).size == (55, 99)
