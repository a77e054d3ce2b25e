"""`Follower`: the Keras callback that tells a live page how far a training is."""

from __future__ import annotations

import time
from typing import Any

import keras

from densely.training.conductor import Conductor
from densely.training.live.page import LivePage


class Follower(keras.callbacks.Callback):
    """Tells epoch, step, running loss and accuracy, learning rate, images/s, time left and the history.

    Args:
        page: told.
        conductor: asked; it comes before this one in the list of callbacks.
        refresh: least seconds between two tellings within an epoch; a step between them costs a look at the clock.
    """

    def __init__(self, page: LivePage, conductor: Conductor, refresh: float = 0.2) -> None:
        super().__init__()
        self.page = page
        self.conductor = conductor
        self.refresh = refresh
        self.told = 0.0
        self.first_step: int | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count from here, and tell of the first step, however soon it is done."""
        self.told = 0.0
        self.epoch_began = time.perf_counter()
        self.epoch_first_step = self.conductor.step
        if self.first_step is None:
            self.began, self.first_step = self.epoch_began, self._steps_done()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell, not more often than `refresh`."""
        now = time.perf_counter()
        if now - self.told >= self.refresh:
            self.told = now
            self._tell("training", self.conductor.step, logs, images_per_second=self._images_per_second(now))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tell that an epoch waits for its validation."""
        step = self.conductor.step
        self.page.tell(phase="validating", step=step, images_per_second=self._images_per_second(time.perf_counter()))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Tell of a whole epoch, or of the last one."""
        steps = self.conductor.batches.steps_per_epoch
        self._tell("scoring" if self.conductor.finished else "training", steps, logs)

    def _tell(self, phase: str, step: int, logs: dict[str, Any] | None, **more: float) -> None:
        figures = {name: float(value) for name, value in (logs or {}).items() if name in ("loss", "accuracy")}
        self.page.tell(
            phase=phase,
            epoch=self.conductor.epoch + 1,
            step=step,
            steps=self.conductor.batches.steps_per_epoch,
            learning_rate=self.conductor.rate,
            seconds_left=self._seconds_left(step),
            history=tuple(self.conductor.history.rows),
            **figures,
            **more,
        )

    def _steps_done(self, step: int | None = None) -> int:
        step = self.conductor.step if step is None else step
        return self.conductor.epoch * self.conductor.batches.steps_per_epoch + step

    def _seconds_left(self, step: int) -> float:
        """What the steps still to take will need, at the pace of this process so far."""
        done = self._steps_done(step)
        taken = done - (self.first_step or 0)
        to_do = self.conductor.recipe.epochs * self.conductor.batches.steps_per_epoch - done
        return (time.perf_counter() - self.began) / taken * to_do

    def _images_per_second(self, now: float) -> float:
        """Of this epoch's steps so far."""
        batches = self.conductor.batches
        first, last = (
            min(step * batches.recipe.batch_size, len(batches.dataset))
            for step in (self.epoch_first_step, self.conductor.step)
        )
        return (last - first) / (now - self.epoch_began)
