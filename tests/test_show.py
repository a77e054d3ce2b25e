"""The picture of what a training sees: which pixels stand where, and which words."""

import numpy as np
import pytest
from PIL import Image

from densely import data
from densely.data import Dataset, Preprocessing
from densely.errors import UsageError
from densely.recipes import Recipe
from densely.show import describe, draw, preview
from densely.training.batches import Batches


def colours(side=64, channels=3, classes=3, several=False):
    """Two flat images a class, of a colour of its own; a cell of the picture is then of one colour too."""
    labels = np.repeat(np.arange(classes), 2)
    levels = (40 + 60 * labels[:, None] + 10 * np.arange(channels)).astype(np.uint8)
    images = np.broadcast_to(levels[:, None, None, :], (len(labels), side, side, channels)).copy()
    given = np.eye(classes, dtype=np.uint8)[labels] if several else labels
    return Dataset(images, given, tuple("abcdefghij"[:classes]), "colours/train")


def cells(picture: Image.Image, colour: tuple[int, int, int]) -> float:
    """How many images of 128 x 128 pixels that colour fills; edges of letters may have it here and there."""
    return round((np.asarray(picture) == np.array(colour, dtype=np.uint8)).all(axis=2).sum() / 128**2, 2)


@pytest.mark.parametrize("preprocessing", ["unit", "standardise"])
@pytest.mark.parametrize("several", [False, True])
def test_a_row_a_class_the_image_and_its_variants(preprocessing, several):
    picture = draw(colours(several=several), Recipe(preprocessing=preprocessing), variants=4)
    for label in range(3):
        colour = (40 + 60 * label, 50 + 60 * label, 60 + 60 * label)
        assert cells(picture, colour) == 1 + 4


def test_the_variants_are_what_the_batches_of_a_training_hold():
    images = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3), dtype=np.uint8)
    one = Dataset(images, np.zeros(1, int), ("only",), "one/train")
    recipe = Recipe(policy="trivial", shift=9, flip=True, cutout=30, preprocessing="unit")
    picture = np.asarray(draw(one, recipe, seed=4, variants=2))
    batches = Batches(one, Preprocessing.fit(images, "unit"), recipe, seed=4, training=True)
    for epoch in range(2):
        batches.set_epoch(epoch)
        expected = np.rint(batches[0][0][0] * 255).astype(np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(picture, (128, 128), axis=(0, 1))
        starts = np.argwhere((windows[..., 0, 0] == expected[0, 0]).all(axis=2))
        assert any((picture[y : y + 128, x : x + 128] == expected).all() for y, x in starts)


def test_same_seed_same_picture_other_seed_another():
    recipe = Recipe(shift=20, mixup=1.0)
    first, again, other = (np.asarray(draw(colours(), recipe, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("channels", "shown"), [(1, (40, 40, 40)), (2, (45, 45, 45)), (5, (40, 50, 60))])
def test_any_number_of_channels(channels, shown):
    assert cells(draw(colours(channels=channels), Recipe(preprocessing="unit"), variants=1), shown) == 2


def test_large_images_are_made_smaller_and_classes_without_images_are_left_out():
    rare = Dataset(colours(300).images[2:], np.array([1, 1, 2, 2]), tuple("abcdefghij"), "rare")
    picture = draw(rare, Recipe(policy="trivial", mixup=0.2, cutmix=1.0), variants=8)
    assert picture.width < 1400
    assert picture.height < 500


@pytest.mark.parametrize(("classes", "rows"), [(7, 7), (10, 10), (100, 10)])
def test_at_most_ten_classes(classes, rows):
    images = np.full((classes, 8, 8, 1), 99, np.uint8)
    many = Dataset(images, np.arange(classes), tuple(map(str, range(classes))), "many")
    assert cells(draw(many, Recipe(preprocessing="unit"), variants=1), (99, 99, 99)) == rows * 2


def test_a_name_of_several_lines_is_drawn_in_one():
    pictures = []
    for name in ("guinea pig", "guinea\n pig"):
        named = Dataset(colours().images, colours().labels, (name, "b", "c"), f"{name}/train")
        pictures.append(np.asarray(draw(named, Recipe(mixup=0.2))))
    np.testing.assert_array_equal(*pictures)


def test_refuses_an_empty_picture():
    for nothing in ({"rows": 0}, {"variants": 0}):
        with pytest.raises(UsageError, match="at least one of each"):
            draw(colours(), Recipe(), **nothing)


def test_what_a_recipe_does_in_words():
    assert describe(Recipe()) == "every image as it is"
    assert describe(Recipe(shift=1, flip=True)) == (
        "shifted by up to 1 pixel (border: the mean colour); mirrored left to right by chance"
    )
    assert "border: black" in describe(Recipe(shift=4, preprocessing="unit"))
    assert "border: their mirror image" in describe(Recipe(shift=4, fill="reflect"))
    assert describe(Recipe(crop=0.35)) == "a random part of at least 35 % of the area, enlarged"
    both = describe(Recipe(turn=True, flip_vertically=True, policy="trivial", cutout=8, mixup=0.2, cutmix=1.0))
    words = ("quarters", "upside down", "TrivialAugment", "8 pixels blanked", "mixup, alpha 0.2), or else", "alpha 1)")
    places = [both.index(word) for word in words]
    assert places == sorted(places)


def test_by_name_and_without_images_of_the_test_part():
    test, train = np.zeros((4, 8, 8, 1), np.uint8), np.full((4, 8, 8, 1), 99, np.uint8)
    parts = data.Parts(
        Dataset(train, np.arange(4) % 2, ("a", "b"), "own/train"), None, Dataset(test, [0, 1, 0, 1], ("a", "b"), "own")
    )
    picture = preview(parts, "notebook")
    assert cells(picture, (99, 99, 99)) == 2 * 9
    with pytest.raises(UsageError, match="did you mean paper"):
        preview("digits", "papre")
