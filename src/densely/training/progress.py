"""`ProgressBar`: a Keras callback that shows a training on one live line, and keeps one line an epoch."""

import time
from typing import Any

import keras
from rich.console import Console

from densely.console import clock
from densely.training.bars import Live, live

#: Seconds after which a log is told how long a training will take, where its first epoch is longer than that.
FORECAST_AFTER = 60.0


class ProgressBar(keras.callbacks.Callback):
    """Epoch, step, loss, accuracy, learning rate, images/s and time left, for any `model.fit`.

    In a terminal the line is live; a notebook gets a single display with a bar, which leaves a table with a row an
    epoch; elsewhere (a log file) only the line an epoch is printed. Pass `verbose=0` to `fit`, or Keras prints its own
    bar too.

    Args:
        console: where to print; by default a new `rich.console.Console` on standard output.
        refresh: least seconds between two updates of the live line (default 0.1).

    Example:
        >>> model.fit(x, y, 64, epochs=20, verbose=0, callbacks=[ProgressBar()])  # doctest: +SKIP
    """

    def __init__(self, console: Console | None = None, refresh: float = 0.1) -> None:
        super().__init__()
        self.console = console or Console()
        self.refresh = refresh
        self._live: Live | None = None
        self._first_epoch: int | None = None
        self._images = self._images_before = 0.0
        self._skipped = 0

    def skip(self, steps: int) -> None:
        """Count from so many steps on in the next epoch: a training that goes on has taken them already."""
        self._skipped = steps

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Start the live line."""
        self.close()  # one that an interruption left behind
        self._epochs = self.params.get("epochs") or 1
        self._steps = self.params.get("steps")
        self._began = time.perf_counter()
        self._first_epoch = None
        self._first_step = self._skipped
        self._last_shown = 0.0
        self._told = False
        self._live = live(self.console)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start an epoch's count."""
        self._epoch = epoch
        self._images = self._images_before = 0.0
        self._epoch_began = time.perf_counter()
        self._train_seconds = 0.0
        if self._first_epoch is None:
            self._first_epoch = epoch
        self._show(self._skipped, "")

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """See how many images the running mean of the loss holds already."""
        if batch == 0:
            self._images_before = self._loss_count()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Advance the live line, not more often than `refresh`."""
        now = time.perf_counter()
        self._train_seconds = now - self._epoch_began
        if self._live is None:
            return
        done = self._skipped + batch + 1
        if not self._live.moves:
            self._forecast(now, done)
            return
        if now - self._last_shown < self.refresh:
            return
        self._last_shown = now
        self._images = self._images_counted()
        figures = self._line(self._figures(logs or {}))
        if self._steps:
            figures += f"  {clock(self._left(now, done))} left"
        self._show(done, figures)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Say that the line waits for the validation part."""
        # Validation starts the counter of images again, so the training's is read now.
        self._images = self._images_counted()
        self._show(self._steps or 0, "validating …")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep one line for the epoch."""
        took = time.perf_counter() - self._epoch_began
        if "val_loss" not in (logs or {}):
            self._images = self._images_counted()
        if self._live is not None:
            number = f"{epoch + 1:>{len(str(self._epochs))}}/{self._epochs}"
            figures = self._figures(logs or {})
            left = self._left(time.perf_counter(), self._steps) if self._steps else 0
            self._told = True
            # A log has no line that moves and could say it.
            end = "" if self._live.moves or not left else f", {clock(left)} left"
            self._live.keep(
                f"epoch {number}  {self._line(figures)}  {clock(took)}{end}",
                {"epoch": number, **figures, "time": clock(took)},
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the live line."""
        self.close()

    def close(self) -> None:
        """Remove the live line; also after an interruption, where Keras does not call `on_train_end`."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _left(self, now: float, done: int) -> float:
        """Seconds to the end, from what the steps so far took; `done` of this epoch's steps are done."""
        steps = self._steps or 1
        progress = self._epoch - (self._first_epoch or 0) + (done - self._first_step) / steps
        return (now - self._began) / progress * (self._epochs - self._epoch - done / steps)

    def _forecast(self, now: float, done: int) -> None:
        """In a log, where no line moves: once, in a first epoch that is long, how long all will take."""
        if self._live is not None and self._steps and not self._told and now - self._began >= FORECAST_AFTER:
            self._told = True
            of_epoch = (now - self._began) / (done - self._first_step) * self._steps
            line = f"about {clock(of_epoch)} an epoch, {clock(self._left(now, done))} to the end"
            self._live.keep(line, {"epoch": line})

    def _show(self, done: int, figures: str) -> None:
        if self._live is not None:
            self._live.show(f"Epoch {self._epoch + 1}/{self._epochs}", done, self._steps, figures)

    def _figures(self, logs: dict[str, Any]) -> dict[str, str]:
        def order(name: str) -> tuple[bool, bool, str]:
            # Keras sorts by name; people look for the loss first, and for training before validation.
            return name.startswith("val_"), not name.endswith("loss"), name

        figures = {}
        for name in sorted(logs, key=order):
            value = float(logs[name])
            share = name.endswith(("accuracy", "acc"))
            figures[name] = f"{100 * value:.2f} %" if share else f"{value:.4f}"
        if self.model.optimizer is not None:
            figures["lr"] = f"{float(self.model.optimizer.learning_rate):.4g}"
        if self._images and self._train_seconds:
            figures["img/s"] = f"{self._images / self._train_seconds:,.0f}"
        return figures

    @staticmethod
    def _line(figures: dict[str, str]) -> str:
        return "  ".join(f"{value} {name}" if name == "img/s" else f"{name} {value}" for name, value in figures.items())

    def _images_counted(self) -> float:
        """Images of this epoch so far, without those of steps that were skipped."""
        return self._loss_count() - self._images_before

    def _loss_count(self) -> float:
        """Keras's running mean of the loss counts images, whatever the data are."""
        return next((float(m.count) for m in self.model.metrics if m.name == "loss" and hasattr(m, "count")), 0.0)
