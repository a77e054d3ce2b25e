"""The captured step without a GPU: nothing comes back from the device, and what is replayed is what would have been."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from rich.console import Console
from small import SMALL
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import densely
from densely.errors import DenselyError
from densely.interruption import Interrupted
from densely.kernels import memory
from densely.training import graphs, optimizers
from densely.training.graphs import Constants, GraphedStep
from densely.training.losses import CrossEntropy
from densely.training.optimizers import CoupledSGD, Muon
from densely.training.single import train

pytest.importorskip("triton", reason="Triton is not installed")

from densely.kernels.triton import block, launch

#: Where there is a GPU, tensors without numbers are "on" it: copies from the host then show as such.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton kernels, and a learning rate that is read where it lies."""
    monkeypatch.setenv("DENSELY_TRITON", "1")
    monkeypatch.setattr(optimizers, "_READ_AT_ONCE", ())
    monkeypatch.setattr(launch, "rows_of_a_tile", lambda pixels: 64)  # few tiles: the interpreter is slow
    monkeypatch.setattr(memory, "_SMALLEST", 1 << 62)  # plain `torch.empty`, as on a GPU


# ---- A step whose tensors have shapes but no numbers: whoever looks at one is found out.

LOOKS = {
    *(
        "item",
        "tolist",
        "numpy",
        "__array__",
        "__float__",
        "__int__",
        "__bool__",
        "__index__",
        "cpu",
        "cuda",
        "nonzero",
    ),
    *("as_tensor", "tensor", "from_numpy", "new_tensor"),
}


class NoLook(TorchFunctionMode):
    """Refuses what takes a number from the device or brings one there."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        new = name in ("as_tensor", "tensor") and isinstance(args[0], torch.Tensor)
        assert new or name not in LOOKS, f"{name} of {args[:1]}"
        return function(*args, **(kwargs or {}))


class NoCrossing(TorchDispatchMode):
    """Refuses what has tensors of two devices, or numbers of Python's that have been on one."""

    names: set[str]

    def __enter__(self) -> Any:
        self.names = set()
        return super().__enter__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [args, kwargs or {}]
        out = function(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves([given, out]) if isinstance(leaf, torch.Tensor)}
        assert devices <= {DEVICE}, f"{function} on {devices}"
        self.names.add(function.overloadpacket.__name__)
        assert self.names.isdisjoint({"_local_scalar_dense", "nonzero", "equal", "lift_fresh"}), function
        return out


def fake(model: keras.Model, mode: FakeTensorMode) -> None:
    """Gives a model tensors without numbers."""
    for variable in {
        id(v): v for v in [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    }.values():
        value = variable._value
        with mode:
            empty = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
            variable._value = torch.nn.Parameter(empty, requires_grad=value.requires_grad)
    for layer in model._flatten_layers():
        layer._track_variables()


def compiled(
    optimizer: keras.optimizers.Optimizer, network: Any, loss: Any = None, metric: Any = "accuracy", **changes: Any
) -> keras.Model:
    model = densely.build(network, activation="none", **changes)
    model.compile(optimizer, loss or CrossEntropy(label_smoothing=0.1), metrics=[metric])
    return model


SGD = CoupledSGD(0.1, coupled_decay=1e-4, beta_factor=8.0)
STEPS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (SGD, {}),
    "muon": (Muon(0.1, coupled_decay=1e-4, beta_factor=8.0, global_clipnorm=1.0), {}),
    "adamw": (keras.optimizers.AdamW(0.01, weight_decay=0.01), {}),
    "notebook": (CoupledSGD(0.1), {"weight_decay": 1e-4, "use_bias": True}),
    "fast": (Muon(0.1), {"network": "densenet-fast", "dropout": 0.1}),
    "weighted": (SGD, {"loss": CrossEntropy(class_weights=[1.0 + i for i in range(10)])}),
    "benchmark": (SGD, {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}),
    "mixed": (SGD, {"labels": torch.float32, "metric": keras.metrics.CategoricalAccuracy(name="accuracy")}),
}


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize(("name", "precision"), [*((name, "float32") for name in STEPS), ("muon", "mixed_bfloat16")])
def test_a_step_neither_asks_the_device_for_a_number_nor_brings_it_one(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer, changes = STEPS[name]
    optimizer = type(optimizer).from_config(optimizer.get_config())
    labels = changes.get("labels", torch.int64)
    changes = {"network": "densenet-bc-16-8", "dropout": 0.2, **{k: v for k, v in changes.items() if k != "labels"}}
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = compiled(optimizer, **changes)
    finally:
        keras.config.set_dtype_policy(before)
    shape = (4, 10) if labels is torch.float32 else (4,)
    model._symbolic_build(data_batch=(np.zeros((4, 32, 32, 3), "float32"), np.zeros(shape, "float32")))
    launched = []
    monkeypatch.setattr(block, "launch", lambda kernel, *arguments, **settings: launched.append(kernel))
    mode, constants, watched = FakeTensorMode(), Constants(), NoCrossing()
    fake(model, mode)
    with mode, keras.device(DEVICE):
        batch = torch.empty(4, 32, 32, 3, device=DEVICE), torch.zeros(shape, dtype=labels, device=DEVICE)
        with constants:
            model.train_step(batch)
        del launched[:]
        with watched, NoLook(), constants:
            logs = model.train_step(batch)
    assert set(logs) == {"loss", "accuracy"}
    assert len(launched) > 20
    assert {"convolution_backward", "copy_"} <= watched.names


# ---- A step that is written down and done again without Python, as a CUDA graph is, with real numbers.


class Tape(TorchDispatchMode):
    """PyTorch's operators and the kernels' launches, in order, on the very tensors that they had."""

    recording: "Tape | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.known: set[int] = set()
        self.before: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "lift_fresh"), name
        return self.done(function, args, kwargs or {})

    def done(self, function: Any, args: Any, kwargs: Any) -> Any:
        with _disable_current_modes():
            for storage in storages([args, kwargs]):
                if storage.data_ptr() not in self.known:
                    self.before.append((storage, storage.clone()))
                    self.known.add(storage.data_ptr())
            out = function(*args, **kwargs)
        self.known |= {storage.data_ptr() for storage in storages(out)}
        self.calls.append((function, args, kwargs, out))
        return out

    def take_back(self) -> None:
        """A capture computes nothing."""
        for storage, before in self.before:
            storage.copy_(before)

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, out in self.calls:
                for place, value in zip(tree_leaves(out), tree_leaves(function(*args, **kwargs)), strict=True):
                    if isinstance(place, torch.Tensor) and place.data_ptr() != value.data_ptr():
                        place.copy_(value)


class OneHotAsOnAGpu(TorchFunctionMode):
    """On the CPU it looks whether the labels are classes."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.one_hot:
            return (args[0].unsqueeze(-1) == torch.arange(args[1])).to(args[0].dtype)
        return function(*args, **(kwargs or {}))


def storages(found: Any) -> Iterator[Any]:
    for leaf in tree_leaves(found):
        if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().nbytes():
            yield leaf.untyped_storage()


def taped(step: graphs.Step) -> tuple[dict[str, Any], Callable[[], None]]:
    tape = Tape()
    Tape.recording = tape
    try:
        with OneHotAsOnAGpu(), tape:
            logs = step()
    finally:
        Tape.recording = None
    tape.take_back()
    return logs, tape.replay


@pytest.fixture
def launches_on_tape(monkeypatch: pytest.MonkeyPatch) -> None:
    real = block.launch

    def start(*arguments: Any, **settings: Any) -> None:
        with torch._C.DisableTorchFunction():  # what the interpreter does is no part of it
            if Tape.recording is not None:
                Tape.recording.done(real, arguments, settings)
            else:
                real(*arguments, **settings)

    monkeypatch.setattr(block, "launch", start)


class Falling(keras.callbacks.Callback):
    """A learning rate of its own for every step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.losses = 0, []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.steps += 1
        self.model.optimizer.learning_rate = 0.2 / self.steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(logs["loss"])


def small(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 4))
    x = densely.DenseBlock(1, 4, dropout=0.3)(inputs)
    x = densely.Transition(0.5, dropout=0.3)(x)
    x = keras.layers.BatchNormalization()(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    model.compile(optimizer, CrossEntropy(), metrics=["accuracy"])
    return model


def everything(model: keras.Model) -> list[np.ndarray]:
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables, *model.metrics_variables]]


@pytest.mark.usefixtures("as_on_a_gpu", "launches_on_tape")
def test_replayed_without_python_a_step_does_what_it_would_have_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout, a rate that falls, a partial last batch, two epochs: the same bits in all weights, momenta, counters."""
    monkeypatch.setattr(graphs, "WARM_UP", 1)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4, 4, 4)).astype("float32"), rng.integers(0, 3, 10)
    found, losses, replays = [], [], []

    def counted(step: graphs.Step) -> tuple[dict[str, Any], Callable[[], None]]:
        logs, replay = taped(step)
        return logs, lambda: replays.append(replay())

    for graphed in (False, True):
        model, falling = small(Muon(0.2, coupled_decay=1e-3, beta_factor=2.0)), Falling()
        if graphed:
            model.train_function = GraphedStep(model, 4, counted, lambda step: step())
        model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[falling])
        found.append(everything(model))
        losses.append(falling.losses)
    assert len(replays) == 3  # of four whole batches one warms up
    assert losses[0] == losses[1]
    for plain, replayed in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, replayed)


# ---- Whole trainings, in which a step that is taken again stands for one that is replayed.


def again(step: graphs.Step) -> tuple[dict[str, Any], Callable[[], None]]:
    logs: dict[str, Any] = {}
    return logs, lambda: logs.update(step())


@pytest.fixture
def graphs_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSELY_CUDA_GRAPH", "1")
    monkeypatch.setattr(graphs, "why_not", lambda config, processes: None)
    monkeypatch.setattr(graphs, "captured", again)
    monkeypatch.setattr(graphs, "aside", lambda step: step())


TINY = {"model": SMALL, "limit": 150, "epochs": 2, "batch_size": 32, "network": {"dropout": 0.2}}
TINY |= {"ema": 0.9, "mixup": 0.2, "optimizer": "muon", "console": Console(quiet=True)}


def weights(run: densely.runs.Run) -> bytes:
    return b"".join(w.numpy().tobytes() for w in run.model("final").weights)


class StopAt(keras.callbacks.Callback):
    """A signal after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGINT)


def test_a_training_ends_with_the_same_weights_also_where_it_was_broken_off(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plain = train("digits", out=tmp_path / "plain", **TINY)
    request.getfixturevalue("graphs_anywhere")
    graphed = train("digits", out=tmp_path / "graphed", **TINY)
    with pytest.raises(Interrupted):
        train("digits", out=tmp_path / "stopped", callbacks=[StopAt(7)], **TINY)
    went_on = train("digits", out=tmp_path / "stopped", **TINY)
    assert weights(plain) == weights(graphed) == weights(went_on)
    without_time = [[{**row, "seconds": 0} for row in run.history] for run in (plain, graphed, went_on)]
    assert without_time[0] == without_time[1] == without_time[2]


@pytest.mark.usefixtures("graphs_anywhere")
def test_what_cannot_be_captured_is_an_error_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(step: graphs.Step) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(graphs, "captured", refused)
    with pytest.raises(
        DenselyError, match=r"cannot be captured .*: unset DENSELY_CUDA_GRAPH \(operation not permitted"
    ):
        train("digits", out=tmp_path / "run", **TINY)


@pytest.mark.usefixtures("graphs_anywhere")
def test_tensors_that_were_replaced_are_not_replayed() -> None:
    model = small(CoupledSGD(0.1))
    step = GraphedStep(model, 4, again, lambda step: step())
    model._symbolic_build(data_batch=(np.zeros((4, 4, 4, 4), "float32"), np.zeros(4, "int64")))
    batch = np.zeros((4, 4, 4, 4), "float32"), np.zeros(4, "int64")
    for _ in range(5):
        step([batch])
    model.layers[-1].kernel._value = torch.nn.Parameter(model.layers[-1].kernel._value.detach().clone())
    with pytest.raises(DenselyError, match="no longer has"):
        step([batch])


def test_constants_are_made_once_and_never_written_to() -> None:
    constants = Constants()
    with constants:
        one, other, array = torch.as_tensor(0.5), torch.as_tensor(0.25), torch.as_tensor(np.array([0, 1]))
    with constants:
        assert torch.as_tensor(0.5) is one and torch.as_tensor(np.array([0, 1])) is array
        assert torch.as_tensor(0.5, dtype=torch.float64) is not one
        assert torch.as_tensor(True) is not torch.as_tensor(1) is not torch.as_tensor(1.0)
        own = torch.zeros(2)
        assert torch.as_tensor(own) is own
    assert [one.item(), other.item(), array.tolist()] == [0.5, 0.25, [0, 1]]
    assert torch.as_tensor(0.5) is not one
    with pytest.raises(DenselyError, match="shares with others"), constants:
        torch.as_tensor(0.5).add_(1)


# ---- Where it is not for.


def test_where_it_cannot_be_a_sentence_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train("digits", out=tmp_path / "run", **{**TINY, "epochs": 1, "limit": 60}).config
    assert not graphs.asked()
    monkeypatch.setenv("DENSELY_CUDA_GRAPH", "1")
    assert graphs.asked()
    on = {"device": "cpu"}
    monkeypatch.setattr(graphs, "get_device", lambda: on["device"])
    told: list[str] = []
    model = small(CoupledSGD(0.1))
    with graphs.capturing(model, config, 1, told.append):
        assert model.train_function is None
    assert told == ["Steps are not captured in a CUDA graph: CUDA graphs are for GPUs, not for cpu."]

    on["device"] = "cuda"
    assert "DENSELY_TRITON is not 1" in str(graphs.why_not(config, 1))
    monkeypatch.setenv("DENSELY_TRITON", "1")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert graphs.why_not(config, 1) is None
    assert "several" in str(graphs.why_not(config, 2))
    assert "--deterministic" in str(graphs.why_not(config.model_copy(update={"deterministic": True}), 1))
    accumulated = config.recipe.model_copy(update={"accumulate": 2})
    assert "--accumulate" in str(graphs.why_not(config.model_copy(update={"recipe": accumulated}), 1))

    with contextlib.suppress(ZeroDivisionError), graphs.capturing(model, config, 1, told.append):
        assert isinstance(model.train_function, GraphedStep)
        1 / 0  # noqa: B018
    assert model.train_function is None
    assert told[1:] == ["Steps of whole batches are captured in a CUDA graph."]


# ---- On a GPU.


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [CoupledSGD, Muon])
def test_on_a_gpu_captured_steps_train_as_ordinary_ones(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSELY_TRITON", "1")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7 * 16 + 5, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 7 * 16 + 5)
    found, losses = [], []
    for graphed in (False, True):
        keras.utils.set_random_seed(0)
        model, falling = compiled(kind(0.1, coupled_decay=1e-4), "densenet-bc-22-12", dropout=0.2), Falling()
        if graphed:
            model.train_function = step = GraphedStep(model, 16, graphs.captured, graphs.aside)
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[falling])
        found.append(everything(model))
        losses.append(falling.losses)
    assert step.replay is not None
    # cuDNN adds up the stem's gradient in the order in which its threads come.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    for plain, replayed in zip(*found, strict=True):
        np.testing.assert_allclose(plain, replayed, rtol=1e-2, atol=1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.replay()
    finally:
        torch.cuda.set_sync_debug_mode("default")
