"""`ProgressBar`: a Keras callback that shows a training on one live line, and keeps one line an epoch."""

import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


def clock(seconds: float) -> str:
    """A duration as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class ProgressBar(keras.callbacks.Callback):
    """Epoch, step, loss, accuracy, learning rate, images/s and time left, for any `model.fit`.

    In a terminal or a notebook the line is live; elsewhere (a log file) only the line an epoch is printed. Pass
    `verbose=0` to `fit`, or Keras prints its own bar too.

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
        self._live: Progress | None = None
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
        if self.console.is_terminal or self.console.is_jupyter:
            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self.console,
                transient=True,
                refresh_per_second=8,
            )
            self._task = self._live.add_task("", total=self._steps, figures="")
            self._live.start()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start an epoch's count."""
        self._epoch = epoch
        self._images = self._images_before = 0.0
        self._epoch_began = time.perf_counter()
        self._train_seconds = 0.0
        if self._first_epoch is None:
            self._first_epoch = epoch
        if self._live is not None:
            self._live.reset(self._task, total=self._steps, description=f"Epoch {epoch + 1}/{self._epochs}", figures="")

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """See how many images the running mean of the loss holds already."""
        if batch == 0:
            self._images_before = self._loss_count()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Advance the live line, not more often than `refresh`."""
        now = time.perf_counter()
        self._train_seconds = now - self._epoch_began
        if self._live is None or now - self._last_shown < self.refresh:
            return
        self._last_shown = now
        self._images = self._images_counted()
        done = self._skipped + batch + 1
        figures = self._figures(logs or {})
        if self._steps:
            progress = self._epoch - (self._first_epoch or 0) + (done - self._first_step) / self._steps
            to_do = self._epochs - self._epoch - done / self._steps
            figures += f"  {clock((now - self._began) / progress * to_do)} left"
        self._live.update(self._task, completed=done, figures=figures)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Say that the line waits for the validation part."""
        # Validation starts the counter of images again, so the training's is read now.
        self._images = self._images_counted()
        if self._live is not None:
            self._live.update(self._task, completed=self._steps, figures="validating …")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep one line for the epoch."""
        took = time.perf_counter() - self._epoch_began
        if "val_loss" not in (logs or {}):
            self._images = self._images_counted()
        width = len(str(self._epochs))
        # Not wrapped and not coloured: the lines stay one an epoch in a narrow window or a log, and can be searched.
        self.console.print(
            f"epoch {epoch + 1:>{width}}/{self._epochs}  {self._figures(logs or {})}  {clock(took)}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remove the live line."""
        self.close()

    def close(self) -> None:
        """Remove the live line; also after an interruption, where Keras does not call `on_train_end`."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _figures(self, logs: dict[str, Any]) -> str:
        def order(name: str) -> tuple[bool, bool, str]:
            # Keras sorts by name; people look for the loss first, and for training before validation.
            return name.startswith("val_"), not name.endswith("loss"), name

        parts = []
        for name in sorted(logs, key=order):
            value = logs[name]
            if name.endswith("accuracy") or name.endswith("acc"):
                parts.append(f"{name} {100 * float(value):.2f} %")
            else:
                parts.append(f"{name} {float(value):.4f}")
        if self.model.optimizer is not None:
            parts.append(f"lr {float(self.model.optimizer.learning_rate):.4g}")
        if self._images and self._train_seconds:
            parts.append(f"{self._images / self._train_seconds:,.0f} img/s")
        return "  ".join(parts)

    def _images_counted(self) -> float:
        """Images of this epoch so far, without those of steps that were skipped."""
        return self._loss_count() - self._images_before

    def _loss_count(self) -> float:
        """Keras's running mean of the loss counts images, whatever the data are."""
        return next((float(m.count) for m in self.model.metrics if m.name == "loss" and hasattr(m, "count")), 0.0)
