"""Images that do not fit in memory: decoded when they are asked for, and ahead of that by worker processes.

As many decoded images as fit stay in memory, the first that come, until the end: none makes room for another. A
training visits every image once an epoch in an order of its own each time, so each image is as likely as any other to
be the next, and one that was thrown out for a newcomer would only have to be decoded again: the cache that keeps the
most recent ones would be wrong nearly always, this one is right as often as the share of the images that fits in it.
"""

import contextlib
import gc
import hashlib
import json
import os
import re
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densely.data.images import read_image
from densely.data.paths import Paths, placed
from densely.errors import DataError, DenselyError, UsageError
from densely.files import write_cache
from densely.machine import cores

Progress = Callable[[int, int], None]
"""Called as (images done, images to do)."""
SHARE = 3
"""Without another word, decoded images may take one part in so many of the free memory: a data set that is read whole
is held twice while it is divided into its parts."""
WORKERS = 8
"""At most so many processes, without another word."""
AT_A_TIME = 256
"""Images that a pass over all of them gives a worker at once."""
UNTOLD = 8 * 10**9
"""Bytes of memory that are taken to be free where the system does not tell."""


def size_in_bytes(text: str) -> int:
    """What `"500MB"` or `"2 GB"` means: powers of 1000; a number alone is bytes.

    Raises:
        UsageError: it means nothing.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise UsageError(f"A size in memory is given as 2GB or 500MB, not {text!r}.")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def size_in_words(size: int) -> str:
    """As `size_in_bytes` takes it: `"2.0 GB"`."""
    unit = min(4, max(1, (len(str(size)) - 1) // 3))
    return f"{size / 1000**unit:,.1f} {' KMGT'[unit]}B"


def default_cache() -> int:
    """Bytes that decoded images may take: `$DENSELY_CACHE_SIZE`, else a third of the free memory."""
    asked = os.environ.get("DENSELY_CACHE_SIZE")
    return size_in_bytes(asked) if asked else _free_memory() // SHARE


def default_workers() -> int:
    """As many processes as this one may use processors, and at most `WORKERS`."""
    return min(WORKERS, cores())


def _free_memory() -> int:
    """Bytes that this process could still take, as the machine and a container's limit tell."""
    free = [UNTOLD]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        free = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    with contextlib.suppress(OSError, TypeError, ValueError):
        told = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        free = [int(told[1]) * 1024] if told else free
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no group, or no limit ("max")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(free))


class _Decoded(NamedTuple):
    """Pixels; and by their place among them those that could not be had, each with its error."""

    pixels: NDArray[np.uint8]
    errors: dict[int, DenselyError]


class _Decoder:
    """Decodes files by their number; what a worker process holds. (PyTorch's `DataLoader` calls `__getitems__`.)"""

    def __init__(self, files: Paths, places: Sequence[str], size: tuple[int, int], channels: int) -> None:
        self.files, self.places, self.size, self.channels = files, places, size, channels

    def one(self, i: int) -> NDArray[np.uint8] | DenselyError:
        try:
            with placed(self.places, i):
                return read_image(self.files[i], self.size, self.channels)
        except DenselyError as error:
            # Only the sentence: the error of another library behind it may not go from one process to another.
            return type(error)(str(error))

    def gathered(self, found: Sequence[NDArray[np.uint8] | DenselyError]) -> _Decoded:
        pixels = np.zeros((len(found), *self.size, self.channels), dtype=np.uint8)
        errors = {}
        for place, one in enumerate(found):
            if isinstance(one, DenselyError):
                errors[place] = one
            else:
                pixels[place] = one
        return _Decoded(pixels, errors)

    def __getitems__(self, indices: list[int]) -> _Decoded:
        return self.gathered([self.one(i) for i in indices])


class Store:
    """The files of a data set, and as many decoded images of it as fit.

    Args:
        files: of all parts.
        places: where each is named, for messages; or none, where their paths say enough.
        size: (height, width) to fit every image to.
        channels: 1, 3 or 4.
        cache: bytes that decoded images may take.
        workers: processes that decode ahead; with 0, nothing is decoded ahead.
        memory: a JSON file to remember what a pass over the images found; its name must change when they do.
    """

    def __init__(
        self,
        files: Paths,
        places: Sequence[str],
        size: tuple[int, int],
        channels: int,
        cache: int,
        workers: int,
        memory: Path,
    ) -> None:
        self.shape = (*size, channels)
        self.workers = workers
        self.progress: Progress | None = None
        self._decoder = _Decoder(files, places, size, channels)
        self._memory = memory
        room = min(len(files), cache // int(np.prod(self.shape)))
        self._kept = np.empty((room, *self.shape), dtype=np.uint8)
        self._count = 0
        self._slots = np.full(len(files), -1, dtype=np.int64)

    def get(self, wanted: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The images of these numbers, decoded here and now where they must be."""
        lacking = self._slots[wanted] < 0
        return self._put_together(wanted, lacking, self._decode_here(wanted[lacking]))

    def in_turn(self, groups: Iterator[NDArray[np.int64]]) -> Iterator[NDArray[np.uint8]]:
        """The images of each group, one group after the other, decoded ahead by the workers."""
        if not self.workers:
            yield from map(self.get, groups)
            return
        planned: deque[tuple[NDArray[np.int64], NDArray[np.bool_]]] = deque()

        def lacking() -> Iterator[list[int]]:
            for group in groups:
                # What is kept now still is when the others have come: nothing is ever thrown out.
                planned.append((group, self._slots[group] < 0))
                yield group[planned[-1][1]].tolist()

        for decoded in _by_workers(self._decoder, lacking(), self.workers):
            yield self._put_together(*planned.popleft(), decoded)

    def lacks(self, wanted: NDArray[np.int64]) -> bool:
        """Whether some of these are not in memory."""
        return bool((self._slots[wanted] < 0).any())

    def bad(self, progress: Progress | None) -> dict[int, str]:
        """The images that cannot be read, and why; asks for all of them, once."""

        def look() -> list[tuple[int, str]]:
            found: list[tuple[int, str]] = []
            numbers = np.arange(len(self._slots))
            groups = [numbers[start : start + AT_A_TIME] for start in range(0, len(numbers), AT_A_TIME)]
            pieces = (group.tolist() for group in groups)
            for group, decoded in zip(groups, self._decoded(pieces), strict=True):
                for place, error in decoded.errors.items():
                    if not isinstance(error, DataError):
                        raise error
                    found.append((int(group[place]), str(error)))
                sound = np.delete(np.arange(len(group)), list(decoded.errors))
                self._keep(group[sound], decoded.pixels[sound])
                if progress is not None:
                    progress(int(group[-1]) + 1, len(numbers))
            return found

        return {int(i): str(why) for i, why in self.remembered("bad", look)}

    def remembered(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` found (as JSON has it) when it was asked under this name before; else what it finds now."""
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, TypeError):  # absent or garbled: found again
            known = dict(json.loads(self._memory.read_text()))
        if name not in known:
            known[name] = find()
            write_cache(self._memory, lambda stream: stream.write(json.dumps(known).encode()))
        return known[name]

    def _decoded(self, pieces: Iterator[list[int]]) -> Iterator[_Decoded]:
        if self.workers:
            return _by_workers(self._decoder, pieces, self.workers)
        return (self._decode_here(np.array(piece, dtype=np.int64)) for piece in pieces)

    def _decode_here(self, numbers: NDArray[np.int64]) -> _Decoded:
        # Threads: Pillow's decoders and resizing run outside Python's lock, and nothing has to be sent.
        with ThreadPoolExecutor(max_workers=default_workers()) as pool:
            return self._decoder.gathered(list(pool.map(self._decoder.one, numbers.tolist())))

    def _put_together(
        self, wanted: NDArray[np.int64], lacking: NDArray[np.bool_], decoded: _Decoded
    ) -> NDArray[np.uint8]:
        """Images from memory, and those that were lacking there."""
        if decoded.errors:
            raise decoded.errors[min(decoded.errors)]
        if lacking.all():
            pixels = decoded.pixels
        else:
            pixels = np.empty((len(wanted), *self.shape), dtype=np.uint8)
            pixels[~lacking] = self._kept[self._slots[wanted[~lacking]]]
            pixels[lacking] = decoded.pixels
        self._keep(wanted[lacking], decoded.pixels)
        return pixels

    def _keep(self, numbers: NDArray[np.int64], pixels: NDArray[np.uint8]) -> None:
        if self._count == len(self._kept):
            return
        _, firsts = np.unique(numbers, return_index=True)  # one may be asked for twice at once
        new = np.sort(firsts[self._slots[numbers[firsts]] < 0])[: len(self._kept) - self._count]
        end = self._count + len(new)
        self._kept[self._count : end] = pixels[new]
        self._slots[numbers[new]] = np.arange(self._count, end)
        self._count = end


class Streamed:
    """Images that look like an array, uint8 (n, h, w, c), and are decoded when they are asked for.

    An index (a number, a slice, numbers or a mask along the first axis) gives a real array of those images. `take`
    gives another `Streamed`, for which nothing is decoded yet; `np.asarray` decodes all of them at once.

    Args:
        store: where they come from.
        chosen: which of its images, int64 (n,).
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: Store, chosen: NDArray[np.int64]) -> None:
        self.store, self.chosen = store, chosen

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, h, w, c)."""
        return len(self.chosen), *self.store.shape

    @property
    def size(self) -> int:
        """How many numbers they are."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.chosen)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """Some of them, as an array; one of them for a number."""
        if isinstance(index, tuple) or index is None or index is Ellipsis:
            raise TypeError("Images that are streamed can be chosen, not cut: take some first.")
        wanted = np.asarray(self.chosen[index])
        return self.store.get(wanted) if wanted.ndim else self.store.get(wanted[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them."""
        return self.store.get(self.chosen).astype(dtype or np.uint8, copy=False)

    def take(self, indices: NDArray[np.int64]) -> "Streamed":
        """The images at `indices`, in that order."""
        return Streamed(self.store, self.chosen[indices])

    def joined(self, others: "Streamed") -> "Streamed":
        """These, with others of the same store behind them."""
        return Streamed(self.store, np.concatenate([self.chosen, others.chosen]))

    def in_turn(self, groups: Iterator[Any]) -> Iterator[NDArray[np.uint8]]:
        """`self[group]` of each group, decoded ahead of time by the workers."""
        wanted = (self.chosen[group] for group in groups)
        done, progress = 0, self.store.progress
        for images in self.store.in_turn(wanted) if self.store.lacks(self.chosen) else map(self.store.get, wanted):
            yield images
            done += len(images)
            if progress is not None:
                progress(done, len(self))

    def remembered(self, name: str, find: Callable[[], Any]) -> Any:
        """What a pass over these images found, now or when it was made before; plain JSON values."""
        which = hashlib.sha256(np.ascontiguousarray(self.chosen, dtype="<i8").data).hexdigest()
        return self.store.remembered(f"{name} {which}", find)


# ---- worker processes ------------------------------------------------------------------------------------------------

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def _by_workers(decoder: _Decoder, pieces: Iterator[list[int]], workers: int) -> Iterator[_Decoded]:
    """What `decoder` makes of each piece, in their order, whichever process is done first.

    Raises:
        DenselyError: a process was ended by somebody else.
    """
    import torch
    from torch.utils.data import DataLoader

    with warnings.catch_warnings(), _signals_held_back(), _deaths_told_in_turn():
        # More workers than processors are asked for where a slow disk is waited for.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader: Any = DataLoader(
            decoder,  # type: ignore[arg-type]
            batch_sampler=pieces,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_begin_worker,
            # Or it would draw from the numbers that dropout draws from, and weights would come out different.
            generator=torch.Generator(),
        )
        arriving = iter(loader)
    while True:
        try:
            decoded = next(arriving)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DenselyError(
                "A process that reads images was ended from outside, as the system does where memory runs out: give a "
                "smaller --cache or fewer --workers, and the same command again."
            ) from error
        yield decoded


def _as_it_is(decoded: Any) -> Any:
    return decoded


def _begin_worker(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; it is the training that decides when its workers end."""
    # What a forked process has from the one that began it is not its own to tidy up.
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Until a worker has its own answer to Ctrl-C, which it begins with that of its parent; both get theirs after."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _deaths_told_in_turn() -> Iterator[None]:
    """A worker's death is noticed where its images are waited for.

    PyTorch would have it raised between any two lines of the main thread, in the middle of writing a file too.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(number)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)
