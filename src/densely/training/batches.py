"""The batches of a training: which images, in which order, augmented how; a pure function of (seed, epoch, step)."""

from __future__ import annotations

import keras
import numpy as np

from densely.data import Dataset, Preprocessing, augment, batch_rng, epoch_order, mirrored_in_turn, mix
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
    """

    def __init__(
        self, dataset: Dataset, preprocessing: Preprocessing, recipe: Recipe, seed: int, training: bool
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.recipe = recipe
        self.seed = seed
        self.training = training
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

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        step += self.skipped
        size = self.recipe.batch_size
        chosen = self.order[step * size : (step + 1) * size]
        images = self.dataset.images[chosen]
        labels: np.ndarray = self.dataset.labels[chosen]
        targets = _distributions(labels, self.dataset.classes) if self.recipe.mixes else labels
        if not self.training:
            return self.preprocessing(images), targets
        rng = batch_rng(self.seed, self.epoch, step)
        mirrored = self.mirrored[chosen] if self.mirrored is not None else None
        pixels = augment(images, rng, self.recipe.augmentation, self.preprocessing, mirrored)
        return mix(pixels, targets, rng, mixup=self.recipe.mixup, cutmix=self.recipe.cutmix)


def _distributions(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels as float32 `(N, classes)`: one-hot; of several labels an image, their zeros and ones."""
    return labels.astype(np.float32) if labels.ndim == 2 else np.eye(classes, dtype=np.float32)[labels]
