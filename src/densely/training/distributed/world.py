"""What a training asks of the processes that share it; for a training in one process every answer is trivial."""

from __future__ import annotations

import functools
import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from safetensors.numpy import load, save
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from densely.errors import UsageError
from densely.interruption import StopSignals
from densely.training.distributed import place as places
from densely.training.distributed.peers import GRACE, ElsewhereError, Peers, arrive
from densely.training.distributed.place import Place
from densely.training.distributed.replica import Replica
from densely.training.resume.checkpoint import Checkpoint

Found = TypeVar("Found")

#: Seconds after which a process that does not answer ends the training.
PATIENCE = 60.0
#: What the libraries below PyTorch's sums say when one fails: they have no exception of their own.
_SUMS = re.compile(
    r"gloo|nccl|pair closure|connection (closed|reset|refused)|timed out waiting|broken pipe", re.IGNORECASE
)


class World:
    """One process, alone.

    Attributes:
        rank: this process's number; the first, 0, writes, and says what there is to say.
        size: how many processes there are.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def in_turn(self, work: Callable[[], Found]) -> Found:
        """Do some work: the first process before the others, who then find what it downloaded or decoded."""
        return work()

    def same_for_all(self, value: Any) -> Any:
        """The first process's value, as JSON has it."""
        return value

    @contextmanager
    def fitting(self, model: Any, sync_bn: bool) -> Iterator[None]:
        """Inside, steps of the model are steps of all processes; after it each of them is alone."""
        yield

    def leave(self) -> None:
        """Be alone from now on; waits until all others are here."""

    def same_start(self, start: Checkpoint | None) -> Checkpoint | None:
        """The first process's checkpoint."""
        return start

    def agreed(self, received: int | None) -> int | None:
        """The signal that any of the processes has received."""
        return received


class Several(World):
    """One process of several.

    Args:
        place: its number.
        peers: the others.
    """

    def __init__(self, place: Place, peers: Peers) -> None:
        self.rank, self.size = place.rank, place.size
        self.place, self.peers = place, peers

    def in_turn(self, work: Callable[[], Found]) -> Found:
        """As in `World`; an error anywhere ends all."""
        if not self.first:
            self.peers.hear("first is ready")
        found = work()
        if self.first:
            self.peers.tell("first is ready", True)
        self.peers.meet("all are ready")
        return found

    def same_for_all(self, value: Any) -> Any:
        """As in `World`; the others wait until it is known."""
        if self.first:
            self.peers.tell("value", value)
            return value
        return self.peers.hear("value")

    @contextmanager
    def fitting(self, model: Any, sync_bn: bool) -> Iterator[None]:
        """As in `World`."""
        assert isinstance(model, Replica)
        gpu = places.gpus() > 0
        # NCCL ends a process without a word where a sum does not come: whoever listens to the beats must be first.
        patience = self.peers.patience + (2 * GRACE if gpu else 0)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=PrefixStore("sums", self.peers.store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=patience),
            device_id=torch.device("cuda", self.place.local_rank) if gpu else None,
        )
        model.join(sync_bn, self.peers.stepped)
        yield
        model.leave()
        self.leave()  # nobody closes his connections before everybody has had the last sums
        dist.destroy_process_group()

    def leave(self) -> None:
        """As in `World`."""
        self.peers.meet("all are done")
        self.peers.close()

    def same_start(self, start: Checkpoint | None) -> Checkpoint | None:
        """As in `World`; what travels is plain arrays and JSON."""
        head = self._bytes(json.dumps(None if start is None else [start.epoch, start.step, start.state]).encode())
        tensors = self._bytes(b"" if start is None else save(start.tensors))
        told = json.loads(head)
        if self.first or told is None:
            return start
        epoch, step, state = told
        return Checkpoint(epoch, step, load(tensors), state)

    def agreed(self, received: int | None) -> int | None:
        """As in `World`: in the same step for all of them."""
        asked = torch.tensor([received == signal.SIGINT, received == signal.SIGTERM], dtype=torch.int32)
        dist.all_reduce(asked)
        interrupted, ended = asked.tolist()
        return signal.SIGTERM if ended else signal.SIGINT if interrupted else None

    def _bytes(self, mine: bytes) -> bytes:
        """The first process's bytes."""
        length = torch.tensor([len(mine)])
        dist.broadcast(length, 0)
        data = torch.empty(int(length), dtype=torch.uint8)
        if self.first:
            data.copy_(torch.from_numpy(np.frombuffer(bytearray(mine), np.uint8)))
        dist.broadcast(data, 0)
        return data.numpy().tobytes()


@contextmanager
def joined(signals: StopSignals, patience: float = PATIENCE) -> Iterator[World]:
    """The processes that a training runs on, this one among them, while the block runs.

    Args:
        signals: that wait while it is found out what happened.
        patience: seconds after which a process that does not answer ends the training, at least 5.

    Raises:
        UsageError: if the environment says half of what it has to say, or there are too few GPUs.
        DenselyError: in place of what is raised in the block: the first process says what happened in any of them,
            the others raise `ElsewhereError`.
    """
    places.check_patience(patience)
    place = places.find()
    if place is None:
        yield World()
        return
    if dist.is_initialized():
        raise UsageError("This process has joined a group of PyTorch's already: let densely.train make its own.")
    try:
        places.check_gpus(place)
        if places.gpus():
            torch.cuda.set_device(place.local_rank)
    except UsageError as error:
        raise error if place.rank == 0 else ElsewhereError(error.exit_code) from None
    store, mine = _met(place)
    number = next(_trainings)
    own = f"training/{number}"
    peers = Peers(place, PrefixStore(own, store), PrefixStore(own, mine), patience)
    try:
        peers.gather()
        yield Several(place, peers)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, ElsewhereError):
            raise
        lost = isinstance(error, RuntimeError) and (
            isinstance(error, dist.DistError) or _SUMS.search(str(error)) is not None
        )
        with signals.deferred():
            verdict = peers.verdict(error, lost)
        raise verdict from (None if lost else error)
    finally:
        peers.close()


_trainings = iter(range(1 << 30))


@functools.cache
def _met(place: Place) -> tuple[Any, Any]:
    """Once a process: the first one's store is there as long as it lives."""
    return arrive(place)
