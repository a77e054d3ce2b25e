"""How much more a rare class should count."""

import numpy as np
from numpy.typing import NDArray

from densely.data.dataset import Dataset

POSITIVE_WEIGHTS = (0.1, 10.0)
"""Lowest and highest weight of a positive label: a label seen once in a thousand images must not drive every step."""


def class_weights(dataset: Dataset) -> NDArray[np.float64]:
    """Weights that make every class count alike in the loss, float64 (classes,).

    One label an image: n / (classes · images of the class), scikit-learn's "balanced" (King and Zeng, *Logistic
    Regression in Rare Events Data*, 2001); the mean over the images is 1. A class without images counts neither there
    nor here: its weight is 0.

    Several labels an image: what a positive answer weighs against a negative one, images without the label / images
    with it, clipped to 0.1 to 10 (a label without images: 10).

    Args:
        dataset: the training part.
    """
    n, counts = len(dataset), dataset.class_counts()
    if dataset.multi_label:
        odds: NDArray[np.float64] = np.divide(n - counts, counts, where=counts > 0, out=np.full(len(counts), np.inf))
        return odds.clip(*POSITIVE_WEIGHTS)
    present = counts > 0
    each = n / np.count_nonzero(present)
    return np.divide(each, counts, where=present, out=np.zeros(len(counts)))
