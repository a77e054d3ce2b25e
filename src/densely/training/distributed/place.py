"""Which of how many processes this is: the variables that torchrun sets, or whatever starts processes as it does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from densely.console import counted
from densely.errors import UsageError

#: What every process of a training has to be told; torchrun, Slurm scripts and Kubernetes operators set them.
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
#: Set by `--devices`, to the launcher's process number.
LAUNCHER = "DENSELY_LAUNCHER"


class Place(NamedTuple):
    """A process among the others.

    Attributes:
        rank: its number, from 0; the first one writes the run folder.
        size: how many there are.
        local_rank: its number on its machine, which is that of its GPU.
        local_size: how many there are on its machine; at least as far as is known.
        host, port: where they meet.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int


def check_patience(seconds: float) -> None:
    """Refuse less than processes need to give one another a sign.

    Raises:
        UsageError: for less than 5 seconds.
    """
    if not seconds >= 5:
        raise UsageError(f"--peer-timeout must be at least 5 seconds, not {seconds:g}.")


def find(variables: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place; `None` if it is alone.

    Raises:
        UsageError: if only some of the variables are set, or one is no number or out of range.
    """
    if not any(variables.get(name) for name in ("RANK", "WORLD_SIZE")):
        return None
    missing = [name for name in NEEDED if not variables.get(name)]
    if missing:
        there = ", ".join(name for name in NEEDED if variables.get(name))
        raise UsageError(
            f"{there} say that this is one process of several, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set: start it by torchrun, or set all four."
        )
    rank, size, port = (_number(variables, name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if not 0 <= rank < size:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {size}: ranks are counted from 0 to one below the size.")
    local_rank = _number(variables, "LOCAL_RANK") if variables.get("LOCAL_RANK") else 0
    local_size = _number(variables, "LOCAL_WORLD_SIZE") if variables.get("LOCAL_WORLD_SIZE") else local_rank + 1
    return Place(rank, size, local_rank, local_size, variables["MASTER_ADDR"], port) if size > 1 else None


def gpus() -> int:
    """How many GPUs a training can use here; 0 if it runs on the CPU.

    Raises:
        UsageError: on a device that processes cannot share a training on.
    """
    wanted = os.environ.get("KERAS_TORCH_DEVICE", "")
    if wanted.startswith("cpu"):
        return 0
    import torch

    if not wanted.startswith("cuda") and torch.backends.mps.is_available():
        raise UsageError("Several processes train on CPUs and CUDA GPUs only: set KERAS_TORCH_DEVICE=cpu.")
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check_gpus(place: Place) -> None:
    """Refuse more processes on a machine than it has GPUs, and processes that do not know which is theirs.

    Raises:
        UsageError: says which.
    """
    count = gpus()
    if count and place.local_size > count:
        raise UsageError(
            f"{place.local_size} processes on a machine with {counted(count, 'GPU')}: start one a GPU, or set "
            "KERAS_TORCH_DEVICE=cpu."
        )
    if count > 1 and not os.environ.get("LOCAL_RANK"):
        raise UsageError(f"LOCAL_RANK is not set, so this process cannot know which of {count} GPUs is its own.")


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except ValueError:
        raise UsageError(f"{name} must be a whole number, not {variables[name]!r}.") from None
