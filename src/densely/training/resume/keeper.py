"""When a training's state is written: every few minutes or steps, when it is asked to stop, never with bad numbers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import keras

from densely.errors import DataError, UsageError, reason
from densely.interruption import Interrupted, StopSignals
from densely.training.conductor import Conductor
from densely.training.resume import checkpoint, state
from densely.training.resume.checkpoint import Checkpoint

#: Between two checkpoints; one of a network with two million weights takes a tenth of a second.
SAVE_EVERY = "5m"


class Keeper(keras.callbacks.Callback):
    """Writes checkpoints, and ends the training after the step in which a signal came.

    Args:
        conductor: what happens around the steps; it comes before this one in the list of callbacks.
        every: steps (`500`) or minutes (`"5m"`) between two checkpoints.
        signals: asked after every step.
        start: where to go on from, or None to begin.
        agreed: what of several processes any has received, from what this one has; the same in all of them.

    Raises:
        UsageError: if `every` is neither.
    """

    def __init__(
        self,
        conductor: Conductor,
        every: int | str,
        signals: StopSignals,
        start: Checkpoint | None = None,
        agreed: Callable[[int | None], int | None] = lambda received: received,
    ) -> None:
        super().__init__()
        self.conductor = conductor
        self.steps, self.seconds = interval(every)
        self.signals = signals
        self.start = start
        self.agreed = agreed
        self.generators: dict[str, Any] | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count from here."""
        self._written()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put everything back; here, because Keras has just reset the running metrics, and all variables are there."""
        if self.start is None:
            return
        try:
            state.put_tensors_back(self.start.tensors, self.model, self.conductor.averages)
            self.conductor.remember(self.start.state["conductor"])
            self.generators = self.start.state["generators"]
            state.put_generators_back(self.generators)
            if self.conductor.writes:
                checkpoint.put_best_back(self.conductor.run.folder, self.start)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"The checkpoint in {self.conductor.run.folder} holds what no training of this version wrote "
                f"({reason(error)}): choose another --out."
            ) from None
        if self.start.step == 0:
            self.model.reset_metrics()  # what was put back are those of a validation
            self.generators = None
        self.start = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """In the middle of an epoch, put the random generators back once more: Keras has drawn at its beginning."""
        if self.generators is not None:
            state.put_generators_back(self.generators)
            self.generators = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Write a checkpoint where it is time, and stop where a signal came."""
        self.since += 1
        self._look(self.conductor.epoch, self.conductor.step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The same after validation; what `final.weights.h5` ends needs no checkpoint any more."""
        if not self.conductor.finished:
            self._look(epoch + 1, 0)

    def _look(self, epoch: int, step: int) -> None:
        # The last step of an epoch waits for its validation: from there on nothing is half done.
        if step == self.conductor.batches.steps_per_epoch:
            return
        stopping = self.agreed(self.signals.received)
        due = self.since >= self.steps or time.monotonic() - self.last >= self.seconds
        if (due or stopping is not None) and self.conductor.writes:
            self._write(epoch, step)
        if stopping is not None:
            raise Interrupted(stopping, self.conductor.run.folder, checkpoint.reached(epoch, step))

    def _write(self, epoch: int, step: int) -> None:
        tensors = state.tensors(self.model, self.conductor.averages)
        if not state.all_finite(tensors):
            raise self.conductor.diverged("The weights are no longer numbers")
        values = {"generators": state.generators(), "conductor": self.conductor.memory()}
        checkpoint.save(self.conductor.run.folder, Checkpoint(epoch, step, tensors, values))
        self._written()

    def _written(self) -> None:
        self.since, self.last = 0, time.monotonic()


def interval(every: int | str) -> tuple[float, float]:
    """Steps and seconds between two checkpoints, one of them without end.

    Raises:
        UsageError: if it is neither a number of steps nor minutes.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", str(every).strip())
    number = float(found[1]) if found else 0.0
    if found is None or number <= 0 or (not found[2] and number != int(number)):
        raise UsageError(f"Checkpoints are written every so many steps (500) or minutes (5m), not every {every!r}.")
    return (float("inf"), number * 60) if found[2] else (number, float("inf"))
