"""The progress bar in a real fit, on a real terminal's width and in a log."""

import io
import re

import keras
import numpy as np
import pytest
from rich.console import Console

from densely.training.progress import ProgressBar


def fit(bar: ProgressBar, epochs: int = 2, **options) -> None:
    model = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x = np.random.default_rng(0).random((50, 4)).astype("float32")
    y = np.arange(50) % 3
    model.fit(x, y, 16, epochs, verbose=0, callbacks=[bar], **options)


def test_a_log_gets_one_plain_line_an_epoch() -> None:
    log = io.StringIO()
    x = np.zeros((4, 4), "float32")
    fit(ProgressBar(Console(file=log)), validation_data=(x, np.zeros(4, int)))
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert line.startswith(f"epoch {number}/2  loss ")
        for word in ("accuracy", "val_loss", "val_accuracy", "lr 0.01", "img/s"):
            assert word in line
        assert "\x1b" not in line
    assert lines[0].endswith(" left")  # nothing moves in a log that could say it
    assert not lines[1].endswith(" left")


def test_a_log_is_told_in_a_long_first_epoch_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr("densely.training.progress.FORECAST_AFTER", 0.0)
    fit(ProgressBar(Console(file=log)), epochs=3)
    lines = log.getvalue().splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"about \d:\d\d an epoch, \d:\d\d to the end", lines[0])


def test_a_terminal_gets_a_live_line_with_everything_on_it() -> None:
    screen = io.StringIO()
    fit(ProgressBar(Console(file=screen, force_terminal=True, width=160), refresh=0), epochs=3)
    text = screen.getvalue()
    for word in ("Epoch 1/3", "Epoch 3/3", "4/4", "loss", "accuracy", "lr 0.01", "img/s", "left"):
        assert word in text


def test_it_goes_away_after_an_interruption() -> None:
    screen = io.StringIO()
    bar = ProgressBar(Console(file=screen, force_terminal=True))

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(KeyboardInterrupt):
        model.fit(np.zeros((4, 2)), np.zeros((4, 1)), verbose=0, callbacks=[bar, Interrupt()])
    bar.close()
    assert screen.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in screen.getvalue()  # the cursor is back
