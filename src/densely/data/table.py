"""A table of labels (CSV): one line an image, its file and what is on it.

file,label            file,labels              file,red,square         and, if wanted, a column
a.png,cat             a.png,red|square         a.png,1,1               part: train, val or test
b.png,dog             b.png,                   b.png,0,0
"""

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from densely.console import counted
from densely.data import listings
from densely.data.dataset import Parts
from densely.data.listings import PART_NAMES, Listing, PartName, Reading
from densely.data.paths import Paths
from densely.errors import DataError, UsageError, reason

EXTENSIONS = (".csv", ".tsv")
FILE_COLUMNS = ("file", "filename", "image", "path")
"""What the column of files may be called."""
SEPARATORS = (",", ";", "\t")


def load(path: str | Path, **reading: Unpack[Reading]) -> Parts:
    """Read a table of labels and the images that it names.

    The file is UTF-8, separated by commas, semicolons or tabs, and its first line names the columns, in small letters
    or capitals:

    - `file` (or `filename`, `image`, `path`): a PNG, JPEG, WebP or BMP, from the folder of the table or absolute;
    - `label`: the one class of the image. Classes are in the order of their names. Or
    - `labels`: several, with `|` or `;` between them, or none. Or
    - neither: then every other column is a class, 1 where an image has it and else 0 (several labels an image);
    - `part`: train, val (valid, validation) or test. Without it every image is for training.

    Beside `label` or `labels`, other columns are left out; so are columns without a name. The order of the images is
    that of the lines.

    Args:
        path: the table; where it is a link, files are looked for beside what it leads to.
        **reading: size, channels and cache of the images, and so on, as in `listings.read`.

    Returns:
        Parts with labels int64 (n,), or uint8 (n, classes) where an image can have several.

    Raises:
        UsageError: there is no such table, or size or channels are impossible.
        DataError: the table cannot be read, a line of it is wrong (the message names it), there are fewer than two
            classes, or a class has no training images.
    """
    table = Path(os.path.expanduser(path))
    if not table.is_file():
        raise UsageError(f"There is no table at {table}: check the path.")
    columns, rows = _rows(table)
    files = _files(table.resolve().parent, rows)
    class_names, labels = _labels(table, columns, rows)
    parts = np.array([_part(row) for row in rows])

    found: dict[PartName, Listing] = {}
    for part in get_args(PartName):
        chosen = np.flatnonzero(parts == part)
        if len(chosen):
            found[part] = Listing(Paths(files[i] for i in chosen), labels[chosen], tuple(rows[i].place for i in chosen))
    if "train" not in found:
        raise DataError(f"{table} has no images to train on: give some the part train.")
    _check_classes(table, class_names, found["train"].labels)
    return listings.read(found, class_names, table.name, **reading)


class Row(NamedTuple):
    """One image: where it stands in the table, and its values by column."""

    place: str
    values: dict[str, str]


def _rows(table: Path) -> tuple[tuple[str, ...], list[Row]]:
    """The columns, and a row for each line that is not blank."""
    text = _text(table)
    separator = _separator(table, text)
    # Strict, or a quote that is never closed would quietly make one value of the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    line = 1
    try:
        for values in reader:
            place, line = f"{table}, line {line}", reader.line_num + 1
            values = [value.strip() for value in values]
            if not any(values):
                continue
            if not columns:
                columns = _columns(place, values)
            elif len(values) != len(columns):
                raise DataError(
                    f"{place} has {counted(len(values), 'value')} and the first line {len(columns)}"
                    " columns: give one for each, and put quotes around a value that holds a separator."
                )
            else:
                rows.append(Row(place, dict(zip(columns, values, strict=True))))
    except csv.Error as error:
        raise DataError(f"{table}, line {line} cannot be read ({reason(error)}): look at its quotes.") from error
    if not rows:
        raise DataError(f"{table} names no images: add a line for each.")
    return columns, rows


def _text(table: Path) -> str:
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DataError(f"{table} cannot be read ({error.strerror}): check its permissions.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{table}, line {line} is not UTF-8: save the table as UTF-8 (in a spreadsheet, as CSV UTF-8)."
        ) from error


def _separator(table: Path, text: str) -> str:
    """The one that makes a column of files appear in the header; guessing from all lines, as a sniffer does, errs."""
    header = next((line for line in text.splitlines() if line.strip()), None)
    if header is None:
        raise DataError(f"{table} is empty: name its columns in the first line, e.g. file,label.")
    for separator in SEPARATORS:
        try:
            names = next(csv.reader([header], delimiter=separator, skipinitialspace=True))
        except csv.Error:  # what this separator leaves is too long for a name
            continue
        if any(name.strip().lower() in FILE_COLUMNS for name in names):
            return separator
    raise DataError(
        f"{table} has no column {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]} in its first line"
        f" {header.strip()[:80]!r}: name the columns there, e.g. file,label."
    )


def _columns(place: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names, those with a meaning in one spelling."""
    columns: list[str] = []
    for name in names:
        plain = name.lower()
        column = "file" if plain in FILE_COLUMNS else plain if plain in ("label", "labels", "part") else name
        if column and column in columns:
            first = names[columns.index(column)]
            raise DataError(f"{place} names the columns {first!r} and {name!r}, which mean the same: keep one.")
        columns.append(column)
    if "label" in columns and "labels" in columns:
        raise DataError(f"{place} names both a column label and a column labels: keep one.")
    return tuple(columns)


def _files(folder: Path, rows: Sequence[Row]) -> list[str]:
    seen: dict[str, str] = {}
    files: list[str] = []
    for place, values in rows:
        name = values["file"]
        if not name:
            raise DataError(f"{place} names no file: name one or remove the line.")
        file = str(folder / name)
        if not os.path.isfile(file):
            raise DataError(f"{place} names {name}, and there is no such file at {file}: correct the path.")
        real = os.path.realpath(file)
        if real in seen:
            raise DataError(f"{place} names {name}, which {seen[real]} names already: keep one line an image.")
        seen[real] = place
        files.append(file)
    return files


def _part(row: Row) -> PartName:
    name = row.values.get("part", "train")
    if name.lower() not in PART_NAMES:
        raise DataError(f"{row.place} has the part {name!r}: it must be one of {', '.join(PART_NAMES)}.")
    return PART_NAMES[name.lower()]


# ---- labels ----------------------------------------------------------------------------------------------------------


def _labels(
    table: Path, columns: tuple[str, ...], rows: Sequence[Row]
) -> tuple[tuple[str, ...], NDArray[np.int64] | NDArray[np.uint8]]:
    """The names of the classes, and the labels as a `Dataset` takes them."""
    if "label" in columns:
        return _one_label(rows)
    if "labels" in columns:
        return _several_labels(rows)
    class_names = tuple(column for column in columns if column not in ("file", "part", ""))
    if not class_names:
        raise DataError(f"{table} has no labels: add a column label or labels, or a column of 0 and 1 for each class.")
    return class_names, _zeros_and_ones(class_names, rows)


def _one_label(rows: Sequence[Row]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    for place, values in rows:
        if not values["label"]:
            raise DataError(f"{place} has no label: give one or remove the line.")
    names, labels = np.unique([values["label"] for _, values in rows], return_inverse=True)
    return tuple(names.tolist()), labels.astype(np.int64)


def _several_labels(rows: Sequence[Row]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    given = [{word for word in map(str.strip, re.split(r"[|;]", values["labels"])) if word} for _, values in rows]
    names = tuple(sorted(set().union(*given)))
    return names, np.array([[name in words for name in names] for words in given], dtype=np.uint8)


def _zeros_and_ones(class_names: tuple[str, ...], rows: Sequence[Row]) -> NDArray[np.uint8]:
    for place, values in rows:
        for name in class_names:
            if values[name] not in ("0", "1"):
                raise DataError(
                    f"{place} has {values[name]!r} in column {name!r}: without a column label or labels, all columns"
                    " but file and part are classes, 0 or 1."
                )
    return np.array([[values[name] == "1" for name in class_names] for _, values in rows], dtype=np.uint8)


def _check_classes(table: Path, class_names: tuple[str, ...], labels: NDArray[np.int64] | NDArray[np.uint8]) -> None:
    if len(class_names) < 2:
        found = f"one class, {class_names[0]!r}" if class_names else "no classes"
        raise DataError(
            f"{table} has {found}: two are needed at least, so for a yes or no write both into a column label."
        )
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(class_names))
    if len(missing := np.flatnonzero(counts == 0)):
        raise DataError(
            f"Class {class_names[missing[0]]!r} of {table} has no images to train on: add some or remove the class."
        )
