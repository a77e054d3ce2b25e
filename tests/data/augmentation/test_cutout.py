import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.data.augmentation import cutout
from densely.errors import UsageError


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
    size=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_equals_one_image_at_a_time(shape, size, seed):
    images = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    got = cutout(images, np.random.default_rng(seed), size, fill=7)
    rng = np.random.default_rng(seed)
    n, h, w, _ = shape
    rows, columns = rng.integers(h, size=n), rng.integers(w, size=n)
    expected = images.copy()
    for image, y, x in zip(expected, rows, columns, strict=True):
        top, left = y - size // 2, x - size // 2
        image[max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)] = 7
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float32


def test_a_square_far_from_the_border_is_whole_and_zero():
    images = np.ones((4000, 31, 31, 2), np.float32)
    blank = (cutout(images, np.random.default_rng(0), 5) == 0).sum((1, 2, 3))
    assert blank.max() == 5 * 5 * 2
    assert blank.min() == 3 * 3 * 2  # its centre in a corner: the corner pixel, and two on to each side
    assert np.mean(blank == 50) > 0.6


def test_refuses_a_negative_size():
    with pytest.raises(UsageError, match="-1 pixels wide"):
        cutout(np.ones((1, 2, 2, 1), np.float32), np.random.default_rng(0), -1)
