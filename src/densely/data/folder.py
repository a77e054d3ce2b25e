"""A folder of images: one sub-folder a class, or `train/`, `val/`, `test/` with such sub-folders in each."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from densely.data import listings
from densely.data.dataset import Parts
from densely.data.images import EXTENSIONS
from densely.data.listings import PART_NAMES, Listing, PartName, Progress
from densely.errors import DataError, UsageError


def load(
    path: str | Path,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    skip_bad: bool = False,
) -> Parts:
    """Read a folder of PNG, JPEG, WebP and BMP images.

    Below a class folder, further folders are walked; hidden files and files of other kinds are left out. The order is
    that of the sorted paths, the same on every machine.

    Args:
        path: the folder.
        size: (height, width) to fit every image to; by default chosen from the images, see `listings.read`.
        channels: 1, 3 or 4; by default chosen from the images.
        cache_dir: where decoded pixels are kept; default `$DENSELY_CACHE`, else `~/.cache/densely`.
        progress: called as (images decoded, images to decode).
        skip_bad: leave out images that cannot be read; `Parts.skipped` tells each of them.

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
    found = {part: _listing(folder, class_names) for part, folder in folders.items()}
    return listings.read(found, class_names, root.resolve().name, size, channels, cache_dir, progress, skip_bad)


def _part_folders(root: Path) -> dict[PartName, Path]:
    """Which folder holds the class folders of which part; the root itself is `train` if it has no parts."""
    below = _folders(root)
    named = [folder for folder in below if folder.name.lower() in PART_NAMES]
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
        part = PART_NAMES[folder.name.lower()]
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
