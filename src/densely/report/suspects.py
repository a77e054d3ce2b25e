"""Images to look at again: labels that may be wrong, and test images that may be training images too.

Nothing here proves anything: these are candidates, the likeliest first, for a person to judge.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from densely.data import Dataset
from densely.data.dataset import chunks

THUMBNAIL = 8
"""Side to which images are brought before they are compared, in pixels."""
ALIKE = 0.985
"""Correlation of two thumbnails from which a pair is told."""
NEIGHBOURS = 10
"""Images nearest in the network's features that have a say in whether a label is wrong."""


class DoubtfulLabel(NamedTuple):
    """An image whose label the network does not believe.

    Attributes:
        image: its index.
        suggestion: the class that the network holds to be right.
        confidence: the network's probability of it.
        neighbours: share of the images nearest in features that carry it as their label.
    """

    image: int
    suggestion: int
    confidence: float
    neighbours: float


class Twins(NamedTuple):
    """A held-out image and the training image most like it.

    Attributes:
        held_out, train: indices in the two parts.
        likeness: correlation of their thumbnails, at most 1.
    """

    held_out: int
    train: int
    likeness: float


def doubtful_labels(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], features: NDArray[np.float32], most: int = 12
) -> list[DoubtfulLabel]:
    """Held-out images that the network, and their neighbours, hold to be of another class than their label.

    An image is a candidate if its label is not the network's guess and at least half of its nearest neighbours in the
    network's last features carry that guess as their label. Candidates are ordered by confidence times that share.
    After C. Northcutt, L. Jiang, I. Chuang, *Confident Learning*, JAIR 2021, which goes by confidence alone: a network
    that is sure of its mistakes is common, one whose mistakes lie in the middle of another class is less so.

    Args:
        probabilities: `(N, classes)`.
        labels: `(N,)`.
        features: `(N, C)`.
        most: how many at most.
    """
    guess = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(guess != labels)
    if len(labels) <= 2 * NEIGHBOURS or not len(wrong):
        return []
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    near = unit[wrong] @ unit.T
    near[np.arange(len(wrong)), wrong] = -np.inf
    nearest = np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    share = (labels[nearest] == guess[wrong][:, None]).mean(axis=1)
    confidence = probabilities[wrong, guess[wrong]]
    order = [i for i in np.argsort(-confidence * share, kind="stable") if share[i] >= 0.5][:most]
    return [DoubtfulLabel(int(wrong[i]), int(guess[wrong[i]]), float(confidence[i]), float(share[i])) for i in order]


def nearest_training_images(held_out: Dataset, train: Dataset) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each held-out image the training image whose thumbnail, or whose thumbnail's mirror image, is most like it.

    Thumbnails are grey, at most 8×8, less their mean, of length one: brightness and contrast do not count.

    Args:
        held_out: the N images to find others for.
        train: the images to find.

    Returns:
        Indices in `train`, `(N,)`; and the correlations, at most 1, `(N,)`. An image of one colour is like nothing.
    """
    ours, theirs = thumbnails(held_out.images), thumbnails(train.images)
    shape = thumbnail_shape(*held_out.input_shape[:2])
    mirrored = ours.reshape(-1, *shape)[:, :, ::-1].reshape(ours.shape)
    index = np.zeros(len(ours), np.int64)
    likeness = np.full(len(ours), -np.inf, np.float32)
    step = max(1, 2**24 // max(1, len(theirs)))  # twice 64 MiB of products at a time
    for start in range(0, len(ours), step):
        part = slice(start, start + step)
        products = ours[part] @ theirs.T
        np.maximum(products, mirrored[part] @ theirs.T, out=products)
        index[part] = products.argmax(axis=1)
        likeness[part] = products.max(axis=1)
    return index, likeness


def twins(index: NDArray[np.int64], likeness: NDArray[np.float32], most: int = 12) -> tuple[list[Twins], int]:
    """The pairs most alike, and how many there are from `ALIKE` on.

    Args:
        index, likeness: from `nearest_training_images`.
        most: how many pairs at most.
    """
    order = [int(i) for i in np.argsort(-likeness, kind="stable")[:most] if likeness[i] >= ALIKE]
    found = [Twins(i, int(index[i]), float(likeness[i])) for i in order]
    return found, int(np.count_nonzero(likeness >= ALIKE))


def thumbnail_shape(height: int, width: int) -> tuple[int, int]:
    """Height and width of a thumbnail of such images."""
    return min(height, THUMBNAIL), min(width, THUMBNAIL)


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`(N, pixels)`: grey, small, less their mean, of length one; zeros for an image of one colour."""
    height, width = images.shape[1:3]
    rows, columns = thumbnail_shape(height, width)
    tops, lefts = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    areas = np.outer(np.diff([*tops, height]), np.diff([*lefts, width]))
    small = []
    for chunk in chunks(images):
        grey = chunk.mean(axis=3, dtype=np.float32)
        sums = np.add.reduceat(np.add.reduceat(grey, tops, axis=1), lefts, axis=2)
        small.append((sums / areas).astype(np.float32))
    flat = np.concatenate(small).reshape(len(images), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(length > 1e-3, flat / np.maximum(length, 1e-12), 0).astype(np.float32)
