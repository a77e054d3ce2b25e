import numpy as np
import pytest

from densely.data.augmentation import trivial
from densely.data.augmentation.trivial import OPERATIONS, operations, trivial_augment


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("border", ["mean", "reflect"])
def test_equals_one_image_at_a_time(channels, border):
    """The same draws, one image after another: who shares a batch changes nothing."""
    images = noise(60, 8, 10, channels)
    before = images.copy()
    got = trivial_augment(images, np.random.default_rng(5), border)
    rng = np.random.default_rng(5)
    names = operations(channels)
    drawn = rng.integers(len(names), size=60)
    strength = rng.uniform(-1, 1, 60)
    assert set(drawn) == set(range(len(names)))
    for i in range(60):
        alone = OPERATIONS[names[drawn[i]]](images[i : i + 1], strength[i : i + 1], border)
        np.testing.assert_array_equal(got[i : i + 1], alone, err_msg=names[drawn[i]])
    np.testing.assert_array_equal(images, before)
    assert got.dtype == np.uint8


def test_saturation_is_for_colours_only():
    assert set(operations(3)) - set(operations(1)) == {"saturation"}
    assert operations(1) == operations(2) == operations(4)
    assert len(operations(3)) == 14


def test_every_operation_but_identity_changes_and_none_does_at_no_strength():
    images = noise(1, 12, 12, 3) // 2
    for name, operation in OPERATIONS.items():
        strong = operation(images, np.array([0.9]), "mean")
        assert np.array_equal(strong, images) == (name == "identity"), name
        if name not in ("equalize", "autocontrast"):  # they have no strength
            np.testing.assert_array_equal(operation(images, np.array([0.0]), "mean"), images, err_msg=name)


def test_every_operation_is_drawn_equally_often(monkeypatch):
    counts = dict.fromkeys(OPERATIONS, 0)

    def counting(name):
        def count(images, strength, border):
            counts[name] += len(images)
            return images

        return count

    monkeypatch.setattr(trivial, "OPERATIONS", {name: counting(name) for name in OPERATIONS})
    trivial_augment(np.zeros((14_000, 1, 1, 3), np.uint8), np.random.default_rng(0))
    assert sum(counts.values()) == 14_000
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_one_pixel_is_enough():
    for channels in (1, 3):
        assert trivial_augment(noise(50, 1, 1, channels), np.random.default_rng(0)).shape == (50, 1, 1, channels)
