"""What a model says of images: of each as it is, or the mean over several views of it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from densely.data import Preprocessing
from densely.data.dataset import Images, in_turn

if TYPE_CHECKING:
    import keras


YES = 0.5
"""Of several labels an image, those are its answer that are at least so likely."""


class Views(NamedTuple):
    """How a model looks at an image that it is asked about; its answer is the mean over them.

    Attributes:
        flip: at the image and at its mirror image (left to right), for twice the time; only for things that a mirror
            leaves what they are.
        shift: with more than 0, also at the image moved by so many pixels down and right, and up and left, its border
            mirrored, for three times the time. The image where it is counts for as much as both (Jordan 2024, *94 %
            on CIFAR-10 in 3.29 seconds on a single GPU*, Section 3.5, takes 1).
    """

    flip: bool = False
    shift: int = 0

    @property
    def number(self) -> int:
        """How many times the model is asked about an image."""
        return (2 if self.flip else 1) * (3 if self.shift else 1)


ONE_VIEW = Views()


def probabilities(
    model: "keras.Model",
    images: Images,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    views: Views = ONE_VIEW,
) -> np.ndarray:
    """What a model says of images.

    Args:
        model: from `(N, H, W, C)` to `(N, classes)` probabilities.
        images: uint8, `(N, H, W, C)`.
        preprocessing: what the model was trained with.
        batch_size: images at a time; it bounds the memory and does not change the result.
        views: at what of each image it looks; by default at the image alone.

    Returns:
        float32, `(N, classes)`.
    """
    parts: list[np.ndarray] = []
    batches = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
    for batch in in_turn(images, batches):
        mean: Any = 0.0
        for share, seen in _seen(batch, views):
            # PyTorch takes no negative strides, hence the copy.
            mean = mean + share * np.asarray(model.predict_on_batch(preprocessing(np.ascontiguousarray(seen))))
        parts.append(mean)
    return np.concatenate(parts)


def _seen(images: np.ndarray, views: Views) -> Iterator[tuple[float, np.ndarray]]:
    """What `views` are of a batch, each with its share in the mean."""
    moved = [(1.0, images)]
    if views.shift:
        height, width, border = *images.shape[1:3], views.shift
        padded = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), mode="reflect")
        lower, upper = padded[:, :height, :width], padded[:, 2 * border :, 2 * border :]
        moved = [(0.5, images), (0.25, lower), (0.25, upper)]
    for share, seen in moved:
        if views.flip:
            yield share / 2, seen
            yield share / 2, seen[:, :, ::-1]
        else:
            yield share, seen
