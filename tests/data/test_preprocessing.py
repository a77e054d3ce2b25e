import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.data import Preprocessing, batch_rng, epoch_order, mirrored_in_turn
from densely.data import dataset as dataset_module
from densely.errors import DataError, UsageError


@given(st.integers(1, 500), st.integers(0, 2**40), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_epoch_order_is_a_permutation_and_pure(n, seed, epoch):
    order = epoch_order(n, seed, epoch)
    assert sorted(order) == list(range(n))
    np.testing.assert_array_equal(order, epoch_order(n, seed, epoch))


def test_epochs_and_seeds_differ():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(st.integers(1, 500), st.integers(0, 2**40), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_each_image_is_mirrored_in_every_second_epoch(n, seed, epoch):
    now = mirrored_in_turn(n, seed, epoch)
    assert now.shape == (n,) and now.dtype == np.bool_
    np.testing.assert_array_equal(now, ~mirrored_in_turn(n, seed, epoch + 1))
    np.testing.assert_array_equal(now, mirrored_in_turn(n, seed, epoch + 2))


def test_half_of_the_images_are_mirrored_first_and_another_half_with_another_seed():
    first, other = mirrored_in_turn(4000, 0, 0), mirrored_in_turn(4000, 1, 0)
    assert abs(first.mean() - 0.5) < 0.03
    assert abs((first == other).mean() - 0.5) < 0.03


def test_global_state_is_neither_used_nor_touched():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    first = epoch_order(20, 1, 2)
    np.random.seed(1)
    np.testing.assert_array_equal(first, epoch_order(20, 1, 2))
    np.random.seed(0)
    batch_rng(0, 0, 0).random(3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_the_stream_is_frozen():
    """A change here would break the exact resumption of runs begun before it."""
    assert epoch_order(8, seed=0, epoch=1).tolist() == [3, 4, 0, 6, 5, 2, 7, 1]


def test_batch_rng_is_pure_and_distinct():
    draws = {batch_rng(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2)]}
    assert len(draws) == 5
    assert batch_rng(3, 4, 5).random() == batch_rng(3, 4, 5).random()


images = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 3), dtype=np.uint8)


def test_unit():
    prepare = Preprocessing.fit(images, "unit")
    got = prepare(images)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, images.astype(np.float32) / np.float32(255))


def test_standardise_against_plain_float64():
    prepare = Preprocessing.fit(images, "standardise")
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(prepare.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(prepare.std, pixels.std((0, 1, 2)), rtol=1e-12)
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    np.testing.assert_allclose(prepare(images), expected, atol=1e-6)
    np.testing.assert_allclose(prepare(images[0]), expected[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["unit", "standardise"])
def test_undone_is_what_it_was(kind):
    prepare = Preprocessing.fit(images, kind)
    np.testing.assert_array_equal(prepare.undo(prepare(images)), images)
    extreme = np.array([-100, 0, 100], dtype=np.float32)
    assert prepare.undo(extreme).tolist()[::2] == [0, 255]


def test_fit_does_not_depend_on_the_chunks(monkeypatch):
    whole = Preprocessing.fit(images, "standardise")
    monkeypatch.setattr(dataset_module, "CHUNK_BYTES", 200)
    assert Preprocessing.fit(images, "standardise") == whole


def test_a_channel_that_never_varies():
    flat = images.copy()
    flat[..., 1] = 200
    prepare = Preprocessing.fit(flat, "standardise")
    assert prepare.std[1] == 1
    np.testing.assert_allclose(prepare(flat)[..., 1], 0, atol=1e-6)


def test_survives_json():
    prepare = Preprocessing.fit(images, "standardise")
    assert Preprocessing.from_dict(json.loads(json.dumps(prepare.as_dict()))) == prepare


def test_refuses():
    with pytest.raises(UsageError, match="did you mean unit"):
        Preprocessing.fit(images, "units")
    with pytest.raises(DataError, match="std above 0"):
        Preprocessing("standardise", (0.5,), (0.0,))
    with pytest.raises(DataError, match="cannot be read"):
        Preprocessing.from_dict({"kind": "unit"})
    with pytest.raises(UsageError, match="3 channels"):
        Preprocessing.fit(images, "unit")(images[..., :1])
    with pytest.raises(UsageError, match="float32"):
        Preprocessing.fit(images, "unit")(images.astype(np.float32))
