"""Image files, listed part by part with their labels, into arrays.

Decoding is paid once: the fitted pixels are kept in a cache, found again by the paths, sizes and times of the files.
Images that do not fit in memory are streamed instead (see `streaming`), to the same pixels in the same order.
"""

import hashlib
import json
import math
import os
import statistics
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from densely.console import counted
from densely.data.dataset import Dataset, Parts, taken
from densely.data.download import Notify, to_stderr
from densely.data.images import check_shape, image_info, read_image
from densely.data.paths import Paths, placed
from densely.data.streaming import Progress, Store, Streamed, default_cache, default_workers, size_in_words
from densely.errors import DataError, UsageError
from densely.files import write_cache

PartName = Literal["train", "val", "test"]
Images = dict[PartName, NDArray[np.uint8]]

PART_NAMES: dict[str, PartName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What people call a part, in small letters."""
SAMPLE = 200
"""How many training images are looked at (headers only) to choose a size and channels."""
CACHE_VERSION = 2
"""Raise it when `read_image` gives other pixels for the same file, or the cache holds something else."""


class Listing(NamedTuple):
    """The images of one part.

    Attributes:
        files: their paths.
        labels: as a `Dataset` takes them, int64 (n,) or uint8 (n, classes).
        places: where each file is named, for messages, e.g. `"labels.csv, line 3"`; empty where its path says enough.
    """

    files: Paths
    labels: NDArray[np.int64] | NDArray[np.uint8]
    places: tuple[str, ...] = ()


class Reading(TypedDict, total=False):
    """How files are read: the arguments of `read`, where their defaults stand too."""

    size: tuple[int, int] | None
    channels: int | None
    cache_dir: str | Path | None
    progress: Progress | None
    skip_bad: bool
    cache: int | None
    workers: int | None
    notify: Notify | None


def read(
    listings: Mapping[PartName, Listing],
    class_names: tuple[str, ...],
    source: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    skip_bad: bool = False,
    cache: int | None = None,
    workers: int | None = None,
    notify: Notify | None = None,
) -> Parts:
    """Decode what is listed, or take it from the cache; or leave it to be streamed.

    Args:
        listings: what belongs to each part; `"train"` must be there, and no part may be empty.
        class_names: of the labels.
        source: what the parts are called, e.g. `"photos"` for `photos/train`.
        size: (height, width) to fit every image to. Default: a square of the median short side of up to 200 training
            images, to a multiple of 8, at least 32 and at most 128.
        channels: 1, 3 or 4. Default: 1 if all of those images are grey, else 3.
        cache_dir: where decoded pixels are kept; default `$DENSELY_CACHE`, else `~/.cache/densely`. If it cannot be
            written, nothing is kept.
        progress: called as (images decoded, images to decode); not called when the cache has them.
        skip_bad: leave out images that cannot be read; `Parts.skipped` tells each of them.
        cache: bytes that decoded images may take in memory; all of them or, if they do not fit, as many as fit, and the
            others are decoded again each time. Default `$DENSELY_CACHE_SIZE`, else a third of the free memory.
        workers: processes that decode what does not fit; default as many as there are processors, 8 at most.
        notify: told that not everything fits; default prints to standard error.

    Raises:
        UsageError: size, channels, cache or workers are impossible, or a file is gone.
        DataError: an image cannot be read; or, with `skip_bad`, none of a part or a class can.
    """
    check_shape(size, channels)  # before memory is asked for
    if size is None or channels is None:
        own_size, own_channels = _defaults(listings["train"], skip_bad)
        size, channels = size or own_size, channels or own_channels

    cached = _cache_file(listings, size, channels, cache_dir)
    shapes = {part: (len(listing.files), *size, channels) for part, listing in listings.items()}
    decoded: _Decoded | _Streamed | None
    if streams := _streams(shapes, source, cache, workers, notify or to_stderr):
        decoded = _stream(listings, size, channels, progress, skip_bad, *streams, cached.with_suffix(".json"))
    else:
        decoded = _read_cache(cached, shapes)
        if decoded is None or (decoded.bad and not skip_bad):
            decoded = _decode(listings, size, channels, progress, skip_bad)
            _write_cache(cached, decoded)

    parts = {}
    for part, listing in listings.items():
        good = np.delete(np.arange(len(listing.files)), [i for p, i in decoded.bad if p == part])
        images: Any = decoded.images[part]
        labels = listing.labels
        if len(good) < len(images):
            images, labels = taken(images, good), labels[good]
            _check_what_is_left(labels, class_names, source, part)
        parts[part] = Dataset(images, labels, class_names, f"{source}/{part}")
    return Parts(parts["train"], parts.get("val"), parts.get("test"), skipped=tuple(decoded.bad.values()))


def _check_what_is_left(labels: NDArray[Any], class_names: tuple[str, ...], source: str, part: PartName) -> None:
    """After images were skipped: that there are some, and in training some of each class."""
    if not len(labels):
        raise DataError(f"No image of {source}/{part} can be read: replace them.")
    with_images = np.flatnonzero(labels.any(axis=0)) if labels.ndim == 2 else np.unique(labels)
    without = sorted(set(range(len(class_names))) - set(with_images.tolist()))
    if part == "train" and without:
        raise DataError(f"No training image of class {class_names[without[0]]!r} can be read: replace them.")


def _defaults(listing: Listing, skip_bad: bool) -> tuple[tuple[int, int], int]:
    n = len(listing.files)
    sample = []
    for i in np.linspace(0, n - 1, min(SAMPLE, n)).round().astype(int).tolist():
        try:
            with placed(listing.places, i):
                sample.append(image_info(listing.files[i]))
        except DataError as error:
            if not skip_bad:
                raise _or_skipped(error) from error
    if not sample:
        raise DataError(
            f"Of {counted(min(SAMPLE, n), 'image')} looked at none can be read, {listing.files[0]} first: replace them."
        )
    median = statistics.median(min(info.height, info.width) for info in sample)
    side = min(max(8 * round(median / 8), 32), 128)
    return (side, side), 1 if all(info.grey for info in sample) else 3


def _or_skipped(error: DataError) -> DataError:
    """The same error, with the other way out: one bad file of thousands need not be looked for."""
    return DataError(f"{str(error).removesuffix('.')}, or leave out all such files with --skip-bad.")


class _Decoded(NamedTuple):
    """Pixels, and the images that have none: part and index, and in a sentence why."""

    images: Images
    bad: dict[tuple[PartName, int], str]


def _decode(
    listings: Mapping[PartName, Listing],
    size: tuple[int, int],
    channels: int,
    progress: Progress | None,
    skip_bad: bool,
) -> _Decoded:
    images: Images = {
        part: np.zeros((len(listing.files), *size, channels), dtype=np.uint8) for part, listing in listings.items()
    }
    jobs = [(part, i) for part, listing in listings.items() for i in range(len(listing.files))]

    def decode(job: tuple[PartName, int]) -> str | None:
        part, i = job
        try:
            with placed(listings[part].places, i):
                images[part][i] = read_image(listings[part].files[i], size, channels)
        except DataError as error:
            if skip_bad:
                return str(error)
            raise _or_skipped(error) from error
        return None

    bad = {}
    # Threads, not processes: Pillow's decoders and resizing run outside Python's lock.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for done, wrong in enumerate(pool.map(decode, jobs), start=1):
            if wrong is not None:
                bad[jobs[done - 1]] = wrong
            if progress is not None:
                progress(done, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)
    return _Decoded(images, bad)


# ---- streaming -------------------------------------------------------------------------------------------------------


class _Streamed(NamedTuple):
    """As `_Decoded`, but nothing is."""

    images: dict[PartName, Streamed]
    bad: dict[tuple[PartName, int], str]


def _streams(
    shapes: Mapping[PartName, tuple[int, ...]], source: str, cache: int | None, workers: int | None, notify: Notify
) -> tuple[int, int] | None:
    """Cache and workers of images that do not fit in memory; None for those that do."""
    if cache is not None and cache < 0:
        raise UsageError(f"A cache cannot have {cache} bytes: give 0 or more.")
    if workers is not None and workers < 0:
        raise UsageError(f"There cannot be {workers} workers: give 0 or more.")
    room = default_cache() if cache is None else cache
    needed = sum(math.prod(shape) for shape in shapes.values())
    if needed <= room:
        return None
    workers = default_workers() if workers is None else workers
    by = f" by {workers} worker process{'es' * (workers > 1)}" if workers else ""
    height, width, channels = shapes["train"][1:]
    notify(
        f"{source}: {sum(shape[0] for shape in shapes.values()):,} images of {height}×{width}×{channels} would take"
        f" {size_in_words(needed)} of memory, more than {size_in_words(room)} (--cache): they are read from disk when"
        f" they are needed{by}, and those that fit are kept."
    )
    return room, workers


def _stream(
    listings: Mapping[PartName, Listing],
    size: tuple[int, int],
    channels: int,
    progress: Progress | None,
    skip_bad: bool,
    cache: int,
    workers: int,
    memory: Path,
) -> _Streamed:
    files = Paths.joined(listing.files for listing in listings.values())
    places = [place for listing in listings.values() for place in listing.places]
    store = Store(files, places, size, channels, cache, workers, memory)
    # Only skipping needs to know of all bad images before they are divided.
    found = store.bad(progress) if skip_bad else {}
    images: dict[PartName, Streamed] = {}
    bad: dict[tuple[PartName, int], str] = {}
    first = 0
    for part, listing in listings.items():
        end = first + len(listing.files)
        images[part] = Streamed(store, np.arange(first, end))
        bad |= {(part, i - first): why for i, why in found.items() if first <= i < end}
        first = end
    return _Streamed(images, bad)


# ---- cache -----------------------------------------------------------------------------------------------------------


def _cache_file(
    listings: Mapping[PartName, Listing], size: tuple[int, int], channels: int, cache_dir: str | Path | None
) -> Path:
    import PIL

    folder = Path(cache_dir or os.environ.get("DENSELY_CACHE") or "~/.cache/densely").expanduser()
    digest = hashlib.sha256()
    digest.update(json.dumps([CACHE_VERSION, PIL.__version__, size, channels]).encode())
    for part, listing in listings.items():
        for file in listing.files:
            status = os.stat(file)
            # The whole path: uncompressed images of another folder can agree in every name, size and time.
            entry = [part, os.path.abspath(file), status.st_size, status.st_mtime_ns]
            digest.update(json.dumps(entry).encode())
    return folder / "images" / f"{digest.hexdigest()}.npz"


def _read_cache(file: Path, shapes: Mapping[PartName, tuple[int, ...]]) -> _Decoded | None:
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            images: Images = {part: stored[part] for part in shapes}  # a zip's checksums find damage
            bad = {(part, int(i)): str(why) for part, i, why in json.loads(str(stored["bad"]))}
    except Exception:  # absent, unreadable, cut off, garbled: all mean decoding again
        return None
    sound = all(images[part].shape == shape and images[part].dtype == np.uint8 for part, shape in shapes.items())
    return _Decoded(images, bad) if sound else None


def _write_cache(file: Path, decoded: _Decoded) -> None:
    bad = json.dumps([[part, i, why] for (part, i), why in decoded.bad.items()])
    write_cache(file, lambda stream: np.savez(stream, allow_pickle=False, bad=np.array(bad), **decoded.images))
