"""All steps together: their order, and that a setting left out draws nothing."""

import numpy as np
import pytest

from densely.data import Augmentation, Preprocessing, augment, shift_and_flip
from densely.data.augmentation import cutout, flip_vertically, trivial_augment, turn, zoom_and_crop
from densely.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
STANDARDISE = Preprocessing.fit(IMAGES, "standardise")


def rng():
    return np.random.default_rng(9)


def test_a_shift_that_leaves_nothing_is_refused():
    images = IMAGES[:2, :8, :6]
    with pytest.raises(UsageError, match="6"):
        augment(images, rng(), Augmentation(shift=6), STANDARDISE)
    assert augment(images, rng(), Augmentation(shift=5), STANDARDISE).shape == images.shape


def test_nothing_by_default():
    np.testing.assert_array_equal(augment(IMAGES, rng(), Augmentation(), STANDARDISE), STANDARDISE(IMAGES))


def test_the_paper_s_shift_follows_the_preprocessing_and_draws_alone():
    got = augment(IMAGES, rng(), Augmentation(shift=4, flip=True), STANDARDISE)
    np.testing.assert_array_equal(got, shift_and_flip(STANDARDISE(IMAGES), rng(), shift=4, flip=True))


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_mirrored_names_the_images_where_flips_are_asked_for(fill):
    named = np.arange(len(IMAGES)) % 3 == 0
    got = augment(IMAGES, rng(), Augmentation(flip=True, fill=fill), STANDARDISE, named)
    pixels = STANDARDISE(IMAGES)
    np.testing.assert_array_equal(got, np.where(named[:, None, None, None], pixels[:, :, ::-1], pixels))
    np.testing.assert_array_equal(augment(IMAGES, rng(), Augmentation(), STANDARDISE, named), pixels)


@pytest.mark.parametrize("fill", ["zero", "reflect"])
def test_all_steps_in_order(fill):
    everything = Augmentation(0.5, True, True, 2, True, fill, "trivial", 5)
    before = IMAGES.copy()
    got = augment(IMAGES, rng(), everything, STANDARDISE)
    draws = rng()
    images = flip_vertically(turn(zoom_and_crop(IMAGES, draws, 0.5), draws), draws)
    if fill == "reflect":
        images = shift_and_flip(images, draws, shift=2, flip=True, fill="reflect")
        expected = STANDARDISE(trivial_augment(images, draws, "reflect"))
    else:
        expected = shift_and_flip(STANDARDISE(trivial_augment(images, draws, "mean")), draws, shift=2, flip=True)
    np.testing.assert_array_equal(got, cutout(expected, draws, 5))
    np.testing.assert_array_equal(IMAGES, before)
    assert got.dtype == np.float32


def test_what_does_not_fit_the_images_is_told():
    for settings in (Augmentation(turn=True), Augmentation(shift=8, fill="reflect"), Augmentation(crop=2.0)):
        with pytest.raises(UsageError):
            augment(IMAGES[:, :8], rng(), settings, STANDARDISE)
