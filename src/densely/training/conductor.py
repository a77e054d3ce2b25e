"""What happens around the steps of a training: learning rate, history, averaged, best and final weights, early stop."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import keras
import torch

from densely import runs
from densely.errors import DenselyError
from densely.runs import Run
from densely.training.averaging import WeightAverage

if TYPE_CHECKING:
    from densely.training.batches import Batches


class Conductor(keras.callbacks.Callback):
    """Sets epoch and learning rate, writes history and weights, ends a training that gets no better.

    Args:
        run: where to write; its recipe is followed.
        model: the network whose weights are written, with its probabilities.
        batches: what is trained on.
        writes: whether it writes anything; of several processes only the first does.
        goes_on: from a checkpoint: what the run folder holds of the epochs before stays until that is remembered.
    """

    def __init__(
        self, run: Run, model: keras.Model, batches: Batches, writes: bool = True, goes_on: bool = False
    ) -> None:
        super().__init__()
        self.run = run
        self.recipe = run.config.recipe
        self.whole_model = model
        self.batches = batches
        self.writes = writes
        self.history = runs.HistoryFile(run.folder / "history.csv" if writes else None, begin=not goes_on)
        self.average = WeightAverage(model, self.recipe.ema) if self.recipe.ema else None
        self.best: tuple[float, float] | None = None
        self.best_epoch = 0
        self.epoch = self.step = 0
        self.finished = False

    @property
    def averages(self) -> list[Any]:
        """The averaged weights; none where the recipe averages none."""
        return self.average.values if self.average is not None else []

    def memory(self) -> dict[str, Any]:
        """What it has to remember, as JSON has it."""
        return {
            "averaged_steps": self.average.steps if self.average is not None else 0,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seconds": time.perf_counter() - self.began if self.step else 0.0,
            "history": self.history.rows,
        }

    def remember(self, memory: dict[str, Any]) -> None:
        """Have again what `memory` told."""
        if self.average is not None:
            self.average.steps = memory["averaged_steps"]
        self.best = tuple(memory["best"]) if memory["best"] is not None else None
        self.best_epoch = memory["best_epoch"]
        self.began -= memory["seconds"]
        self.history = runs.HistoryFile(self.history.path, memory["history"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Make this epoch's batches."""
        self.epoch, self.step = epoch, self.batches.skipped
        self.began = time.perf_counter()
        self.batches.set_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set this step's learning rate."""
        steps = self.batches.steps_per_epoch
        self.rate = self.recipe.learning_rate_at(self.epoch * steps + self.step, steps)
        self.model.optimizer.learning_rate = self.rate

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take this step into the average."""
        self.step += 1
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise self.diverged("The loss is no longer a number")
        # Keras counts batches over the whole training before it moves the weights, not epoch by epoch.
        batches = self.epoch * self.batches.steps_per_epoch + self.step
        if self.average is not None and batches % self.recipe.accumulate == 0:
            self.average.update()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Validate the averaged weights."""
        if self.average is not None:
            self.average.swap()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Go on from the weights of the last step."""
        if self.average is not None:
            self.average.swap()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch down, and the weights if they are the best so far, or the last."""
        # A step's loss is that of the weights before it: what the last one made of them shows only here.
        if not all(bool(torch.isfinite(weight.value).all()) for weight in self.whole_model.weights):
            raise self.diverged("The weights are no longer numbers")
        row = {name: float(value) for name, value in (logs or {}).items()}
        self.history.add(
            {"epoch": epoch + 1, "learning_rate": self.rate, "seconds": time.perf_counter() - self.began, **row}
        )
        self.step = 0
        if "val_accuracy" in row:
            self._compare(epoch, (row["val_accuracy"], -row["val_loss"]))
        if epoch + 1 == self.recipe.epochs or self.model.stop_training:
            self._finish()

    def diverged(self, what: str) -> DenselyError:
        """The error for numbers that have run away, with where and what helps."""
        return DenselyError(
            f"{what} in epoch {self.epoch + 1}, step {self.step} (learning rate {self.rate:.3g}): lower --lr, or give "
            f"--clip-norm, in a new --out; {self.run.folder} keeps what was good."
        )

    def _compare(self, epoch: int, rank: tuple[float, float]) -> None:
        if self.best is None or rank > self.best:
            self.best, self.best_epoch = rank, epoch
            self._write("best")
        elif self.recipe.early_stop is not None and epoch - self.best_epoch >= self.recipe.early_stop:
            self.model.stop_training = True

    def _finish(self) -> None:
        """Write the final weights: the average of the last steps, or, with early stop, the best epoch's."""
        if self.recipe.early_stop is not None and self.writes:
            self.whole_model.load_weights(self.run.folder / "best.weights.h5")
            runs.write_weights(self.run.folder / "final.weights.h5", self.whole_model)
        else:
            self._write("final")
        self.finished = True

    def _write(self, name: str) -> None:
        if not self.writes:
            return
        with self.average.applied() if self.average is not None else nullcontext():
            runs.write_weights(self.run.folder / f"{name}.weights.h5", self.whole_model)
