"""TrivialAugment: one operation an image, of random kind and random strength, and nothing to tune.

Source: S. G. Müller, F. Hutter, *TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation*, ICCV 2021.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from densely.data.augmentation import colour
from densely.data.augmentation.affine import Border, affine, matrices, rotations

Operation = Callable[[NDArray[np.uint8], NDArray[np.float64], Border], NDArray[np.uint8]]

SHEAR = 0.99
TRANSLATE = 0.45
"""Of the side. The paper's wide range, 32 pixels, can move an image of 32 out of sight; this is RandAugment's."""
ROTATE = np.deg2rad(135)
ENHANCE = 0.99
"""Factors of light and colour lie this far to both sides of 1."""

OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda x, s, border: x,
    "shear down": lambda x, s, border: affine(x, matrices(len(x), shear_down=SHEAR * s), border),
    "shear right": lambda x, s, border: affine(x, matrices(len(x), shear_right=SHEAR * s), border),
    "translate down": lambda x, s, border: affine(x, matrices(len(x), down=TRANSLATE * x.shape[1] * s), border),
    "translate right": lambda x, s, border: affine(x, matrices(len(x), right=TRANSLATE * x.shape[2] * s), border),
    "rotate": lambda x, s, border: affine(x, rotations(ROTATE * s), border),
    "brightness": lambda x, s, border: colour.brightness(x, 1 + ENHANCE * s),
    "contrast": lambda x, s, border: colour.contrast(x, 1 + ENHANCE * s),
    "sharpness": lambda x, s, border: colour.sharpness(x, 1 + ENHANCE * s),
    "posterize": lambda x, s, border: colour.posterize(x, 8 - np.rint(6 * abs(s))),
    "solarize": lambda x, s, border: colour.solarize(x, 256 * (1 - abs(s))),
    "equalize": lambda x, s, border: colour.equalize(x),
    "autocontrast": lambda x, s, border: colour.autocontrast(x),
    "saturation": lambda x, s, border: colour.saturation(x, 1 + ENHANCE * s),
}
"""By name: from images, strengths in -1..1 (one an image; the sign is the direction where there is one) and what lies
outside an image, to new images. The paper's "wide" ranges but for `TRANSLATE`."""

COLOUR_ONLY = ("saturation",)
"""What only RGB images can undergo."""


def operations(channels: int) -> tuple[str, ...]:
    """The names of the operations that images of so many channels can undergo."""
    return tuple(name for name in OPERATIONS if channels == 3 or name not in COLOUR_ONLY)


def trivial_augment(images: NDArray[np.uint8], rng: np.random.Generator, border: Border = "mean") -> NDArray[np.uint8]:
    """Change each image by one operation, all equally likely, and by a strength, all equally likely.

    Args:
        images: uint8 (n, h, w, c), any number of channels; not changed.
        rng: what is drawn, in this order: n operations, n strengths.
        border: what lies outside an image that is moved: `"mean"`, its own mean colour; `"reflect"`, its mirror image.
            The mean is the default because a mirrored piece may mean something else (digits, text), and because it
            is what the paper's zero padding is to a network that sees standardised pixels: nothing.

    Returns:
        New images of the same shape and type.
    """
    n, _, _, channels = images.shape
    names = operations(channels)
    drawn = rng.integers(len(names), size=n)
    strength = rng.uniform(-1, 1, size=(n,))
    changed = images.copy()
    for i, name in enumerate(names):
        group = np.flatnonzero(drawn == i)
        if len(group):
            changed[group] = OPERATIONS[name](images[group], strength[group], border)
    return changed
