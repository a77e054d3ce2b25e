"""One trial: a training whose settings a sweep chose, scored on held-out training images, never on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
from rich.console import Console

from densely.errors import DenselyError
from densely.runs import Run
from densely.sweeps.space import arguments
from densely.training.pool import Ask
from densely.training.resume import checkpoint
from densely.training.single import train


class Epoch(NamedTuple):
    """What a trial tells after an epoch, and asks whether to go on.

    Attributes:
        number: from 1.
        of: epochs in all.
        value: accuracy on the held-out images, 0 to 1.
    """

    number: int
    of: int
    value: float


@dataclass(frozen=True)
class Order:
    """What a trial is to do.

    Attributes:
        source: the data, as `densely.train` takes them.
        folder: its run folder.
        settings: as the space has them.
        options: others of `densely.train`, the same in every trial.
    """

    source: str
    folder: Path
    settings: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """What a trial came to.

    Attributes:
        value: the score of the held-out images, 0 to 1; `None` if it was ended early.
        seconds: of its epochs.
    """

    value: float | None
    seconds: float


class _EndedEarly(Exception):  # noqa: N818  (no error: a trial that is not worth going on with)
    pass


class _Judged(keras.callbacks.Callback):
    """Tells every epoch, and ends the training where the answer says so."""

    def __init__(self, ask: Ask) -> None:
        super().__init__()
        self.ask = ask

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.ask(Epoch(epoch + 1, self.params["epochs"], float((logs or {})["val_accuracy"]))):
            raise _EndedEarly


def run(ask: Ask, order: Order) -> Result:
    """Train and score one trial; what was broken off in its folder goes on.

    Args:
        ask: given an `Epoch`, whether to end here.
        order: what to do.

    Raises:
        DenselyError: as `densely.train`.
    """
    chosen = arguments(order.settings)
    quiet = Console(quiet=True)
    try:
        # `tune` takes the score from the training images: neither this nor what it calls looks at the test part.
        done = train(
            order.source,
            out=order.folder,
            tune=True,
            callbacks=[_Judged(ask)],
            console=quiet,
            **order.options,
            **chosen,
        )
    except _EndedEarly:
        checkpoint.remove_all(order.folder)
        return Result(None, _seconds(order.folder))
    scores = done.metrics["val"]
    value = scores["mean_average_precision"] if done.inputs.multi_label else scores["accuracy"]
    if value is None:
        raise DenselyError("None of the labels stands in a held-out image: hold out more, by val_fraction.")
    return Result(float(value), _seconds(order.folder))


def _seconds(folder: Path) -> float:
    return sum(row.get("seconds", 0.0) for row in Run.open(folder).history)
