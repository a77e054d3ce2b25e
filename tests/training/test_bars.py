"""What a notebook gets of a training: one display that moves, then a table; nothing of it twice."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from kernel import executed, of, text
from rich.console import Console

from densely.training import bars
from densely.training.bars import InLog, InNotebook, InTerminal

FIT = """
import densely
import keras
import numpy as np
x, y = np.zeros((64, 4), "float32"), np.arange(64) % 3
model = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
bar = densely.ProgressBar(refresh=0)
_ = model.fit(x, y, 2, epochs=12, verbose=0, validation_data=(x, y), callbacks=[bar])
"""
INTERRUPTED = """
class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            raise KeyboardInterrupt
try:
    model.fit(x, y, 2, epochs=12, verbose=0, callbacks=[bar, Stop()])
except KeyboardInterrupt:
    bar.close()
"""
QUIET = """
from rich.console import Console
_ = model.fit(x, y, 2, epochs=2, verbose=0, callbacks=[densely.ProgressBar(Console(quiet=True))])
"""
TRAIN = """
run = densely.train("digits", model="densenet-bc-16-8", epochs=2, limit=100)
"""
SHOWN = """
run
"""
NETWORK = """
run.model()
"""


@pytest.mark.slow
def test_a_kernel_gets_one_output_a_training(tmp_path: Path) -> None:
    cells = executed(of(FIT, INTERRUPTED, QUIET, TRAIN, SHOWN, NETWORK), tmp_path).cells
    fit, interrupted, quiet, train, run, network = cells
    # 384 steps and 12 epochs are one output: a table with every epoch, and no bar left.
    (output,) = fit.outputs
    html, plain = output.data["text/html"], output.data["text/plain"]
    assert html.count("<tr>") == 13
    assert "<th>val_accuracy</th>" in html
    assert "<progress" not in html
    assert [line[:11] for line in plain.splitlines()] == [f"epoch {i:>2}/12" for i in range(1, 13)]
    (output,) = interrupted.outputs
    assert output.data["text/html"] == "<div>Epoch 1/12: 5 of 32</div>"
    assert quiet.outputs == []
    # Before, what is trained; after, the score; no warning, no other noise.
    assert len(train.outputs) == 3
    assert text(train) == ""
    assert "2/2" in train.outputs[1].data["text/html"]
    assert "Test accuracy" in run.outputs[0].data["text/html"]
    assert "dense block 1" in network.outputs[0].data["text/html"]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HTML that a notebook is sent, message by message."""
    messages: list[str] = []

    def display(bundle: dict[str, str], **options: object) -> SimpleNamespace:
        messages.append(bundle["text/html"])
        return SimpleNamespace(update=lambda again, raw: messages.append(again["text/html"]))

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return messages


def test_a_bar_moves_above_the_last_lines_and_leaves_them_all(sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "PAUSE", 0)
    bar = InNotebook()
    for epoch in range(20):
        bar.show(f"Epoch {epoch}", 3, 10, "loss 1 <b>")
        bar.keep("", {"epoch": str(epoch), "<i>": "&"})
    moving, (*_, before) = sent[-2], sent
    bar.close()
    bar.close()
    assert '<progress value="3" max="10"' in moving
    assert "loss 1 &lt;b&gt;" in moving
    assert moving.count("<tr>") == 1 + bars.RECENT
    assert before.count("<tr>") == 1 + bars.RECENT
    assert sent[-1].count("<tr>") == 21
    assert "<th>&lt;i&gt;</th>" in sent[-1] and "<td>&amp;</td>" in sent[-1]
    assert len(sent) == 41


def test_a_fast_loop_does_not_flood_the_page(sent: list[str]) -> None:
    bar = InNotebook()
    for done in range(10_001):
        bar.show("Reading images", done, 10_000)
    bar.close()
    assert 3 <= len(sent) < 100
    assert sent[-1] == "<div>Reading images: 10,000 of 10,000</div>"


def test_without_a_total_the_bar_only_says_that_something_moves(sent: list[str]) -> None:
    bar = InNotebook()
    bar.show("Epoch 1/2", 7, None)
    assert "<progress style" in sent[-1]
    bar.close()
    assert sent[-1] == "<div>Epoch 1/2: 7</div>"


def test_nothing_shown_leaves_nothing(sent: list[str]) -> None:
    InNotebook().close()
    assert sent == []


def test_each_console_gets_its_kind() -> None:
    assert type(bars.live(Console(force_jupyter=True))) is InNotebook
    assert type(bars.live(Console(force_jupyter=True, quiet=True))) is InLog
    assert type(bars.live(Console(force_terminal=True))) is InTerminal
    assert type(bars.live(Console(force_terminal=False))) is InLog
