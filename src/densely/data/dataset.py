"""What a data source gives: images, labels and names, held together, checked and read-only."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from densely.console import counted
from densely.data.streaming import AT_A_TIME, Streamed
from densely.errors import DataError

Images = NDArray[np.uint8] | Streamed
"""What a `Dataset` holds: an array, or what looks like one."""
CHUNK_BYTES = 32 * 2**20
"""How much of the images one step of a whole-data pass touches; keeps such passes in bounded memory."""


def chunks(images: Images) -> Iterator[NDArray[np.uint8]]:
    """`images` in consecutive pieces of at most `CHUNK_BYTES` bytes (and at least one image)."""
    step = max(1, CHUNK_BYTES // max(1, math.prod(images.shape[1:]) * images.dtype.itemsize))
    if isinstance(images, Streamed):
        step = min(step, AT_A_TIME)
    return in_turn(images, (slice(start, start + step) for start in range(0, len(images), step)))


def in_turn(images: Images, groups: Iterator[Any]) -> Iterator[NDArray[np.uint8]]:
    """`images[group]` of each group; of images that are streamed, the next groups are decoded meanwhile."""
    return images.in_turn(groups) if isinstance(images, Streamed) else (images[group] for group in groups)


def remembered(images: Images, name: str, find: Callable[[], Any]) -> Any:
    """What `find` finds in a pass over all images, as JSON has it; of streamed ones only once, or it costs too much."""
    return images.remembered(name, find) if isinstance(images, Streamed) else find()


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images of one part (training, validation or test) of a data set.

    The arrays are seen through read-only views: the caller's own arrays are neither copied nor locked.

    Attributes:
        images: uint8, (n, h, w, c), pixels 0..255; an array, or `Streamed`, which looks like one.
        labels: int64 (n,), an index into `class_names`; or uint8 (n, classes) of zeros and ones (several labels per
            image). Other integer and boolean types are converted.
        class_names: one name per class, no two the same.
        source: where it came from, e.g. `"cifar10/train"`; used in messages.

    Raises:
        DataError: the images are empty or not uint8 (n, h, w, c), the labels do not fit them, or a label is outside
            the classes.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | NDArray[np.uint8]
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self) -> None:
        """Check the fields and lock the views of them."""
        names = tuple(self.class_names)
        _check_images(self.images, self.source)
        _check_names(names, self.source)
        labels = _checked_labels(self.labels, len(self.images), len(names), self.source)
        object.__setattr__(self, "class_names", names)
        if isinstance(self.images, np.ndarray):
            object.__setattr__(self, "images", _read_only(self.images))
        object.__setattr__(self, "labels", _read_only(labels))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        h, w, c = self.images.shape[1:]
        return h, w, c

    @property
    def classes(self) -> int:
        """How many classes there are, whether or not each has an image here."""
        return len(self.class_names)

    @property
    def multi_label(self) -> bool:
        """Whether an image may carry several labels at once."""
        return self.labels.ndim == 2

    def carries(self) -> NDArray[np.bool_]:
        """Which image carries which label: bool (n, classes)."""
        if self.multi_label:
            return np.asarray(self.labels == 1)
        return np.asarray(self.labels[:, None] == np.arange(self.classes))

    def names_of(self, i: int) -> tuple[str, ...]:
        """The names of the labels that image `i` carries: one, or of several labels an image perhaps none."""
        chosen = np.flatnonzero(self.labels[i]) if self.multi_label else [self.labels[i]]
        return tuple(self.class_names[c] for c in chosen)

    def class_counts(self) -> NDArray[np.int64]:
        """Images per class, int64 (classes,)."""
        if self.multi_label:
            counts = self.labels.sum(axis=0, dtype=np.int64)
        else:
            counts = np.bincount(self.labels, minlength=self.classes)
        return np.asarray(counts, dtype=np.int64)

    def take(self, indices: ArrayLike) -> "Dataset":
        """The images at `indices` (integers, or a mask of booleans), in that order, as a new `Dataset`.

        A copy; of what is streamed, only another choice.
        """
        chosen = np.asarray(indices)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return Dataset(taken(self.images, chosen), self.labels[chosen], self.class_names, self.source)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over shape, class names, labels and pixels: equal if and only if the data are equal."""
        header = {"images": self.images.shape, "labels": self.labels.shape, "class_names": self.class_names}
        digest = hashlib.sha256(json.dumps(header).encode())
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)

        def find() -> str:
            for chunk in chunks(self.images):
                digest.update(np.ascontiguousarray(chunk).data)
            return digest.hexdigest()

        return str(remembered(self.images, f"fingerprint {digest.hexdigest()}", find))

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """One line: source, count, shape, classes."""
        images, size = counted(len(self), "image"), "x".join(map(str, self.input_shape))
        return f"<Dataset {self.source}: {images} of {size}, {counted(self.classes, 'class')}>"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a source defines itself; what it does not define is None until `splits.complete` takes it from `train`.

    Attributes:
        train, val, test: the parts.
        skipped: images that could not be read and are in none of them, each with the reason in a sentence.

    Raises:
        DataError: the parts disagree on the classes or on the image shape.
    """

    train: Dataset
    val: Dataset | None = None
    test: Dataset | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        for other in (self.val, self.test):
            if other is None:
                continue
            if other.class_names != self.train.class_names or other.multi_label != self.train.multi_label:
                raise DataError(
                    f"{other.source} and {self.train.source} have different classes: they must be the same."
                )
            if other.input_shape != self.train.input_shape:
                raise DataError(
                    f"{other.source} has images of shape {other.input_shape} and {self.train.source} of shape"
                    f" {self.train.input_shape}: bring them to one shape."
                )

    def fingerprints(self) -> dict[str, str]:
        """`Dataset.fingerprint` of every part that there is, by its name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {part: dataset.fingerprint() for part, dataset in named.items() if dataset is not None}


def taken(images: Images, chosen: NDArray[np.int64]) -> Any:
    """`images[chosen]`; what is streamed stays so."""
    return images.take(chosen) if isinstance(images, Streamed) else images[chosen]


def joined(images: Images, others: Images) -> Any:
    """One behind the other."""
    if isinstance(images, Streamed) and isinstance(others, Streamed):
        return images.joined(others)
    return np.concatenate([np.asarray(images), np.asarray(others)])


def _check_images(images: Images, source: str) -> None:
    if not isinstance(images, np.ndarray | Streamed) or images.dtype != np.uint8 or images.ndim != 4:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"The images of {source} are {found}: they must be a uint8 array of shape (n, h, w, channels).")
    if images.size == 0:
        raise DataError(f"{source} is empty (images of shape {images.shape}): at least one image is needed.")


def _check_names(names: tuple[str, ...], source: str) -> None:
    if not names:
        raise DataError(f"{source} has no class names: name every class that a label can take.")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataError(f"{source} has two classes named {twice!r}: rename one.")


def _checked_labels(
    given: NDArray[np.int64] | NDArray[np.uint8], n: int, classes: int, source: str
) -> NDArray[np.int64] | NDArray[np.uint8]:
    labels: NDArray[Any] = np.asarray(given)
    if labels.dtype.kind not in "iub":
        raise DataError(f"The labels of {source} are of type {labels.dtype}: they must be integers.")
    if labels.shape not in ((n,), (n, classes)):
        raise DataError(
            f"The labels of {source} have shape {labels.shape}: {n} images of {classes} classes need ({n},), or"
            f" ({n}, {classes}) for several labels per image."
        )
    highest = classes - 1 if labels.ndim == 1 else 1
    wrong = np.argwhere((labels < 0) | (labels > highest))
    if len(wrong):
        at = tuple(int(i) for i in wrong[0])
        where = at[0] if len(at) == 1 else at
        raise DataError(
            f"Label {labels[at]} at index {where} of {source} is outside 0..{highest}: correct it or"
            " leave the image out."
        )
    return labels.astype(np.int64, copy=False) if labels.ndim == 1 else labels.astype(np.uint8, copy=False)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
