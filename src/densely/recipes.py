"""How a network is trained: everything but the data and the network, as one typed, frozen value.

A recipe is plain data, so that it can be printed, changed on the command line, and written into every run.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from densely.errors import from_validation, unknown


class Recipe(BaseModel):
    """A training recipe.

    Attributes:
        name: what it is called.
        epochs: passes over the training part.
        batch_size: images a step.
        learning_rate: the highest, η₀.
        schedule: `"constant"`; `"staged"`, ÷10 at 50 % and 75 % of the epochs (the paper's); `"cosine"`, from η₀
            to 0 step by step.
        stages: `((epochs, learning rate), …)` in place of `schedule`, as the notebook annealed by hand; past
            its last stage the last rate stays.
        momentum, nesterov: of SGD.
        weight_decay: λ, see `decay_on`.
        decay_on: `"all"`, λ·w added to the gradient of every parameter (the paper's code); `"kernels"`, `l2(λ)` in
            the loss of every kernel, so a gradient of 2λ·w (the notebook's).
        preprocessing: `"unit"`, pixels / 255; `"standardise"`, then less the training part's channel mean, over
            its standard deviation.
        shift: random shift in pixels to each side, image by image (pad, then crop; the paper's 4).
        flip: mirror left to right, every second image by chance.
        val_fraction: share of the training data held out to watch, where the source has no validation part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "custom"
    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=0.1, gt=0)
    schedule: Literal["constant", "staged", "cosine"] = "cosine"
    stages: tuple[tuple[int, float], ...] | None = None
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)
    decay_on: Literal["all", "kernels"] = "all"
    preprocessing: Literal["unit", "standardise"] = "standardise"
    shift: int = Field(default=0, ge=0)
    flip: bool = False
    val_fraction: float = Field(default=0.1, ge=0, lt=1)

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole training."""
        epoch = step // steps_per_epoch
        if self.stages is not None:
            end = 0
            for epochs, rate in self.stages:
                end += epochs
                if epoch < end:
                    return rate
            return self.stages[-1][1]
        if self.schedule == "cosine":
            done = step / (self.epochs * steps_per_epoch)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "staged":
            passed = (epoch >= 0.5 * self.epochs) + (epoch >= 0.75 * self.epochs)
            return self.learning_rate * 0.1**passed
        return self.learning_rate


def change(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe with some of its fields changed.

    Raises:
        UsageError: for an unknown field, or a value out of range.
    """
    for field in changes:
        if field not in Recipe.model_fields:
            raise unknown("training setting", field, Recipe.model_fields)
    try:
        return Recipe(**{**recipe.model_dump(), **changes})
    except ValidationError as error:
        raise from_validation("training", error) from None


def default_recipe(data: str, input_shape: tuple[int, int, int]) -> tuple[Recipe, str]:
    """The recipe and the name of the network that a data set gets when nobody chose.

    Args:
        data: the name of a built-in data set, or a folder's path.
        input_shape: (height, width, channels) of its images.
    """
    if data == "digits":
        # A mirrored digit is another sign, and the scans are centred already: shifting them by one pixel of eight
        # cost half a percent of test accuracy.
        digits = Recipe(name="digits", epochs=40, weight_decay=1e-3, preprocessing="unit")
        return digits, "densenet-bc-22-12"
    if data.startswith("cifar"):
        return Recipe(name="cifar", epochs=300, schedule="staged", shift=4, flip=True), "densenet-40-12"
    if data.startswith("svhn"):
        return Recipe(name="svhn", epochs=40, schedule="staged"), "densenet-40-12"
    side = min(input_shape[:2])
    network = "densenet-bc-22-12" if side < 28 else "densenet-bc-40-12"
    return Recipe(name="folder", epochs=60, batch_size=32, shift=max(1, side // 8), flip=True), network
