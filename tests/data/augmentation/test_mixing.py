"""Mixing, on batches whose image i has the pixels i throughout: what a pixel shows tells where it came from."""

import numpy as np
import pytest

from densely.data.augmentation import mix
from densely.data.augmentation.mixing import cut_mix, mix_up
from densely.errors import UsageError

N, H, W = 12, 10, 14
IMAGES = np.broadcast_to(np.arange(N, dtype=np.float32)[:, None, None, None], (N, H, W, 2))
TARGETS = np.eye(N, dtype=np.float32)


def batches(count, function, *arguments):
    return [function(IMAGES, TARGETS, np.random.default_rng(seed), *arguments) for seed in range(count)]


def test_mixup_mixes_images_and_labels_by_one_share():
    for images, targets in batches(20, mix_up, 0.4):
        assert images.dtype == targets.dtype == np.float32
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        # A pixel is the mean of the numbers of its two images, weighted as the labels say.
        np.testing.assert_allclose(images[:, 3, 5, 1], targets @ np.arange(N), rtol=1e-5, atol=1e-5)
        assert (images == images[:, :1, :1]).all()
        partners = [set(np.flatnonzero(row)) | {i} for i, row in enumerate(targets)]
        assert any(len(pair) == 2 for pair in partners)
        share = np.diag(targets)[[len(pair) == 2 for pair in partners]]
        np.testing.assert_allclose(share, share[0], rtol=1e-5)


def test_mixup_s_share_is_beta_distributed():
    share = np.array([targets.diagonal().min() for _, targets in batches(3000, mix_up, 0.5)])
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)).
    assert abs(share.mean() - 0.5) < 0.03
    assert abs(share.var() - 1 / 8) < 0.01


def test_cutmix_s_labels_are_the_exact_share_of_pixels():
    shares = []
    for images, targets in batches(200, cut_mix, 1.0):
        assert images.dtype == targets.dtype == np.float32
        for i in range(N):
            found = np.bincount(images[i, ..., 0].astype(int).ravel(), minlength=N) / (H * W)
            np.testing.assert_allclose(targets[i], found, atol=1e-6)
        foreign = (images[..., 0] != np.arange(N)[:, None, None]).any(axis=0)
        if foreign.any():  # one rectangle, at one place for the whole batch
            rows, columns = np.flatnonzero(foreign.any(axis=1)), np.flatnonzero(foreign.any(axis=0))
            assert foreign.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        shares.append(foreign.mean())
    assert min(shares) < 0.02
    assert max(shares) > 0.75


def test_several_labels_an_image():
    several = np.array([[1, 1, 0], [0, 1, 1]], np.float32)
    for seed in range(20):
        _, mixed = mix_up(np.zeros((2, 2, 2, 1), np.float32), several, np.random.default_rng(seed), 1.0)
        np.testing.assert_allclose(mixed[:, 1], 1, rtol=1e-6)
        np.testing.assert_allclose(mixed[:, 0] + mixed[:, 2], 1, rtol=1e-6)


def test_one_of_both_by_chance_a_batch():
    cut = 0
    for seed in range(400):
        images, _ = mix(IMAGES, TARGETS, np.random.default_rng(seed), mixup=1.0, cutmix=1.0)
        cut += np.array_equal(images, np.rint(images))
    assert 150 < cut < 250


def test_each_alone_and_none():
    for name, function in (("mixup", mix_up), ("cutmix", cut_mix)):
        got = mix(IMAGES, TARGETS, np.random.default_rng(3), **{name: 0.7})
        expected = function(IMAGES, TARGETS, np.random.default_rng(3), 0.7)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    rng = np.random.default_rng(0)
    images, targets = mix(IMAGES, TARGETS, rng)
    assert images is IMAGES
    assert targets is TARGETS
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("alpha", [-1, float("inf"), float("nan")])
def test_refuses_an_alpha_that_is_negative_or_not_finite(name, alpha):
    with pytest.raises(UsageError, match=str(alpha)):
        mix(IMAGES, TARGETS, np.random.default_rng(0), **{name: alpha})
