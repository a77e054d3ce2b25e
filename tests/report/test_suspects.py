"""Planted doubles and planted wrong labels are found, others are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.data import Dataset
from densely.report import suspects


def photographs(n: int, seed: int, side: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth random pictures, as different from one another as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 4, 4, channels)).astype(float)
    return np.kron(coarse, np.ones((1, side // 4, side // 4, 1))).astype(np.uint8)


def dataset(images: np.ndarray) -> Dataset:
    return Dataset(images, np.zeros(len(images), int), ("a", "b"), "made/train")


@given(
    which=st.integers(0, 29), mirrored=st.booleans(), bright=st.integers(-30, 30), contrast=st.floats(0.6, 1.0),
    noise=st.integers(0, 6), channels=st.sampled_from([1, 3, 5]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_a_training_image_mirrored_brighter_noisier_is_found(which, mirrored, bright, contrast, noise, channels):
    train = photographs(30, 0, channels=channels)
    copy = 128 + (train[which].astype(float) - 128) * contrast + bright
    copy = copy + np.random.default_rng(which).integers(-noise, noise + 1, copy.shape)
    copy = np.clip(copy[:, ::-1] if mirrored else copy, 0, 255).astype(np.uint8)
    held_out = np.concatenate([photographs(5, 1, channels=channels), copy[None]])
    index, likeness = suspects.nearest_training_images(dataset(held_out), dataset(train))
    pairs, count = suspects.twins(index, likeness)
    assert [(pair.held_out, pair.train) for pair in pairs] == [(5, which)]
    assert count == 1


def test_images_of_one_colour_are_like_nothing() -> None:
    flat = np.full((3, 16, 16, 3), 90, np.uint8)
    index, likeness = suspects.nearest_training_images(dataset(flat), dataset(flat))
    assert suspects.twins(index, likeness) == ([], 0)


@pytest.mark.parametrize("shape", [(8, 8), (5, 32), (33, 47)])
def test_thumbnails_are_the_means_of_equal_areas_standardised(shape: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, *shape, 2), dtype=np.uint8)
    found = suspects.thumbnails(images)
    rows, columns = suspects.thumbnail_shape(*shape)
    for image, thumbnail in zip(images, found, strict=True):
        grey = image.mean(axis=2)
        expected = np.array([
            [
                grey[r * shape[0] // rows : (r + 1) * shape[0] // rows,
                     c * shape[1] // columns : (c + 1) * shape[1] // columns].mean()
                for c in range(columns)
            ]
            for r in range(rows)
        ]).ravel()  # fmt: skip
        expected -= expected.mean()
        np.testing.assert_allclose(thumbnail, expected / np.linalg.norm(expected), atol=1e-5)


def clusters(n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes far apart in features, and a network that knows them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), n)
    features = np.eye(3)[labels] * 10 + rng.normal(size=(3 * n, 3)) * 0.1
    p = np.full((3 * n, 3), 0.05)
    p[np.arange(3 * n), labels] = 0.9
    return p.astype(np.float32), labels, features.astype(np.float32)


def test_planted_wrong_labels_are_found_and_named() -> None:
    p, labels, features = clusters()
    given_labels = labels.copy()
    given_labels[[3, 50, 99]] = [1, 2, 0]
    found = suspects.doubtful_labels(p, given_labels, features)
    assert {(one.image, one.suggestion) for one in found} == {(3, 0), (50, 1), (99, 2)}
    assert all(one.neighbours >= 0.8 and one.confidence == pytest.approx(0.9) for one in found)


def test_a_mistake_whose_neighbours_speak_for_its_label_is_no_suspect() -> None:
    p, labels, features = clusters()
    p[7] = [0.05, 0.9, 0.05]
    assert suspects.doubtful_labels(p, labels, features) == []


def test_few_images_have_no_neighbours_to_ask() -> None:
    p, labels, features = clusters(5)
    assert suspects.doubtful_labels(p, 2 - labels, features) == []
