"""Affine movements against SciPy's, one image and one channel after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform

from densely.data.augmentation.affine import affine, matrices, rotations


def by_scipy(images, moves, border):
    out = np.empty(images.shape)
    for i, image in enumerate(images):
        centre = (np.array(image.shape[:2]) - 1) / 2
        matrix, offset = moves[i, :, :2], moves[i, :, 2]
        for channel in range(image.shape[2]):
            plane = image[..., channel].astype(float)
            mode = {"mean": "grid-constant", "reflect": "mirror"}[border]
            out[i, ..., channel] = affine_transform(
                plane, matrix, centre + offset - matrix @ centre, order=1, mode=mode, cval=np.rint(plane.mean())
            )
    return out


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 5)),
    border=st.sampled_from(["mean", "reflect"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_equals_scipy(shape, border, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    moves = rng.uniform(-1.5, 1.5, (shape[0], 2, 3)) * [1, 1, 3]
    got = affine(images, moves, border)
    assert got.dtype == np.uint8
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, by_scipy(images, moves, border), atol=0.51)


def test_nothing_moves_without_a_movement():
    images = np.random.default_rng(0).integers(0, 256, (4, 7, 5, 13), dtype=np.uint8)
    np.testing.assert_array_equal(affine(images, matrices(4)), images)


@pytest.mark.parametrize("border", ["mean", "reflect"])
def test_a_quarter_turn_is_numpy_s(border):
    images = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3), dtype=np.uint8)
    got = affine(images, rotations(np.array([np.pi / 2])), border)
    np.testing.assert_allclose(got, np.rot90(images, axes=(1, 2)).astype(int), atol=1)


def test_a_move_brings_in_the_image_s_own_mean_colour():
    images = np.stack([np.full((4, 4, 2), (10, 200)), np.full((4, 4, 2), (90, 30))]).astype(np.uint8)
    np.testing.assert_array_equal(affine(images, matrices(2, down=3.0, right=-2.0)), images)
