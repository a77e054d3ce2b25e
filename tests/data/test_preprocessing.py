import json

import numpy as np
import pytest

from densely.data import Preprocessing
from densely.data import dataset as dataset_module
from densely.errors import DataError, UsageError

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
