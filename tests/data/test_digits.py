import numpy as np
from sklearn.datasets import load_digits

from densely.data import digits


def test_counts_and_names():
    parts = digits.load()
    assert (len(parts.train), len(parts.test), parts.val) == (1438, 359, None)
    assert parts.train.input_shape == (8, 8, 1)
    assert parts.train.class_names == tuple("0123456789")


def test_both_parts_together_are_scikit_learns_digits_on_the_full_scale():
    parts = digits.load()
    bunch = load_digits()
    expected = sorted(
        (tuple(round(pixel * 255 / 16 + 1e-9) for pixel in image.ravel()), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    found = sorted(
        (tuple(image.ravel().tolist()), int(label))
        for part in (parts.train, parts.test)
        for image, label in zip(part.images, part.labels, strict=True)
    )
    assert found == expected
    assert (parts.train.images.min(), parts.train.images.max()) == (0, 255)


def test_the_test_part_is_fixed_and_stratified():
    parts = digits.load()
    share = parts.test.class_counts() / (parts.test.class_counts() + parts.train.class_counts())
    assert np.abs(share - 0.2).max() < 0.005
    # Published figures refer to these very images.
    assert parts.test.fingerprint() == digits.load().test.fingerprint()
    assert parts.test.fingerprint()[:16] == "11318e63b5effd36"
