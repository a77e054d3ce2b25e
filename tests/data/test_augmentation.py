import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.data import shift_and_flip
from densely.errors import UsageError


def by_hand(images, rng, shift, flip, fill):
    """The same draws, one image and one step after another: mirror, pad, crop."""
    n, h, w, c = images.shape
    down, right = rng.integers(0, 2 * shift + 1, size=(2, n))
    coins = rng.random(n) if flip else np.ones(n)
    out = []
    for image, y, x, coin in zip(images, down, right, coins, strict=True):
        if isinstance(fill, str):
            padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="reflect")
        else:
            padded = np.full((h + 2 * shift, w + 2 * shift, c), fill, dtype=images.dtype)
            padded[shift : shift + h, shift : shift + w] = image
        cropped = padded[y : y + h, x : x + w]
        out.append(np.fliplr(cropped) if coin < 0.5 else cropped)
    return np.stack(out)


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(4, 7), st.integers(4, 7), st.integers(1, 4)),
    shift=st.integers(0, 3),
    flip=st.booleans(),
    kind=st.sampled_from(["number", "colour", "reflect"]),
    dtype=st.sampled_from([np.uint8, np.float32]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_equals_one_image_at_a_time(shape, shift, flip, kind, dtype, seed):
    images = np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)
    fill = {"number": 7, "colour": list(range(shape[3])), "reflect": "reflect"}[kind]
    before = images.copy()
    got = shift_and_flip(images, np.random.default_rng(seed), shift=shift, flip=flip, fill=fill)
    np.testing.assert_array_equal(got, by_hand(images, np.random.default_rng(seed), shift, flip, fill))
    np.testing.assert_array_equal(images, before)
    assert got.dtype == dtype
    assert got.flags.c_contiguous


def test_each_image_moves_on_its_own_and_every_offset_comes():
    images = np.zeros((2000, 9, 9, 1), dtype=np.uint8)
    images[:, 4, 4] = 255
    moved = shift_and_flip(images, np.random.default_rng(0), shift=4, flip=False)
    rows, columns = np.nonzero(moved[..., 0])[1:]
    counts = np.zeros((9, 9))
    np.add.at(counts, (rows, columns), 1)
    assert counts.sum() == 2000
    assert counts.min() > 5  # 24.7 expected at each of 81 places


def test_half_are_mirrored():
    images = np.tile(np.arange(4, dtype=np.uint8)[None, None, :, None], (2000, 4, 1, 1))
    moved = shift_and_flip(images, np.random.default_rng(0), shift=0)
    mirrored = moved[:, 0, 0, 0] == 3
    assert abs(mirrored.mean() - 0.5) < 0.05


def test_refuses():
    images, rng = np.zeros((2, 4, 4, 3), dtype=np.uint8), np.random.default_rng(0)
    for arguments in (
        {"shift": -1},
        {"shift": 4, "fill": "reflect"},
        {"fill": "mirror"},
        {"fill": (1, 2)},
        {"fill": 256},
        {"fill": -1},
    ):
        with pytest.raises(UsageError):
            shift_and_flip(images, rng, **arguments)
