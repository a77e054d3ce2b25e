"""Augmentation: what makes many different training images of few.

Everything is a pure function of images and random numbers, without a Python loop over images; `augment` does what a
training asks for, in order.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from densely.console import counted
from densely.data.augmentation.cutout import cutout
from densely.data.augmentation.geometry import flip_vertically, shift_and_flip, turn, zoom_and_crop
from densely.data.augmentation.mixing import mix
from densely.data.augmentation.trivial import trivial_augment
from densely.data.preprocessing import Preprocessing
from densely.errors import UsageError

__all__ = [
    "Augmentation",
    "augment",
    "cutout",
    "flip_vertically",
    "mix",
    "shift_and_flip",
    "trivial_augment",
    "turn",
    "zoom_and_crop",
]


@dataclass(frozen=True)
class Augmentation:
    """What to do to training images; by default nothing.

    Attributes:
        crop: cut out a random rectangle of at least this share of the area, and enlarge it; `None` leaves it out.
        turn: by 0 to 3 quarters; square images only.
        flip_vertically: upside down, every second image by chance.
        shift: random shift in pixels to each side.
        flip: mirror left to right, every second image by chance.
        fill: what comes in where something is moved. `"zero"`: after a shift 0 as the network sees it, black for unit
            pixels and the training part's mean colour for standardised ones (as in the paper's code); the policy
            fills in the image's own mean colour. `"reflect"`: the mirror image.
        policy: `"trivial"`, one random operation of place or colour of random strength (`trivial_augment`).
        cutout: side in pixels of a square that is blanked; 0 leaves it out.
    """

    crop: float | None = None
    turn: bool = False
    flip_vertically: bool = False
    shift: int = 0
    flip: bool = False
    fill: Literal["zero", "reflect"] = "zero"
    policy: Literal["none", "trivial"] = "none"
    cutout: int = 0


def augment(
    images: NDArray[np.uint8],
    rng: np.random.Generator,
    settings: Augmentation,
    preprocessing: Preprocessing,
    mirrored: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Augment images and preprocess them, as a training step sees them.

    In this order: crop, turn, vertical flip, shift and flip, policy, preprocessing, cutout. With `fill="zero"` the
    shift and flip follow the preprocessing, so that the border they bring in is exactly 0, whatever the policy did.
    Nothing is drawn for what is left out.

    Args:
        images: uint8 (n, h, w, c); not changed.
        rng: the random numbers.
        settings: what to do.
        preprocessing: pixels into what the network sees.
        mirrored: if `settings.flip`, which images to mirror, bool (n,); by default every second one by chance.

    Returns:
        float32 (n, h, w, c).

    Raises:
        UsageError: a setting is out of range, or does not fit the images.
    """
    if settings.shift >= min(images.shape[1:3]):
        height, width = images.shape[1:3]
        raise UsageError(
            f"The shift is {counted(settings.shift, 'pixel')} and the images have {height}×{width}: make it less, or "
            "nothing of them is left."
        )
    moves = settings.shift != 0 or settings.flip
    reflects = settings.fill == "reflect"
    flip = mirrored if settings.flip and mirrored is not None else settings.flip
    if settings.crop is not None:
        images = zoom_and_crop(images, rng, settings.crop)
    if settings.turn:
        images = turn(images, rng)
    if settings.flip_vertically:
        images = flip_vertically(images, rng)
    if moves and reflects:
        images = shift_and_flip(images, rng, shift=settings.shift, flip=flip, fill="reflect")
    if settings.policy == "trivial":
        images = trivial_augment(images, rng, border="reflect" if reflects else "mean")
    pixels = preprocessing(images)
    if moves and not reflects:
        pixels = shift_and_flip(pixels, rng, shift=settings.shift, flip=flip)
    if settings.cutout:
        pixels = cutout(pixels, rng, settings.cutout)
    return pixels
