"""A folder of images: one sub-folder a class, or `train/`, `val/`, `test/` with such sub-folders in each.

Decoding is paid once: the fitted pixels are kept in a cache, found again by the names, sizes and times of the files.
"""

import contextlib
import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densely.data.dataset import Dataset, Parts
from densely.data.images import EXTENSIONS, image_info, read_image
from densely.errors import DataError, UsageError

PartName = Literal["train", "val", "test"]
Progress = Callable[[int, int], None]
Images = dict[PartName, NDArray[np.uint8]]

PART_FOLDERS: dict[str, PartName] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
SAMPLE = 200
"""How many training images are looked at (headers only) to choose a size and channels."""
CACHE_VERSION = 1
"""Raise it when `read_image` gives other pixels for the same file."""


class Listing(NamedTuple):
    """The images of one part: paths, and for each the index of its class."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]


def load(
    path: str | Path,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Parts:
    """Read a folder of PNG, JPEG, WebP and BMP images.

    Below a class folder, further folders are walked; hidden files and files of other kinds are left out. The order is
    that of the sorted paths, the same on every machine.

    Args:
        path: the folder.
        size: (height, width) to fit every image to. Default: a square of the median short side of up to 200 training
            images, to a multiple of 8, at least 32 and at most 128.
        channels: 1, 3 or 4. Default: 1 if all of those images are grey, else 3.
        cache_dir: where decoded pixels are kept; default `$DENSELY_CACHE`, else `~/.cache/densely`. If it cannot be
            written, nothing is kept.
        progress: called as (images decoded, images to decode); not called when the cache has them.

    Raises:
        UsageError: there is no such folder, or size or channels are impossible.
        DataError: no class folders, fewer than two classes, a class without images, two images of one name, parts
            with different classes, or an image that cannot be read.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise UsageError(f"There is no folder at {root}: check the path.")
    folders = _part_folders(root)
    class_names = _class_names(folders)
    listings = {part: _listing(folder, class_names) for part, folder in folders.items()}
    if size is None or channels is None:
        own_size, own_channels = _defaults(listings["train"].files)
        size, channels = size or own_size, channels or own_channels

    cached = _cache_file(root, listings, size, channels, cache_dir)
    shapes = {part: (len(listing.files), *size, channels) for part, listing in listings.items()}
    images = _read_cache(cached, shapes)
    if images is None:
        images = _decode(listings, size, channels, progress)
        _write_cache(cached, images)

    name = root.resolve().name
    parts = {
        part: Dataset(images[part], listing.labels, class_names, f"{name}/{part}") for part, listing in listings.items()
    }
    return Parts(train=parts["train"], val=parts.get("val"), test=parts.get("test"))


# ---- what is there ---------------------------------------------------------------------------------------------------


def _part_folders(root: Path) -> dict[PartName, Path]:
    """Which folder holds the class folders of which part; the root itself is `train` if it has no parts."""
    below = _folders(root)
    named = [folder for folder in below if folder.name.lower() in PART_FOLDERS]
    others = [folder for folder in below if folder not in named]
    if others and any(_holds_only_folders(folder) for folder in named):
        raise DataError(
            f"{root} has {named[0].name}, as if it held parts, beside {others[0].name}: keep either parts or classes in"
            " it and move the rest away."
        )
    if others or not named:
        return {"train": root}  # "train" with images in it is a class: the one that runs on rails
    folders: dict[PartName, Path] = {}
    for folder in named:
        part = PART_FOLDERS[folder.name.lower()]
        if part in folders:
            raise DataError(f"{root} has both {folders[part].name} and {folder.name}: keep one for its {part} part.")
        folders[part] = folder
    if "train" not in folders:
        raise DataError(f"{root} has {named[0].name} but no train: add a folder train with the training images.")
    return folders


def _class_names(folders: dict[PartName, Path]) -> tuple[str, ...]:
    names = {part: tuple(folder.name for folder in _folders(where)) for part, where in folders.items()}
    train = names["train"]
    if len(train) < 2:
        raise DataError(
            f"{folders['train']} has {len(train)} class folder{'s' * (len(train) != 1)}: put the images of each class"
            " into a folder of their own, for two classes at least."
        )
    for part, found in names.items():
        if odd := sorted(set(found) ^ set(train)):
            has, lacks = folders[part], folders["train"]
            if odd[0] in train:
                has, lacks = lacks, has
            where = f"in {has} and not in {lacks}"
            raise DataError(f"Class {odd[0]!r} is {where}: all parts must have the same classes.")
    return train


def _listing(folder: Path, class_names: tuple[str, ...]) -> Listing:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        inside = _image_files(folder / name, frozenset({os.path.realpath(folder)}))
        found = sorted(inside, key=lambda file: file.relative_to(folder).parts)
        if not found:
            raise DataError(
                f"The class folder {folder / name} has no {', '.join(EXTENSIONS)} images: add some or remove it."
            )
        seen: dict[str, Path] = {}
        for file in found:
            key = str(file.relative_to(folder).with_suffix("")).casefold()
            if key in seen:
                raise DataError(f"{seen[key]} and {file} have one name: rename or remove one of the two.")
            seen[key] = file
        files += found
        labels += [label] * len(found)
    return Listing(tuple(files), np.array(labels, dtype=np.int64))


def _folders(path: Path) -> list[Path]:
    found = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)  # paths themselves sort differently on Windows


def _holds_only_folders(path: Path) -> bool:
    return bool(_folders(path)) and not any(entry.suffix.lower() in EXTENSIONS for entry in path.iterdir())


def _image_files(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """The images below `folder`; links are followed, because people build classes from them, but not in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder} is a link that leads back to a folder above it: remove it.")
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _image_files(entry, above | {real})
        elif entry.suffix.lower() in EXTENSIONS:
            if entry.is_symlink() and not entry.exists():
                raise DataError(f"{entry} is a link to a file that is not there: repair or remove it.")
            if entry.is_file():
                yield entry


def _defaults(files: tuple[Path, ...]) -> tuple[tuple[int, int], int]:
    chosen = np.linspace(0, len(files) - 1, min(SAMPLE, len(files))).round().astype(int)
    sample = [image_info(files[i]) for i in chosen]
    median = statistics.median(min(info.height, info.width) for info in sample)
    side = min(max(8 * round(median / 8), 32), 128)
    return (side, side), 1 if all(info.grey for info in sample) else 3


# ---- pixels ----------------------------------------------------------------------------------------------------------


def _decode(
    listings: Mapping[PartName, Listing], size: tuple[int, int], channels: int, progress: Progress | None
) -> Images:
    images: Images = {
        part: np.empty((len(listing.files), *size, channels), dtype=np.uint8) for part, listing in listings.items()
    }
    jobs = [(part, i, file) for part, listing in listings.items() for i, file in enumerate(listing.files)]

    def decode(job: tuple[PartName, int, Path]) -> None:
        part, i, file = job
        images[part][i] = read_image(file, size, channels)

    # Threads, not processes: Pillow's decoders and resizing run outside Python's lock.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for done, _ in enumerate(pool.map(decode, jobs), start=1):
            if progress is not None:
                progress(done, len(jobs))
    finally:
        pool.shutdown(cancel_futures=True)
    return images


# ---- cache -----------------------------------------------------------------------------------------------------------


def _cache_file(
    root: Path,
    listings: Mapping[PartName, Listing],
    size: tuple[int, int],
    channels: int,
    cache_dir: str | Path | None,
) -> Path:
    import PIL

    folder = Path(cache_dir or os.environ.get("DENSELY_CACHE") or "~/.cache/densely").expanduser()
    digest = hashlib.sha256()
    # The path counts too: uncompressed images of another folder can agree in every name, size and time.
    settings = [CACHE_VERSION, PIL.__version__, str(root.resolve()), size, channels]
    digest.update(json.dumps(settings).encode())
    for part, listing in listings.items():
        for file in listing.files:
            status = file.stat()
            entry = [part, str(file.relative_to(root)), status.st_size, status.st_mtime_ns]
            digest.update(json.dumps(entry).encode())
    return folder / "folders" / f"{digest.hexdigest()}.npz"


def _read_cache(file: Path, shapes: Mapping[PartName, tuple[int, ...]]) -> Images | None:
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            images: Images = {part: stored[part] for part in shapes}  # a zip's checksums find damage
    except Exception:  # absent, unreadable, cut off, garbled: all mean decoding again
        return None
    sound = all(images[part].shape == shape and images[part].dtype == np.uint8 for part, shape in shapes.items())
    return images if sound else None


def _write_cache(file: Path, images: Images) -> None:
    # Written aside and renamed, so that no reader meets half a file; a cache that cannot be written is only slower.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(suffix=".tmp", dir=file.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                np.savez(stream, allow_pickle=False, **images)
            os.replace(aside, file)
        except BaseException:
            os.unlink(aside)
            raise
