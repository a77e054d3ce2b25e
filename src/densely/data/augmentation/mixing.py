"""Two images in one, and two labels: mixup and CutMix.

Sources: H. Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018; S. Yun et al., *CutMix: Regularization
Strategy to Train Strong Classifiers with Localizable Features*, ICCV 2019. As in the authors' code, a batch has one λ,
and each image's partner is another of the batch by a random permutation.
"""

import math

import numpy as np
from numpy.typing import NDArray

from densely.errors import UsageError

Floats = NDArray[np.float32]


def mix(
    images: Floats, targets: Floats, rng: np.random.Generator, *, mixup: float = 0.0, cutmix: float = 0.0
) -> tuple[Floats, Floats]:
    """Apply mixup or CutMix to a batch; if both are given, either with probability one half.

    Args:
        images: float32 (n, h, w, c).
        targets: float32 (n, classes): one-hot labels, or zeros and ones for several labels an image.
        rng: what is drawn: a coin if both are given, then what the chosen one draws.
        mixup: its α; 0 leaves it out.
        cutmix: its α; 0 leaves it out.

    Returns:
        New images and targets of the same shapes and types; what was given, if both are 0.

    Raises:
        UsageError: an α is negative or not finite.
    """
    if not (0 <= mixup < math.inf and 0 <= cutmix < math.inf):
        raise UsageError(f"The α of mixup is {mixup} and that of CutMix {cutmix}: both must be finite, from 0 on.")
    if mixup and (not cutmix or rng.random() < 0.5):
        return mix_up(images, targets, rng, mixup)
    if cutmix:
        return cut_mix(images, targets, rng, cutmix)
    return images, targets


def mix_up(images: Floats, targets: Floats, rng: np.random.Generator, alpha: float) -> tuple[Floats, Floats]:
    """Mixup: λ of each image and its labels, 1 - λ of its partner's.

    `rng` gives λ ~ Beta(alpha, alpha), then the permutation.
    """
    share = np.float32(rng.beta(alpha, alpha))
    partner = rng.permutation(len(images))
    return _blend(images, images[partner], share), _blend(targets, targets[partner], share)


def cut_mix(images: Floats, targets: Floats, rng: np.random.Generator, alpha: float) -> tuple[Floats, Floats]:
    """CutMix: a rectangle of each image comes from its partner, and as large a share of the labels.

    `rng` gives λ ~ Beta(alpha, alpha), the permutation, then row and column of the rectangle's centre. The rectangle
    has the image's proportions, covers 1 - λ of it, lies at one place for the whole batch, and is cut where it sticks
    out; the labels are mixed by the pixels that it then has.
    """
    h, w = images.shape[1:3]
    side = np.sqrt(1 - rng.beta(alpha, alpha))
    partner = rng.permutation(len(images))
    rows = _span(rng, h, side)
    columns = _span(rng, w, side)
    mixed = images.copy()
    mixed[:, rows, columns] = images[partner, rows, columns]
    replaced = (rows.stop - rows.start) * (columns.stop - columns.start) / (h * w)
    return mixed, _blend(targets, targets[partner], np.float32(1 - replaced))


def _span(rng: np.random.Generator, length: int, share: float) -> slice:
    """A stretch of `share` of the `length`, about any of its pixels, cut at both ends."""
    reach = int(length * share)
    start = int(rng.integers(length)) - reach // 2
    return slice(max(start, 0), min(start + reach, length))


def _blend(one: Floats, other: Floats, share: np.float32) -> Floats:
    return share * one + (1 - share) * other
