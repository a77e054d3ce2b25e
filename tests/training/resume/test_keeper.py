"""When checkpoints are written, when a training stops, and what is put back before it goes on."""

import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import torch

from densely.errors import DataError, DenselyError, UsageError
from densely.files import write_whole
from densely.interruption import Interrupted
from densely.training.resume import checkpoint, keeper, state
from densely.training.resume.keeper import Keeper, interval


class Conductor:
    """What a keeper asks of one: where the training is, and what it remembers."""

    def __init__(self, folder: Path, writes: bool = True, steps: int = 4) -> None:
        self.run, self.batches = SimpleNamespace(folder=folder), SimpleNamespace(steps_per_epoch=steps)
        self.writes, self.finished = writes, False
        self.epoch = self.step = 0
        self.averages = [torch.zeros(2)]
        self.remembered: Any = None

    def memory(self) -> dict[str, Any]:
        return {"at": [self.epoch, self.step]}

    def remember(self, memory: dict[str, Any]) -> None:
        self.remembered = memory["at"]

    def diverged(self, what: str) -> DenselyError:
        return DenselyError(what)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """As it is inside `fit`: with an optimizer that has momenta, and a metric that has counted."""
    made = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    made.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="mse", metrics=["mae"])
    made.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    return made


def kept(model: keras.Model, conductor: Conductor, every: int | str = 1, **more: Any) -> Keeper:
    """A keeper whose training has begun; `received` is a signal that has come."""
    signals = SimpleNamespace(received=more.pop("received", None))
    made = Keeper(conductor, every, signals, **more)
    made.set_model(model)
    made.on_train_begin()
    return made


def positions(folder: Path) -> list[tuple[int, int]]:
    """Of the checkpoints that lie there."""
    names = sorted(path.name for path in (folder / "checkpoints").glob("*"))
    return [(int(name[:6]), int(name[7:])) for name in names]


def walk(kept: Keeper, epochs: int = 1) -> list[tuple[int, int]]:
    """All steps of so many epochs: after which of them a checkpoint was written; (1, 0) is the end of the first."""
    conductor, written, last = kept.conductor, [], positions(kept.conductor.run.folder)[-1:]
    for epoch in range(epochs):
        for step in range(1, conductor.batches.steps_per_epoch + 2):
            conductor.epoch, conductor.step = epoch, step
            if step <= conductor.batches.steps_per_epoch:
                kept.on_train_batch_end(step - 1)
            else:
                kept.on_epoch_end(epoch)
            if positions(conductor.run.folder)[-1:] != last:
                last = positions(conductor.run.folder)[-1:]
                written += last
    return written


# ---------------------------------------------------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("every", "written"),
    [
        (1, [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]),
        (3, [(0, 3), (1, 2)]),
        (4, [(1, 0), (2, 0)]),  # the last step of an epoch waits for its validation
        (5, [(1, 1)]),
        ("5m", []),
    ],
)
def test_every_so_many_steps(model: keras.Model, tmp_path: Path, every: int | str, written: list[Any]) -> None:
    assert walk(kept(model, Conductor(tmp_path), every), 2) == written


def test_every_so_many_minutes(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(keeper.time, "monotonic", lambda: now)
    made, written = kept(model, Conductor(tmp_path, steps=9), "1m"), []
    for step, now in enumerate([159.0, 160.0, 219.0, 220.5, 280.0, 281.0], start=1):  # noqa: B007
        made.conductor.step = step
        made.on_train_batch_end(step - 1)
        written += positions(tmp_path)[-1:]
    assert written == [(0, 2), (0, 2), (0, 4), (0, 4), (0, 6)]


def test_what_has_ended_needs_no_checkpoint(model: keras.Model, tmp_path: Path) -> None:
    conductor = Conductor(tmp_path)
    conductor.finished = True
    kept(model, conductor, received=signal.SIGINT).on_epoch_end(0)
    assert positions(tmp_path) == []


def test_a_checkpoint_holds_all_of_the_training(model: keras.Model, tmp_path: Path) -> None:
    conductor = Conductor(tmp_path)
    conductor.averages = [torch.tensor([1.5, -2.0])]
    random.seed(5)
    walk(kept(model, conductor, 3))
    found = checkpoint.newest(tmp_path, pytest.fail)
    assert found is not None and found.state["conductor"] == {"at": [0, 3]}
    expected = random.random()
    state.put_generators_back(found.state["generators"])
    assert random.random() == expected
    assert found.tensors.keys() == state.tensors(model, conductor.averages).keys()
    assert found.tensors["average/0000"].tolist() == [1.5, -2.0]


def test_weights_that_are_no_numbers_are_not_written(model: keras.Model, tmp_path: Path) -> None:
    conductor = Conductor(tmp_path)
    conductor.averages = [torch.tensor([1.0, float("nan")])]
    with pytest.raises(DenselyError, match=r"^The weights are no longer numbers$"):
        walk(kept(model, conductor, 2))
    assert positions(tmp_path) == []


@pytest.mark.parametrize(
    ("every", "seconds"),
    [
        ("500", (500, np.inf)), (500, (500, np.inf)), (1, (1, np.inf)), (" 7 ", (7, np.inf)), ("2.0", (2, np.inf)),
        ("5m", (np.inf, 300)), ("0.5m", (np.inf, 30)), ("12.25m", (np.inf, 735)),
    ],
)  # fmt: skip
def test_steps_or_minutes(every: int | str, seconds: tuple[float, float]) -> None:
    assert interval(every) == seconds


@pytest.mark.parametrize("every", ["0", 0, "0m", "-1", "1.5", "5h", "", "m", "1e3", "5 m", "5mm", "a5m", "1x5m"])
def test_what_is_neither_steps_nor_minutes(every: int | str) -> None:
    with pytest.raises(UsageError) as caught:
        interval(every)
    expected = f"Checkpoints are written every so many steps (500) or minutes (5m), not every {every!r}."
    assert str(caught.value) == expected


# ------------------------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("writes", [True, False])
def test_a_signal_stops_after_the_step_with_a_checkpoint(model: keras.Model, tmp_path: Path, writes: bool) -> None:
    conductor = Conductor(tmp_path, writes)
    conductor.epoch, conductor.step = 2, 3
    with pytest.raises(Interrupted, match=r"^Interrupted in epoch 3, after step 3\.$") as caught:
        kept(model, conductor, 99, received=signal.SIGTERM).on_train_batch_end(2)
    assert (caught.value.signal, caught.value.folder) == (signal.SIGTERM, tmp_path)
    assert positions(tmp_path) == ([(2, 3)] if writes else [])


def test_in_the_last_step_of_an_epoch_it_stops_after_the_validation(model: keras.Model, tmp_path: Path) -> None:
    conductor = Conductor(tmp_path)
    conductor.step = 4
    made = kept(model, conductor, 99, received=signal.SIGINT)
    made.on_train_batch_end(3)
    with pytest.raises(Interrupted, match=r"^Interrupted after epoch 1\.$"):
        made.on_epoch_end(0)
    assert positions(tmp_path) == [(1, 0)]


def test_all_processes_stop_where_one_has_received_a_signal(model: keras.Model, tmp_path: Path) -> None:
    told: list[Any] = []
    made = kept(model, Conductor(tmp_path), 99, agreed=lambda received: told.append(received) or signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        made.on_train_batch_end(0)
    assert caught.value.signal == signal.SIGINT and told == [None]
    none = kept(model, Conductor(tmp_path), 99, received=signal.SIGINT, agreed=lambda received: told.append(received))
    none.on_train_batch_end(0)
    assert told == [None, signal.SIGINT]


# -------------------------------------------------------------------------------------------------------- put back


def begun_again(model: keras.Model, folder: Path, step: int, writes: bool = True, **changes: Any) -> Keeper:
    """A keeper that is to go on from a checkpoint: of the second epoch, or where that ended with a validation."""
    conductor = Conductor(folder)
    conductor.averages = [torch.tensor([3.0, 4.0])]
    conductor.epoch, conductor.step = 1, step or 4
    random.seed(7)
    best = folder / "best.weights.h5"
    best.write_text("then")
    made = kept(model, conductor, 1)
    made.on_train_batch_end(conductor.step - 1)
    if step == 0:
        made.on_epoch_end(1)
    found = checkpoint.newest(folder, pytest.fail)
    assert found is not None and found.step == step
    write_whole(best, lambda aside: aside.write_text("later"))
    return kept(model, Conductor(folder, writes), start=found._replace(state={**found.state, **changes}))


def one_more_step(model: keras.Model) -> None:
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("step", [0, 2])
def test_all_is_put_back_when_the_first_epoch_begins(
    model: keras.Model, tmp_path: Path, step: int, writes: bool
) -> None:
    before, weights = state.tensors(model), model.get_weights()
    made = begun_again(model, tmp_path, step, writes)
    one_more_step(model)
    made.on_epoch_begin(2)
    after = state.tensors(model)
    if step == 0:  # after a validation, whose metrics those were
        assert not any(metric.variables[0].value.any() for metric in model.metrics)
        assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), weights, strict=True))
    else:
        assert all(np.array_equal(after[name], before[name]) for name in before)
    assert made.conductor.averages[0].tolist() == [3.0, 4.0]
    assert made.conductor.remembered == [1, 4 if step == 0 else step]
    assert (tmp_path / "best.weights.h5").read_text() == ("then" if writes else "later")
    # The next epoch begins where this one has come to.
    one_more_step(model)
    trained = state.tensors(model)
    made.on_epoch_begin(3)
    assert all(np.array_equal(value, trained[name]) for name, value in state.tensors(model).items())


def test_in_the_middle_of_an_epoch_random_numbers_go_on_with_its_first_step(model: keras.Model, tmp_path: Path) -> None:
    made = begun_again(model, tmp_path, 2)
    expected = [random.random() for _ in range(3)]
    made.on_epoch_begin(1)
    assert random.random() == expected[0]  # Keras draws before the first step
    made.on_train_batch_begin(2)
    assert [random.random() for _ in range(2)] == expected[:2]
    made.on_train_batch_begin(3)
    assert random.random() == expected[2]


def test_between_epochs_random_numbers_go_on_with_the_epoch(model: keras.Model, tmp_path: Path) -> None:
    made = begun_again(model, tmp_path, 0)
    expected = [random.random() for _ in range(2)]
    made.on_epoch_begin(2)
    assert random.random() == expected[0]
    made.on_train_batch_begin(0)
    assert random.random() == expected[1]


def test_a_new_training_puts_nothing_back(model: keras.Model, tmp_path: Path) -> None:
    made = kept(model, Conductor(tmp_path))
    before, drawn = state.tensors(model), random.getstate()
    made.on_epoch_begin(0)
    made.on_train_batch_begin(0)
    assert random.getstate() == drawn and made.conductor.remembered is None
    assert all(np.array_equal(value, before[name]) for name, value in state.tensors(model).items())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ({"conductor": None}, "'NoneType' object is not subscriptable"),
        ({"conductor": {}}, "'at'"),
        ({"generators": {}}, "'torch'"),
        ({"generators": {"torch": ["00"]}}, "the state of PyTorch's generator has another length"),
    ],
)
def test_a_checkpoint_with_something_else_in_it_is_refused(
    model: keras.Model, tmp_path: Path, damage: Any, why: str
) -> None:
    made = begun_again(model, tmp_path, 2, **damage)
    with pytest.raises(DataError) as caught:
        made.on_epoch_begin(1)
    said = f"The checkpoint in {tmp_path} holds what no training of this version wrote ({why}): choose another --out."
    assert str(caught.value) == said
