"""Changes of light and colour against Pillow's, which truncates where Densely rounds: one grey level apart at most."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from densely.data.augmentation import colour

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def with_pillow(images, change):
    """`change(i, image)` of each image as Pillow's, grey or RGB."""
    changed = [np.asarray(change(i, Image.fromarray(image.squeeze()))) for i, image in enumerate(images)]
    return np.stack(changed).reshape(images.shape).astype(int)


@pytest.mark.parametrize("name", ENHANCERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_enhancements_are_pillow_s(name, channels):
    if name == "saturation" and channels == 1:
        return  # grey images have none
    images, factor = noise(7, 9, 8, channels), np.array([0.01, 0.3, 0.8, 1.0, 1.2, 1.6, 1.99])
    got = getattr(colour, name)(images, factor)
    expected = with_pillow(images, lambda i, image: ENHANCERS[name](image).enhance(factor[i]))
    # Sharpening amplifies the rounding of the blurred image, contrast that of the mean grey.
    np.testing.assert_allclose(got, expected, atol=2)
    np.testing.assert_array_equal(got[3], images[3])


@pytest.mark.parametrize("channels", [1, 3])
def test_posterize_solarize_autocontrast_are_pillow_s(channels):
    images = noise(7, 9, 8, channels) // 2 + np.uint8(40)
    bits = np.arange(2, 9)
    np.testing.assert_array_equal(
        colour.posterize(images, bits.astype(float)),
        with_pillow(images, lambda i, image: ImageOps.posterize(image, int(bits[i]))),
    )
    threshold = np.array([0, 1, 60, 100, 128, 200, 256])
    np.testing.assert_array_equal(
        colour.solarize(images, threshold.astype(float)),
        with_pillow(images, lambda i, image: ImageOps.solarize(image, int(threshold[i]))),
    )
    np.testing.assert_allclose(
        colour.autocontrast(images), with_pillow(images, lambda i, image: ImageOps.autocontrast(image)), atol=1
    )


def equalized_by_hand(plane):
    """The textbook's histogram equalisation of one channel."""
    darkest = np.sum(plane == plane.min())
    if darkest == plane.size:
        return plane
    not_above = np.array([np.sum(plane <= value) for value in plane.ravel()]).reshape(plane.shape)
    return np.rint((not_above - darkest) * 255 / (plane.size - darkest))


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)),
    levels=st.integers(1, 256),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_equalize_is_the_textbook_s(shape, levels, seed):
    images = np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)
    got = colour.equalize(images)
    for i in range(shape[0]):
        for channel in range(shape[3]):
            np.testing.assert_array_equal(got[i, ..., channel], equalized_by_hand(images[i, ..., channel]))


def test_flat_images_stay():
    flat = np.full((2, 5, 4, 3), (7, 0, 255), dtype=np.uint8)
    for change in (colour.autocontrast, colour.equalize):
        np.testing.assert_array_equal(change(flat), flat)
    np.testing.assert_array_equal(colour.sharpness(flat, np.array([0.1, 1.9])), flat)


def test_many_channels_are_each_their_own():
    """What acts on every channel alone must give five channels what it gives each of them."""
    images = noise(3, 8, 7, 5)
    strength = np.array([0.2, 1.0, 1.7])
    for change in (
        lambda x: colour.brightness(x, strength),
        lambda x: colour.sharpness(x, strength),
        colour.autocontrast,
        colour.equalize,
    ):
        alone = np.concatenate([change(images[..., [channel]]) for channel in range(5)], axis=3)
        np.testing.assert_array_equal(change(images), alone)
    # The contrast is that of the image as a whole, about one mean grey.
    grey = np.rint(images.mean((1, 2, 3)))[:, None, None, None]
    assert np.abs(colour.contrast(images, np.zeros(3)) - grey).max() <= 1
