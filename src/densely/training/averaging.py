"""An exponential moving average of a model's weights: what is scored in place of the last step's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
import torch


class WeightAverage:
    """The moving average of all weights of a model, moving statistics included.

    After step t (from 1) the average moves by 1 − min(decay, t / (t + 9)) of the way to the weights, so that the
    random start is forgotten at once even where the training is shorter than 1 / (1 − decay) steps.

    Args:
        model: whose weights are averaged.
        decay: 0 to below 1, e.g. 0.999: about the last thousand steps count.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        # Counters, such as those of random draws, have no average.
        self.variables = [v for v in model.weights if keras.backend.is_float_dtype(v.dtype)]
        self.values = [keras.ops.copy(v.value) for v in self.variables]

    def update(self) -> None:
        """Take in the weights as they are after a step."""
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + 9))
        with torch.no_grad():
            # Several hundred small tensors: one call for all of them.
            torch._foreach_lerp_(self.values, [v.value.detach() for v in self.variables], share)

    def swap(self) -> None:
        """Give the model the average and keep the model's own weights here; a second call undoes it."""
        own = [keras.ops.copy(v.value) for v in self.variables]
        for variable, value in zip(self.variables, self.values, strict=True):
            variable.assign(value)
        self.values = own

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block, and its own again after it."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
