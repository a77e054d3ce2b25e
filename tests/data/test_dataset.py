import numpy as np
import pytest

from densely.data import Dataset, Parts
from densely.errors import DataError


def images(n=4, h=3, w=2, c=1):
    return np.random.default_rng(0).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def dataset(labels=(0, 1, 1, 2), names=("a", "b", "c"), **shape):
    labels = np.array(labels)
    return Dataset(images(len(labels), **shape), labels, names, "toy")


def test_properties():
    data = dataset()
    assert (len(data), data.input_shape, data.classes, data.multi_label) == (4, (3, 2, 1), 3, False)
    assert data.class_counts().tolist() == [1, 2, 1]
    assert repr(data) == "<Dataset toy: 4 images of 3x2x1, 3 classes>"


def test_multi_label():
    data = Dataset(images(2), np.array([[1, 0, 1], [0, 0, 1]], dtype=bool), ("a", "b", "c"), "toy")
    assert data.multi_label
    assert data.labels.dtype == np.uint8
    assert data.class_counts().tolist() == [1, 0, 2]


def test_is_read_only_and_leaves_the_callers_arrays_alone():
    pixels, labels = images(), np.array([0, 1, 1, 2])
    data = Dataset(pixels, labels, ("a", "b", "c"), "toy")
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 0
    assert np.shares_memory(data.images, pixels)
    pixels[0], labels[0] = 0, 0  # still writeable


def test_take_keeps_the_order_asked_for():
    data = dataset()
    taken = data.take([3, 0])
    assert taken.labels.tolist() == [2, 0]
    np.testing.assert_array_equal(taken.images, data.images[[3, 0]])
    assert data.take(np.array([False, True, False, True])).labels.tolist() == [1, 2]


def test_fingerprint_sees_every_ingredient_and_nothing_else():
    data = dataset()
    strided = Dataset(np.asfortranarray(data.images), data.labels.astype(np.int8), data.class_names, "elsewhere")
    assert strided.fingerprint() == data.fingerprint()
    changed = data.images.copy()
    changed[3, 0, 0, 0] ^= 1
    others = [
        Dataset(changed, data.labels, data.class_names, "toy"),
        Dataset(data.images.reshape(4, 2, 3, 1), data.labels, data.class_names, "toy"),
        dataset(labels=(0, 1, 2, 2)),
        dataset(names=("a", "b", "d")),
        data.take([1, 0, 2, 3]),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 6


@pytest.mark.parametrize(
    ("pixels", "labels", "names", "message"),
    [
        (images().astype(np.float32), [0] * 4, "ab", "float32"),
        (images()[..., 0], [0] * 4, "ab", r"\(4, 3, 2\)"),
        ([[0]], [0], "ab", "list"),
        (images(0), [], "ab", "is empty"),
        (images(), [0, 1, 5, 0], "ab", "Label 5 at index 2 of toy is outside 0..1"),
        (images(), [0, -1, 0, 0], "ab", "Label -1 at index 1"),
        (images(2), [[0, 1], [2, 0]], "ab", r"Label 2 at index \(1, 0\)"),
        (images(), [0, 1], "ab", r"shape \(2,\)"),
        (images(), [0.0] * 4, "ab", "float64"),
        (images(), [0] * 4, "aa", "two classes named 'a'"),
        (images(), [0] * 4, "", "no class names"),
    ],
)
def test_refuses(pixels, labels, names, message):
    with pytest.raises(DataError, match=message):
        Dataset(pixels, np.array(labels, dtype=None if labels else np.int64), tuple(names), "toy")


def test_parts_must_belong_together():
    with pytest.raises(DataError, match="different classes"):
        Parts(dataset(), test=dataset(names=("a", "b", "x")))
    with pytest.raises(DataError, match="shape"):
        Parts(dataset(), val=dataset(h=5))
