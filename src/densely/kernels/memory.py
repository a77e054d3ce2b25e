"""Memory that a block uses again at the next step, without ever sharing it with anybody who still holds it.

A training step frees its big tensors and asks for the same sizes again a moment later. On the CPU the allocator gives
such blocks back to the system and the next step pays for them page by page: a tenth of the step, measured. So big
tensors come from here. A block returns to the shelf at the moment the *last* tensor on it dies, whoever held it (the
user, the autograd graph, a hook): the tensor is built on a NumPy array that its storage alone keeps alive, and that
array's end is what tells us. Hence even a block's output may live on such memory.

On other devices PyTorch's own caching allocator does this already, so `empty` is `torch.empty` there.
"""

import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

IDLE_LIMIT = 1 << 30
"""Bytes that may lie unused on the shelf; what comes back beyond that is freed."""

_SMALLEST = 1 << 18  # below a quarter of a mebibyte the C library's own free lists are as good
_ALIGNMENT = 64  # one cache line, what PyTorch itself aligns to


class Shelf:
    """Blocks of CPU memory waiting to be used again; safe to use from several threads.

    Args:
        limit: the most bytes to keep idle, `IDLE_LIMIT` unless told.
    """

    def __init__(self, limit: int = IDLE_LIMIT) -> None:
        self.limit = limit
        self._idle: list[np.ndarray] = []  # the most recently used last: likeliest to be in the cache
        self._sizes: list[int] = []  # theirs
        self._bytes = 0  # of all
        self._returned: deque[np.ndarray] = deque()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):  # a fork copies a lock as it is, perhaps held by a thread it does not copy
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> torch.Tensor:
        """A tensor of `nbytes` unsigned bytes, contents arbitrary, 64-byte aligned."""
        with self._lock:
            self._settle()
            block = self._fitting(nbytes + _ALIGNMENT)
            if block is None:
                block = self._new(nbytes + _ALIGNMENT)
        start = -block.ctypes.data % _ALIGNMENT
        lease = block[start : start + nbytes]
        weakref.finalize(lease, self._give_back, block).atexit = False
        return torch.from_numpy(lease)

    def _fitting(self, nbytes: int) -> np.ndarray | None:
        """An idle block that is large enough, by a quarter at most; the smallest, and of those the one used last."""
        best, least = None, nbytes * 5 // 4 + 1
        for i in range(len(self._sizes) - 1, -1, -1):
            if nbytes <= self._sizes[i] < least:
                best, least = i, self._sizes[i]
        if best is None:
            return None
        self._bytes -= self._sizes.pop(best)
        return self._idle.pop(best)

    def _new(self, nbytes: int) -> np.ndarray:
        try:
            return np.empty(nbytes, np.uint8)
        except MemoryError:
            self._drop(len(self._idle))  # what lies unused here may be what is missing
            return np.empty(nbytes, np.uint8)

    def idle_bytes(self) -> int:
        """Bytes on the shelf that nobody uses now."""
        with self._lock:
            self._settle()
            return self._bytes

    def clear(self) -> None:
        """Frees everything that nobody uses now."""
        with self._lock:
            self._settle()
            self._drop(len(self._idle))

    def _give_back(self, block: np.ndarray) -> None:
        # A finalizer may run anywhere, even in a thread that is inside `take`: it must not wait for the lock.
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _settle(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._idle.append(block)
            self._sizes.append(block.nbytes)
            self._bytes += block.nbytes
        while self._bytes > self.limit:
            self._drop(1)

    def _drop(self, count: int) -> None:
        """Frees the blocks that have lain here longest."""
        self._bytes -= sum(self._sizes[:count])
        del self._idle[:count], self._sizes[:count]


_shelf = Shelf()


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An uninitialised contiguous tensor, on memory used before where that saves time."""
    nbytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or nbytes < _SMALLEST:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    # A tensor of its own on that storage, not a view: autograd forbids changing a view of an output in place.
    storage = _shelf.take(nbytes).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload, no-any-return]


class Scratch:
    """Room for one chunk at a time, in whatever shape it comes; what was there before is lost.

    Args:
        elements: the most that any chunk has.
        dtype: of the elements.
        device: where.
    """

    def __init__(self, elements: int, dtype: torch.dtype, device: torch.device) -> None:
        self.flat, self.dtype = empty((elements,), dtype, device), dtype
        # A pass asks for the same few shapes thousands of times, and making a view costs as much as a small operator.
        self._views: dict[torch.Size, torch.Tensor] = {}

    def view(self, shape: torch.Size) -> torch.Tensor:
        """A contiguous tensor of this shape, always on the same memory."""
        found = self._views.get(shape)
        if found is None:
            found = self._views[shape] = self.flat[: math.prod(shape)].view(shape)
        return found


def release_memory() -> None:
    """Frees the memory that the kernels keep for the next step (at most `IDLE_LIMIT` bytes); always safe to call.

    What the compiled loops keep for packed kernels, 64 MiB at most, stays with its thread.
    """
    _shelf.clear()
