"""Is what was written the network that was trained? Asked of the file, in its own runtime, on real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densely.console import counted
from densely.evaluation.views import YES

TOLERANCE = 1e-4
"""The greatest difference of a probability; of float32 about 1e-6 is rounding."""
AT_A_TIME = 100
"""Images, where the file takes any number."""

Answers = Callable[[NDArray[Any]], NDArray[np.float32]]
"""From images to probabilities."""


@dataclass(frozen=True)
class Checked:
    """What came of it.

    Attributes:
        images: how many there were.
        random: why they are not images of the run's own; None where they are.
        part: of the run's data that they are from.
        difference: the greatest between two probabilities.
        accuracy: of the network in Keras on them, and of the file; of several labels that of the single yes-or-no
            answers; None for random images.
    """

    images: int
    random: str | None
    part: str
    difference: float
    accuracy: tuple[float, float] | None

    def told(self) -> str:
        """In a sentence, without a full stop."""
        of = (
            f"{counted(self.images, 'random image')} ({self.random[0].lower()}{self.random[1:]})"
            if self.random
            else counted(self.images, f"{self.part} image")
        )
        text = f"on {of}, probabilities differ by at most {self.difference:.1e}"
        if self.accuracy is not None:
            before, after = (f"{100 * share:.2f} %" for share in self.accuracy)
            text += f"; accuracy {after}, as in Keras" if before == after else f"; accuracy {after}, in Keras {before}"
        return text


def answers(model: Answers, images: NDArray[Any], batch: int | str) -> NDArray[np.float32]:
    """Probabilities of images, `(N, classes)`, asked for in batches of a fixed or of any size."""
    size = AT_A_TIME if isinstance(batch, str) else batch
    found = []
    for start in range(0, len(images), size):
        some = images[start : start + size]
        if isinstance(batch, int) and len(some) < size:  # a fixed batch is filled up
            some = np.concatenate([some, np.zeros((size - len(some), *some.shape[1:]), some.dtype)])
        found.append(model(some))
    return np.concatenate(found)[: len(images)]


def accuracy(p: NDArray[np.float32], labels: NDArray[Any]) -> float:
    """Share of right answers: the likeliest class, or of several labels each from one half on."""
    right = p.argmax(axis=1) == labels if labels.ndim == 1 else (p >= YES) == labels
    return float(np.mean(right))
