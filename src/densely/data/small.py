"""CIFAR in small: the first 50 training images of each class, 30 to train and 20 to validate; the whole test part.

The sizes are those of the small-data benchmark of Brigato, Barz, Iocchi and Denzler, *Tune It or Don't Use It:
Benchmarking Data-Efficient Image Classification*, ICCV Workshops 2021: what is chosen is chosen on the 20, and then all
50 are trained on (`splits.join`). Its test images are those of ciFAIR, which replaces CIFAR's near-duplicates.
"""

from dataclasses import replace

import numpy as np

from densely.console import counted
from densely.data.dataset import Dataset, Parts
from densely.errors import DataError

TRAIN, VAL = 30, 20
"""Images a class."""


def first_fifty(parts: Parts, name: str) -> Parts:
    """The first 30 training images of each class to train, the next 20 to validate; each part in the order it had.

    Args:
        parts: what `cifar.load_cifar10` or `cifar.load_cifar100` gives; its test part stays whole.
        name: what the sources of the new parts are called, e.g. `"cifar10-50"`.

    Raises:
        DataError: a class has fewer than 50 training images.
    """
    source = parts.train
    counts = source.class_counts()
    if counts.min() < TRAIN + VAL:
        least = int(counts.argmin())
        raise DataError(
            f"{source.source} has only {counted(counts[least], 'image')} of {source.class_names[least]!r} and {name}"
            f" takes {TRAIN + VAL} of each class: put the whole archive in its place."
        )
    grouped = np.argsort(source.labels, kind="stable")
    rank = np.empty_like(grouped)
    rank[grouped] = np.arange(len(source)) - np.repeat(np.cumsum(counts) - counts, counts)

    def part(images: Dataset, kind: str) -> Dataset:
        _, _, note = images.source.partition(" ")  # that the archive is not the official one
        return replace(images, source=f"{name}/{kind} {note}".rstrip())

    train, val = source.take(rank < TRAIN), source.take((rank >= TRAIN) & (rank < TRAIN + VAL))
    test = None if parts.test is None else part(parts.test, "test")
    return Parts(part(train, "train"), part(val, "val"), test)
