"""Which learning rate: a short training whose rate rises step by step, and where its loss falls fastest (Smith 2017).

Before a training, not in place of one: nothing is validated, and the network is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from densely.data import Dataset, Parts
from densely.errors import DenselyError, UsageError
from densely.files import write_whole
from densely.training.batches import Batches
from densely.training.preparation import prepare

#: Of the exponential average that the losses are smoothed with.
SMOOTHING = 0.9
#: The sweep ends when the smoothed loss is so many times the lowest one.
DIVERGED = 4.0


@dataclass(frozen=True)
class Curve:
    """What a sweep found.

    Attributes:
        rates: learning rate of each step, rising.
        losses: the smoothed loss after the steps before it.
        suggestion: the rate at which the smoothed loss falls fastest; a good highest rate for a one-cycle or cosine
            schedule, to be tried together with a third and three times as much.
    """

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    suggestion: float


class _Rise(keras.callbacks.Callback):
    """Raises the learning rate, keeps the losses, stops where they run away."""

    def __init__(self, rates: NDArray[np.float64]) -> None:
        super().__init__()
        self.rates = rates
        self.losses: list[float] = []
        self.average = 0.0
        self.sum_before = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.seen, self.sum_before = 0, 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.optimizer.learning_rate = float(self.rates[len(self.losses)])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Keras reports the mean of the epoch so far; this step's own loss is what it added.
        self.seen += 1
        total = float((logs or {})["loss"]) * self.seen
        loss, self.sum_before = total - self.sum_before, total
        self.average = SMOOTHING * self.average + (1 - SMOOTHING) * loss
        self.losses.append(self.average / (1 - SMOOTHING ** (len(self.losses) + 1)))
        lost = not np.isfinite(loss) or self.losses[-1] > DIVERGED * min(self.losses)
        if lost or len(self.losses) == len(self.rates):
            self.model.stop_training = True


def find_learning_rate(
    source: str | Path | Dataset | Parts,
    *,
    lowest: float = 1e-4,
    highest: float = 10.0,
    steps: int = 100,
    console: Console | None = None,
    **options: Any,
) -> Curve:
    """Train with a learning rate that rises from `lowest` to `highest`, the same factor each step.

    Args:
        source: as `densely.train` takes it.
        lowest, highest: the range.
        steps: batches that the sweep takes at most; it ends earlier where the loss runs away.
        console: where progress of reading images is printed.
        **options: as for `densely.train`; the recipe's batch size, optimizer and augmentation count.

    Returns:
        The rates that were tried, their losses, and a suggestion.

    Raises:
        UsageError: for an impossible range or count.
        DenselyError: if the loss never fell.
    """
    if not 0 < lowest < highest:
        raise UsageError(f"The lowest rate must be above 0 and below the highest, not {lowest} and {highest}.")
    if steps < 20:
        raise UsageError(f"A sweep needs at least 20 steps, not {steps}.")
    prepared = prepare(source, console=console, **options)
    config = prepared.config
    batches = Batches(prepared.parts.train, prepared.preprocessing, config.recipe, config.seed, training=True)
    rates = np.geomspace(lowest, highest, steps)
    rise = _Rise(rates)
    epochs = -(-steps // len(batches))
    next_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.set_epoch(epoch))
    prepared.model.fit(batches, epochs=epochs, callbacks=[rise, next_epoch], shuffle=False, verbose=0)
    losses = np.array(rise.losses)
    finite = np.isfinite(losses)
    rates, losses = rates[: len(losses)][finite], losses[finite]
    return Curve(rates, losses, steepest(rates, losses))


def steepest(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> float:
    """The rate, left of the lowest loss, at which the loss falls fastest by the logarithm of the rate.

    Raises:
        DenselyError: if there is no fall.
    """
    # The first tenth is the average's own warm-up; a few steps to each side hide a single batch's luck.
    first, reach = max(1, len(losses) // 10), 3
    last = int(np.argmin(losses))
    places = np.arange(max(first, reach), max(last - reach, 0) + 1)
    if not len(places):
        raise DenselyError("The loss never fell: begin with a lower rate, or give the sweep more steps.")
    slopes = (losses[places + reach] - losses[places - reach]) / np.log(rates[places + reach] / rates[places - reach])
    if slopes.min() >= 0:
        raise DenselyError("The loss never fell: begin with a lower rate, or give the sweep more steps.")
    return float(rates[places[np.argmin(slopes)]])


def check_ending(path: Path) -> None:
    """Whether a curve can be drawn to a file of this name: asked before the sweep, not after it.

    Raises:
        UsageError: if its ending is no picture's.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    endings = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in endings:
        raise UsageError(f"{path} has no picture's ending: choose one of .{', .'.join(sorted(endings))}.")


def draw(curve: Curve, path: Path, title: str) -> None:
    """Draw the curve as a picture (PNG or SVG, by the name's ending).

    Raises:
        UsageError: if the name's ending is no picture's.
        DataError: if it cannot be written.
    """
    check_ending(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses, color="#1f6feb")
    axes.axvline(curve.suggestion, color="#d1242f", linestyle="--", label=f"falls fastest at {curve.suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", title=title)
    top = curve.losses[0] + 0.5 * (curve.losses[0] - curve.losses.min())
    axes.set_ylim(curve.losses.min() - 0.05, max(top, curve.losses.min() + 0.1))
    axes.legend()
    axes.grid(alpha=0.3)
    write_whole(path, lambda aside: figure.savefig(aside, dpi=150))
