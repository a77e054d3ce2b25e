"""Scores against counts by hand."""

import numpy as np
import pytest

from densely.architecture import build
from densely.data import Dataset, Preprocessing
from densely.evaluation import probabilities, scores


def dataset(labels: np.ndarray, classes: int) -> Dataset:
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    return Dataset(images, labels, tuple(f"class {i}" for i in range(classes)), "made up")


def test_accuracy_loss_and_top5_by_hand() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8), size=50).astype(np.float32)
    labels = rng.integers(0, 8, 50)
    found = scores(p, dataset(labels, 8))
    right = sum(int(max(range(8), key=lambda c: row[c]) == label) for row, label in zip(p, labels, strict=True))
    in_top5 = sum(
        int(label in sorted(range(8), key=lambda c: -row[c])[:5]) for row, label in zip(p, labels, strict=True)
    )
    assert found["n"] == 50
    assert found["accuracy"] == right / 50
    assert found["top5_accuracy"] == in_top5 / 50
    assert found["loss"] == pytest.approx(-np.mean([np.log(p[i, labels[i]]) for i in range(50)]), rel=1e-6)


def test_few_classes_have_no_top5() -> None:
    assert "top5_accuracy" not in scores(np.eye(3, dtype=np.float32), dataset(np.arange(3), 3))


def test_several_labels_an_image_count_each_answer() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)
    p = np.array([[0.9, 0.2, 0.4], [0.6, 0.1, 0.8]], np.float32)
    found = scores(p, dataset(labels, 3))
    assert found["accuracy"] == 4 / 6
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.4, 0.9, 0.8]).mean(), rel=1e-6)


def test_a_certain_wrong_answer_has_a_finite_loss() -> None:
    assert np.isfinite(scores(np.array([[1.0, 0.0]], np.float32), dataset(np.array([1]), 2))["loss"])


def test_batch_size_does_not_change_the_result() -> None:
    model = build("densenet-bc-16-8", input_shape=(8, 8, 1), classes=3)
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 1), dtype=np.uint8)
    unit = Preprocessing.fit(images, "unit")
    whole = probabilities(model, images, unit)
    np.testing.assert_allclose(probabilities(model, images, unit, batch_size=5), whole, atol=1e-6)
    assert whole.shape == (23, 3)
