import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.data.augmentation import flip_vertically, shift_and_flip, turn, zoom_and_crop
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


def test_those_that_are_named_are_mirrored_and_no_coin_is_drawn():
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    named = np.array([True, False, False, True, True, False])
    draws, same = np.random.default_rng(1), np.random.default_rng(1)
    got = shift_and_flip(images, draws, shift=1, flip=named)
    moved = shift_and_flip(images, same, shift=1, flip=False)
    np.testing.assert_array_equal(got, np.where(named[:, None, None, None], moved[:, :, ::-1], moved))
    assert draws.random() == same.random()


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


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_turns_are_numpy_s_and_equally_frequent():
    images = noise(2000, 3, 3, 2)
    turned = turn(images, np.random.default_rng(1))
    equal = np.array([(np.rot90(images, k, axes=(1, 2)) == turned).all((1, 2, 3)) for k in range(4)])
    assert (equal.sum(axis=0) == 1).all()
    np.testing.assert_allclose(equal.mean(axis=1), 0.25, atol=0.05)


def test_half_are_upside_down():
    images = noise(2000, 3, 4, 1)
    upset = flip_vertically(images, np.random.default_rng(1))
    equal = np.array([(images == upset).all((1, 2, 3)), (images[:, ::-1] == upset).all((1, 2, 3))])
    assert (equal.sum(axis=0) == 1).all()
    np.testing.assert_allclose(equal.mean(axis=1), 0.5, atol=0.05)


def slopes(h, w, n):
    """Images whose first channel tells the row and whose second the column, in units of 1/255 of the side."""
    y, x = np.mgrid[:h, :w]
    image = np.stack([y * 255 / (h - 1), x * 255 / (w - 1)], axis=-1)
    return np.rint(np.tile(image, (n, 1, 1, 1))).astype(np.uint8)


@pytest.mark.parametrize(("least", "ratio"), [(0.35, (3 / 4, 4 / 3)), (0.8, (3 / 4, 4 / 3)), (0.2, (1.0, 1.0))])
def test_crops_have_the_areas_and_ratios_asked_for_and_lie_inside(least, ratio):
    h, w = 40, 60
    cut = zoom_and_crop(slopes(h, w, 3000), np.random.default_rng(0), least, ratio).astype(float)
    # How fast the slopes still rise, away from the border, is how much of each side is seen.
    tall = (cut[:, 30, 30, 0] - cut[:, 10, 30, 0]) * (h - 1) / (255 * 20)
    wide = (cut[:, 20, 45, 1] - cut[:, 20, 15, 1]) * (w - 1) / (255 * 30)
    area, stretch = tall * wide, wide / tall
    tolerance = 0.06
    assert area.max() < 1 + tolerance
    assert np.quantile(area, 0.01) > least * (1 - 0.25) - tolerance  # a side cut to the image's makes it smaller
    assert abs(np.median(area) - (1 + least) / 2) < tolerance
    assert ratio[0] - tolerance < np.quantile(stretch, 0.01)
    assert np.quantile(stretch, 0.99) < ratio[1] + tolerance
    # A rectangle inside the image shows each slope rising all the way, and all of them together reach every border.
    assert (np.diff(cut[:, :, 30, 0], axis=1) >= -1).all()
    assert (np.diff(cut[:, 20, :, 1], axis=1) >= -1).all()
    assert cut.min() <= 3
    assert cut.max() >= 252


def test_a_crop_of_everything_is_the_image():
    images = noise(5, 7, 6, 3)
    np.testing.assert_array_equal(zoom_and_crop(images, np.random.default_rng(0), 1.0, (1.0, 1.0)), images)


def test_geometry_refuses():
    images, rng = noise(2, 4, 5, 3), np.random.default_rng(0)
    with pytest.raises(UsageError, match="4x5 cannot be turned"):
        turn(images, rng)
    for arguments in ((0.0,), (1.5,), (0.5, (2.0, 1.0)), (0.5, (0.0, 1.0))):
        with pytest.raises(UsageError, match="crop"):
            zoom_and_crop(images, rng, *arguments)
