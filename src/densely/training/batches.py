"""The batches of a training: which images, in which order, augmented how; a pure function of (seed, epoch, step)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from densely.data import Dataset, Preprocessing, augment, batch_rng, epoch_order, mirrored_in_turn, mix
from densely.data.dataset import in_turn
from densely.recipes import Recipe


class Batches(keras.utils.PyDataset):
    """The batches of an epoch, as a pure function of (seed, epoch, step): any of them can be made again.

    Args:
        dataset: the images.
        preprocessing: pixels into what the network sees.
        recipe: batch size and augmentation. If it mixes images, targets are distributions over the classes, float32
            (n, classes), in training or not; else they are the labels.
        seed: of order and augmentation.
        training: shuffled and augmented; otherwise in order and as they are.
        part: (i, n): of n processes that share each batch evenly, this is the i-th, from 0, and gets its part of it.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocessing: Preprocessing,
        recipe: Recipe,
        seed: int,
        training: bool,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.recipe = recipe
        self.seed = seed
        self.training = training
        self.part = part
        self.steps_per_epoch = -(-len(dataset) // recipe.batch_size)
        self.skipped = 0
        self.set_epoch(0)

    def __len__(self) -> int:
        return self.steps_per_epoch - self.skipped

    def skip(self, steps: int) -> None:
        """Leave out the first steps of an epoch, which a training that goes on has taken already."""
        self.skipped = steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are made."""
        self.epoch = epoch
        n = len(self.dataset)
        self.order = epoch_order(n, self.seed, epoch) if self.training else np.arange(n)
        self.mirrored = mirrored_in_turn(n, self.seed, epoch) if self.recipe.flip_in_turn else None
        self._coming: Iterator[np.ndarray] = iter(())
        self._next = -1

    def share(self, step: int) -> float:
        """Of a step's whole batch, what this process has: 0 to 1."""
        whole, first, last = self._bounds(step + self.skipped)
        return (last - first) / whole

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        step += self.skipped
        whole, *part = self._bounds(step)
        first, last = self._shown(*part)
        own = self._own(step)
        chosen = self._chosen(step)
        images = self._images(step)
        labels: np.ndarray = self.dataset.labels[chosen]
        targets = _distributions(labels, self.dataset.classes) if self.recipe.mixes else labels
        if not self.training:
            return self.preprocessing(images), targets
        rng = batch_rng(self.seed, self.epoch, step)
        if own != slice(0, whole):
            rng = PartOfRandom(rng, whole, own)
        mirrored = self.mirrored[chosen] if self.mirrored is not None else None
        pixels = augment(images, rng, self.recipe.augmentation, self.preprocessing, mirrored)
        pixels, targets = mix(pixels, targets, rng, mixup=self.recipe.mixup, cutmix=self.recipe.cutmix)
        kept = slice(first - own.start, last - own.start)
        return pixels[kept], targets[kept]

    def _own(self, step: int) -> slice:
        """Which of a step's images this process has to have."""
        whole, first, last = self._bounds(step)
        # Mixed images need their partners, wherever those are.
        return slice(0, whole) if self.training and self.recipe.mixes else slice(*self._shown(first, last))

    @staticmethod
    def _shown(first: int, last: int) -> tuple[int, int]:
        """A process without a part looks at an image that does not count: the others wait for it in every layer."""
        return (first, last) if first < last else (0, 1)

    def _bounds(self, step: int) -> tuple[int, int, int]:
        """How many images a step has, and this process's first and last of them; some have one more than others."""
        whole = min(self.recipe.batch_size, len(self.order) - step * self.recipe.batch_size)
        rank, count = self.part
        base, more = divmod(whole, count)
        first = rank * base + min(rank, more)
        return whole, first, first + base + (rank < more)

    def _chosen(self, step: int) -> np.ndarray:
        """Which images a step of the epoch takes, here."""
        size = self.recipe.batch_size
        return self.order[step * size : (step + 1) * size][self._own(step)]

    def _images(self, step: int) -> np.ndarray:
        """The images of a step; where they are streamed, those of the steps after it are read meanwhile."""
        if step != self._next:
            self._coming = in_turn(self.dataset.images, map(self._chosen, range(step, self.steps_per_epoch)))
        images = next(self._coming)
        self._next = step + 1
        if self._next == self.steps_per_epoch:
            self._coming = iter(())  # the processes that read for this epoch end here, not when the next one begins
        return images


def _distributions(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels as float32 `(N, classes)`: one-hot; of several labels an image, their zeros and ones."""
    return labels.astype(np.float32) if labels.ndim == 2 else np.eye(classes, dtype=np.float32)[labels]


class PartOfRandom(np.random.Generator):
    """The random numbers of some of a batch's images: the very ones that they have when the whole batch is drawn.

    Of every array that is drawn the last axis counts images, here some and there all of them.

    Args:
        rng: of the whole batch; it advances.
        whole: images of the batch.
        own: which of them.
    """

    def __init__(self, rng: np.random.Generator, whole: int, own: slice) -> None:
        super().__init__(rng.bit_generator)
        self.whole, self.own = whole, own

    def random(self, size: Any) -> Any:  # type: ignore[override]
        """As of the whole batch."""
        return super().random(self._of_all(size))[..., self.own]

    def integers(self, low: Any, high: Any = None, *, size: Any) -> Any:  # type: ignore[override]
        """As of the whole batch."""
        return super().integers(low, high, size=self._of_all(size))[..., self.own]

    def uniform(self, low: Any, high: Any, size: Any) -> Any:  # type: ignore[override]
        """As of the whole batch."""
        return super().uniform(low, high, self._of_all(size))[..., self.own]

    def _of_all(self, size: Any) -> tuple[int, ...]:
        *before, own = size if isinstance(size, tuple) else (size,)
        assert own == self.own.stop - self.own.start
        return (*before, self.whole)
