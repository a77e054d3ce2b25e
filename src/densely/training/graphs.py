"""The whole training step as one CUDA graph: the GPU is given its thousands of launches at once, not one by one.

At batch 64 a step of a DenseNet is launches, not arithmetic: the card waits for Python. `GraphedStep` takes a few
ordinary steps, has PyTorch write down what the next one launches (forward, loss, backward, update, metrics), and from
then on starts that as a whole, for each batch, which is copied to where the first one lay. What must differ from step
to step therefore lies on the device, and is read there: weights, momenta, the optimizer's counter, the learning rate,
the states of dropout's seeds. Python, and all that it decides, is the same in every replay.

Only with `DENSELY_CUDA_GRAPH=1`: **no GPU was at hand when it was written.** It has never run on one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import torch
from keras.src.backend.torch.core import get_device
from torch.overrides import TorchFunctionMode

from densely.errors import DenselyError, reason
from densely.kernels import triton
from densely.training.out_of_memory import ran_out

if TYPE_CHECKING:
    from densely.runs import RunConfig

WARM_UP = 3
"""Steps before the one that is captured: Triton compiles and tries tiles, libraries make what they work with."""

Step = Callable[[], dict[str, Any]]


def asked() -> bool:
    """Whether `DENSELY_CUDA_GRAPH=1` asks for it: its speed has not been measured yet."""
    return os.environ.get("DENSELY_CUDA_GRAPH") == "1"


def why_not(config: RunConfig, processes: int) -> str | None:
    """Why the steps of a training cannot be captured here, or None if they can.

    Args:
        config: of the training.
        processes: that share it.
    """
    device = torch.device(get_device())
    if device.type != "cuda":
        return f"CUDA graphs are for GPUs, not for {device.type}"
    if (engine := triton.why_not(device)) is not None:
        return f"the dense blocks must run as Triton kernels, and {engine}"
    if processes > 1:
        return "it is for one process, not for several that share a training"
    if config.recipe.accumulate > 1:
        return "with --accumulate not every step does the same"
    if config.deterministic:
        return "with --deterministic nothing is taken that has not been seen to repeat its bits"
    return None


@contextmanager
def capturing(model: keras.Model, config: RunConfig, processes: int, tell: Callable[[str], None]) -> Iterator[None]:
    """Inside, `fit` captures the model's step and replays it, where that is asked for and possible.

    Args:
        model: compiled.
        config: of the training.
        processes: that share it.
        tell: called with a sentence that says what happens.
    """
    if not asked():
        yield
        return
    why = why_not(config, processes)
    if why is not None:
        tell(f"Steps are not captured in a CUDA graph: {why}.")
        yield
        return
    tell("Steps of whole batches are captured in a CUDA graph.")
    model.train_function = GraphedStep(model, config.recipe.batch_size, captured, aside)
    try:
        yield
    finally:
        model.train_function = None  # and with it the graph and its memory


@functools.cache
def _stream() -> torch.cuda.Stream:
    """One for warming up and capturing: memory, and what libraries prepare, belong to a stream."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def aside(step: Step) -> dict[str, Any]:
    """A step on a stream of its own, as those before a capture have to be."""
    here, stream = torch.cuda.current_stream(), _stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        logs = step()
    here.wait_stream(stream)
    return logs


def captured(step: Step) -> tuple[dict[str, Any], Callable[[], None]]:
    """What a step will give, and what takes it; nothing is computed yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=_stream()):
        logs = step()
    return logs, graph.replay


class GraphedStep:
    """A model's `train_function`: whole batches by one graph, all others as ever.

    Args:
        model: compiled; its `train_step` is what is captured.
        batch_size: images of a whole batch.
        capture: writes a step down, `captured`.
        warm_up: takes a step before that, `aside`.
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int,
        capture: Callable[[Step], tuple[dict[str, Any], Callable[[], None]]],
        warm_up: Callable[[Step], dict[str, Any]],
    ) -> None:
        self.model, self.batch_size, self.capture, self.warm_up = model, batch_size, capture, warm_up
        self.constants = Constants()
        self.batch: tuple[torch.Tensor, ...] | None = None  # where every whole batch lies
        self.held: list[tuple[Any, torch.Tensor]] = []
        self.taken = 0
        self.replay: Callable[[], None] | None = None

    def __call__(self, data: Any) -> dict[str, Any]:
        """Take a step with `data[0]`, images and labels; gives loss and metrics, until the next step, as tensors."""
        batch = tuple(torch.as_tensor(part) for part in data[0])
        if self.batch is None and len(batch[0]) == self.batch_size:
            self.batch = tuple(part.to(get_device(), copy=True) for part in batch)
        if self.batch is None or _kinds(batch) != _kinds(self.batch):
            return self._step(batch)
        for own, part in zip(self.batch, batch, strict=True):
            own.copy_(part)
        if self.replay is None and self.taken < WARM_UP:
            self.taken += 1
            with self.constants:
                return self.warm_up(self._whole)
        if self.replay is None:
            self._capture()
            assert self.replay is not None
        if any(variable._value is not tensor for variable, tensor in self.held):
            raise DenselyError(
                "A captured step works on tensors that the model no longer has: unset DENSELY_CUDA_GRAPH."
            )
        self.replay()
        return self.logs

    def _step(self, batch: tuple[torch.Tensor, ...]) -> dict[str, Any]:
        logs: dict[str, Any] = self.model.train_step(batch)
        return logs

    def _whole(self) -> dict[str, Any]:
        assert self.batch is not None
        return self._step(self.batch)

    def _capture(self) -> None:
        model = self.model
        try:
            with self.constants:
                self.logs, self.replay = self.capture(self._whole)
        except RuntimeError as error:
            if ran_out(error):
                raise
            raise DenselyError(
                f"The training step cannot be captured in a CUDA graph: unset DENSELY_CUDA_GRAPH ({reason(error)})."
            ) from error
        variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
        self.held = [(variable, variable._value) for variable in variables]


def _kinds(batch: tuple[torch.Tensor, ...]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(part.shape, part.dtype) for part in batch]


def _of_python(value: Any) -> bool:
    """Whether it is a number, or an array or sequence of some: nothing that lies on a device."""
    if isinstance(value, tuple | list):
        return all(map(_of_python, value))
    return isinstance(value, bool | int | float | np.ndarray | np.generic)


class Constants(TorchFunctionMode):
    """Inside, what Python makes tensors of is on the device already when it is met again.

    Keras makes a tensor of every 0.9 that it multiplies by, and sends it to the device. A graph does not take that: the
    number may be gone when the graph is replayed. The tensors handed out are shared, so nobody may write to them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[Any, ...], tuple[torch.Tensor, int]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Remembers what `torch.as_tensor`, through which Keras goes, gives for what is no tensor."""
        kwargs = kwargs or {}
        if function is not torch.as_tensor or not _of_python(args[0]):
            return function(*args, **kwargs)
        value = np.asarray(args[0])
        key = (type(args[0]), value.dtype, value.shape, value.tobytes(), *sorted(kwargs.items()))
        if key not in self.kept:
            made = function(*args, **kwargs)
            self.kept[key] = made, made._version
        return self.kept[key][0]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        if error == (None, None, None) and any(made._version != version for made, version in self.kept.values()):
            raise DenselyError("A step writes to a number that it shares with others: unset DENSELY_CUDA_GRAPH.")
