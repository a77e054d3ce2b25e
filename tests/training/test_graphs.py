"""The captured step without a GPU: nothing comes back from the device, and what is replayed is what would have been."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import densely
from densely.errors import DenselyError
from densely.kernels import memory
from densely.training import graphs, optimizers
from densely.training.graphs import Constants, GraphedStep
from densely.training.losses import CrossEntropy
from densely.training.optimizers import CoupledSGD, Muon
from densely.training.resume.interruption import Interrupted
from densely.training.single import train

pytest.importorskip("triton", reason="Triton is not installed")

from densely.kernels.triton import block, launch

#: PyTorch's CUDA builds know shapes and dtypes "on" a GPU that is not there, and then copies from the host show as such.
DEVICE = "cuda" if torch.backends.cuda.is_built() else "cpu"


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton kernels, and a learning rate that is read where it lies."""
    monkeypatch.setenv("DENSELY_TRITON", "1")
    monkeypatch.setattr(optimizers, "_READ_AT_ONCE", ())
    monkeypatch.setattr(launch, "rows_of_a_tile", lambda pixels: 64)  # few tiles: the interpreter is slow
    monkeypatch.setattr(memory, "_SMALLEST", 1 << 62)  # plain `torch.empty`, as on a GPU


# ---- A step whose tensors have shapes but no numbers: whoever looks at one is found out.

LOOKS = {
    *("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__bool__", "__index__", "cpu", "cuda", "nonzero"),
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
    for variable in {id(v): v for v in [*model.variables, *model.optimizer.variables, *model.metrics_variables]}.values():
        value = variable._value
        with mode:
            empty = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
            variable._value = torch.nn.Parameter(empty, requires_grad=value.requires_grad)
    for layer in model._flatten_layers():
        layer._track_variables()


def compiled(optimizer: keras.optimizers.Optimizer, network: Any, loss: Any = None, metric: Any = "accuracy", **changes: Any) -> keras.Model:
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
    "mixed": (SGD, {"labels": torch.float32, "metric": keras.metrics.CategoricalAccuracy(name="accuracy")}),
}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", STEPS)
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
