"""Data in: a module a source, for splits, for augmentation. Knows nothing of networks or training.

parts = densely.data.load("digits")
parts, record = densely.data.complete(parts, val_fraction=0.1)
"""

import difflib
import os
from pathlib import Path

from densely.data import folder, table
from densely.data.augmentation import Augmentation, augment, mix, shift_and_flip
from densely.data.dataset import Dataset, Parts
from densely.data.download import Notify, fetch, to_stderr
from densely.data.images import read_image
from densely.data.listings import Reading
from densely.data.order import batch_rng, epoch_order, mirrored_in_turn
from densely.data.preprocessing import Preprocessing
from densely.data.rarity import class_weights
from densely.data.sources import SMALL, SOURCES
from densely.data.splits import TEST_SEED, SplitRecord, complete, folds, join, limit, stratified
from densely.data.streaming import Progress
from densely.errors import UsageError

NAMES = tuple(SOURCES)
"""The data sets that have a name; any other data set is a folder of images, or a table of labels."""

__all__ = [
    "NAMES",
    "SMALL",
    "TEST_SEED",
    "Augmentation",
    "Dataset",
    "Parts",
    "Preprocessing",
    "SplitRecord",
    "augment",
    "batch_rng",
    "class_weights",
    "complete",
    "default_data_dir",
    "epoch_order",
    "folds",
    "is_here",
    "join",
    "limit",
    "load",
    "mirrored_in_turn",
    "mix",
    "read_image",
    "shift_and_flip",
    "stratified",
]


def default_data_dir() -> Path:
    """Where downloaded data sets are: `$DENSELY_DATA`, else `~/.cache/densely/data`."""
    return Path(os.environ.get("DENSELY_DATA") or "~/.cache/densely/data").expanduser()


def load(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    notify: Notify | None = None,
    progress: Progress | None = None,
    skip_bad: bool = False,
    cache: int | None = None,
    workers: int | None = None,
) -> Parts:
    """A data set by name; a folder of images, or a table of labels (`.csv`, `.tsv`), by path.

    Args:
        name: one of `NAMES`; or the path of a folder or table (for a folder with such a name, write `./digits`).
        data_dir: where the files of a named data set are, or are downloaded to; default `default_data_dir()`.
        size: of a folder's or table's images only: (height, width) in pixels; default from the images (see
            `listings.read`).
        channels: of a folder's or table's images only: 1, 3 or 4; default from the images.
        notify: told when something is downloaded, or does not fit in memory (default prints to standard error), and
            which files of a folder are no images (default: nobody).
        progress: for a folder or table: called as (images decoded, images to decode).
        skip_bad: of a folder or table: leave out images that cannot be read; `Parts.skipped` tells each of them.
        cache: of a folder or table: bytes that decoded images may take in memory; if they do not all fit, they are read
            from disk as they are needed. Default `$DENSELY_CACHE_SIZE`, else a third of the free memory.
        workers: of a folder or table: processes that read then; default as many as processors, 8 at most.

    Raises:
        UsageError: no such name, folder or table, or `size`, `channels`, `skip_bad`, `cache` or `workers` for
            one that is no files.
        DataError: the data are damaged or unusable.
        DenselyError: a file is absent and cannot be downloaded.
    """
    name = os.fspath(name)
    if name not in SOURCES:
        try:
            name.encode()
        except UnicodeEncodeError:  # a run could not write down what it was trained on
            raise UsageError(f"The name {name!r} is not UTF-8: rename the folder or table.") from None
        path = Path(os.path.expanduser(name))  # which leaves the ~ of a user who is not there
        reading: Reading = {
            "size": size,
            "channels": channels,
            "progress": progress,
            "skip_bad": skip_bad,
            "cache": cache,
            "workers": workers,
            "notify": notify,
        }
        if path.suffix.lower() in table.EXTENSIONS and not path.is_dir():
            return table.load(name, **reading)
        separators = {os.sep, os.altsep} - {None}
        if path.is_dir() or any(separator in name for separator in separators if separator):
            return folder.load(name, **reading)
        near = difflib.get_close_matches(name.lower(), NAMES, n=3, cutoff=0.5) + folder.near(path)
        hint = f"did you mean {' or '.join(near)}?" if near else f"check the path, or choose one of {', '.join(NAMES)}."
        raise UsageError(f"There is no folder, CSV or data set named {name!r}: {hint}")
    if size is not None or channels is not None:
        raise UsageError(f"{name} has its own image size and channels: leave size and channels out.")
    if skip_bad:
        raise UsageError(f"{name} has no image files that could be skipped: leave skip_bad out.")
    if cache is not None or workers is not None:
        raise UsageError(f"{name} is always held in memory whole: leave cache and workers out.")

    source, where = SOURCES[name], default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
    if not source.here(where):
        for file in source.files:
            fetch(file, where, notify or to_stderr)
    return source.read(where)


def is_here(name: str, data_dir: str | Path | None = None) -> bool:
    """Whether a data set can be read without downloading anything.

    Args:
        name: one of `NAMES`; what is called otherwise is never downloaded.
        data_dir: where its files would be; default `default_data_dir()`.
    """
    where = default_data_dir() if data_dir is None else Path(os.path.expanduser(data_dir))
    return name not in SOURCES or SOURCES[name].here(where)
