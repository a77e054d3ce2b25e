"""A folder of images: one sub-folder a class, or `train/`, `val/`, `test/` with such sub-folders in each."""

import contextlib
import difflib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Unpack

import numpy as np

from densely.console import counted
from densely.data import listings
from densely.data.dataset import Parts
from densely.data.images import EXTENSIONS
from densely.data.listings import PART_NAMES, Listing, PartName, Reading
from densely.data.paths import Paths
from densely.data.walking import is_folder
from densely.errors import DataError, UsageError


def load(path: str | Path, **reading: Unpack[Reading]) -> Parts:
    """Read a folder of PNG, JPEG, WebP and BMP images.

    Below a class folder, further folders are walked; hidden files and files of other kinds are left out. The order is
    that of the sorted paths, the same on every machine.

    Args:
        path: the folder.
        **reading: size, channels and cache of the images, and so on, as in `listings.read`. A `notify` that is given is
            also told which files are left out because they are not called images.

    Raises:
        UsageError: there is no such folder, or size or channels are impossible.
        DataError: no class folders, fewer than two classes, a class without images, two images of one name, parts
            with different classes, or an image that cannot be read.
    """
    root = Path(os.path.expanduser(path))
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file: name a folder with a sub-folder for each class, or a CSV of labels.")
    if not root.is_dir():
        hint = f"did you mean {' or '.join(beside)}?" if (beside := near(root)) else "check the path."
        raise UsageError(f"There is no folder at {root}: {hint}")
    folders = _part_folders(root)
    class_names = _class_names(folders)
    others: Counter[str] = Counter()
    found = {part: _listing(folder, class_names, others) for part, folder in folders.items()}
    if others and (notify := reading.get("notify")) is not None:
        count = others.total()
        notify(
            f"left out: {counted(count, 'file')} in {root} that by their names are no PNG, JPEG, WebP or BMP"
            f" images ({_endings(others)})"
        )
    return listings.read(found, class_names, root.resolve().name, **reading)


def near(path: Path) -> list[str]:
    """Folders that lie where `path` would, and are called nearly as it is."""
    try:
        beside = {folder.name.casefold(): folder.name for folder in _folders(path.parent)}
    except OSError:
        return []
    found = difflib.get_close_matches(path.name.casefold(), beside, n=3, cutoff=0.7)
    return [str(path.with_name(beside[name])) for name in found]


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
        if not train and len(_class_folders_beside(folders["train"])) > 1:
            raise DataError(
                f"{folders['train']} has images and no class folders: it looks like one class of"
                f" {folders['train'].resolve().parent}; train on that folder."
            )
        raise DataError(
            f"{folders['train']} has {counted(len(train), 'class folder')}: put the images of each class"
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


def _endings(others: Counter[str]) -> str:
    """What files are called at the end, the most frequent first: `.heic 12, .txt 1`."""
    most = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:5]
    return ", ".join(f"{ending or 'no ending'} {count:,}" for ending, count in most)


def _listing(folder: Path, class_names: tuple[str, ...], others: Counter[str]) -> Listing:
    counts: list[int] = []
    above = frozenset({os.path.realpath(folder)})

    def files() -> Iterator[str]:
        for name in class_names:
            inside = str(folder / name)
            seen: set[str] = set()
            inside_others: Counter[str] = Counter()
            for file in _image_files(inside, above, inside_others):
                if (key := _key(file)) in seen:
                    first = next(other for other in _image_files(inside, above, Counter()) if _key(other) == key)
                    raise DataError(f"{first} and {file} have one name: rename or remove one of the two.")
                seen.add(key)
                yield file
            if not seen:
                has = f" (it has {_endings(inside_others)}: convert them)" if inside_others else ""
                raise DataError(
                    f"The class folder {inside} has no {', '.join(EXTENSIONS)} images{has}: add some or remove it."
                )
            others.update(inside_others)
            counts.append(len(seen))

    # One after the other into one piece of memory: of a million files only the names in one class are strings.
    paths = Paths(files())
    return Listing(paths, np.repeat(np.arange(len(class_names)), counts))


def _class_folders_beside(path: Path) -> list[Path]:
    """Folders with images at once, of those beside `path` and itself."""
    with contextlib.suppress(OSError):
        beside = _folders(path.resolve().parent)
        return [folder for folder in beside if any(e.suffix.lower() in EXTENSIONS for e in folder.iterdir())]
    return []


def _folders(path: Path) -> list[Path]:
    found = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)  # paths themselves sort differently on Windows


def _holds_only_folders(path: Path) -> bool:
    return bool(_folders(path)) and not any(entry.suffix.lower() in EXTENSIONS for entry in path.iterdir())


def _image_files(folder: str, above: frozenset[str], others: Counter[str]) -> Iterator[str]:
    """The images below `folder`, in the order of their sorted paths.

    Links are followed, because people build classes from them, but not in a circle. `others` counts, by their endings,
    the files that are no images.
    """
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"{folder} is a link that leads back to a folder above it: remove it.")
    # The system tells the kind of an entry with its name: no file has to be looked at by itself.
    with os.scandir(folder) as entries:
        found = sorted((entry.name, is_folder(entry)) for entry in entries if _is_wanted(entry, others))
    for name, further in found:
        path = os.path.join(folder, name)
        if further:
            yield from _image_files(path, above | {real}, others)
        else:
            yield path


def _key(file: str) -> str:
    """What two images of one name have in common."""
    return os.path.splitext(file)[0].casefold()


def _is_wanted(entry: os.DirEntry[str], others: Counter[str]) -> bool:
    """Whether an entry is a folder or an image file, and not hidden."""
    if entry.name.startswith("."):
        return False
    if is_folder(entry):
        return True
    if (ending := os.path.splitext(entry.name)[1].lower()) not in EXTENSIONS:
        others[ending] += 1
        return False
    if entry.is_symlink() and not os.path.exists(entry.path):
        raise DataError(f"{entry.path} is a link to a file that is not there: repair or remove it.")
    return entry.is_file()
