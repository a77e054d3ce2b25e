"""All that changes while a network is trained: taken as arrays and plain values, put back exactly."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import torch
from numpy.typing import NDArray

from densely.errors import DataError


def tensors(model: keras.Model, averages: Iterable[Any] = ()) -> dict[str, NDArray[Any]]:
    """The arrays: weights, seeds of dropout, momenta, running metrics, averages.

    Args:
        model: compiled, and built with its optimizer and metrics, as it is inside `fit`.
        averages: of the weights, if there are any.
    """
    found = _values(model, averages)
    return {name: np.array(value.detach().cpu().numpy(), order="C") for name, value in found.items()}


def put_tensors_back(found: dict[str, NDArray[Any]], model: keras.Model, averages: Iterable[Any] = ()) -> None:
    """Give a model and averages the arrays that `tensors` took.

    Raises:
        DataError: if they are of another network or optimizer; then nothing has been changed.
    """
    into = _values(model, averages)
    wrong = into.keys() ^ found.keys()
    wrong |= {name for name in into.keys() & found.keys() if tuple(into[name].shape) != found[name].shape}
    if wrong:
        raise DataError(f"The checkpoint is of another network or optimizer: {min(wrong)} does not fit.")
    with torch.no_grad():
        for name, value in into.items():
            value.copy_(torch.from_numpy(found[name]))


def all_finite(found: dict[str, NDArray[Any]]) -> bool:
    """Whether every number in the arrays is one."""
    return all(bool(np.isfinite(value).all()) for value in found.values() if value.dtype.kind == "f")


def generators() -> dict[str, Any]:
    """The global random generators of PyTorch, NumPy and Python, as JSON has them."""
    kind, words, *rest = np.random.get_state()
    version, numbers, gauss_next = random.getstate()
    return {
        "torch": [_hex(state) for state in (torch.get_rng_state(), *_cuda_states())],
        "numpy": [kind, np.asarray(words).tolist(), *rest],
        "python": [version, list(numbers), gauss_next],
    }


def put_generators_back(state: dict[str, Any]) -> None:
    """Give the global random generators what `generators` took."""
    own, *devices = (torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8) for text in state["torch"])
    if own.shape != torch.get_rng_state().shape:
        raise ValueError("the state of PyTorch's generator has another length")
    torch.set_rng_state(own)
    for device, device_state in enumerate(devices[: len(_cuda_states())]):
        torch.cuda.set_rng_state(device_state, device)
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), *rest))
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))


def _values(model: keras.Model, averages: Iterable[Any]) -> dict[str, Any]:
    """Every tensor by a name of its own: numbered, and of a variable's path only the end, which no counter is in."""
    every = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    unique = {id(variable): variable for variable in every}.values()
    found = {f"{i:04}/{variable.path.rsplit('/', 1)[-1]}": variable.value for i, variable in enumerate(unique)}
    return found | {f"average/{i:04}": value for i, value in enumerate(averages)}


def _hex(state: torch.Tensor) -> str:
    return bytes(state.tolist()).hex()


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
