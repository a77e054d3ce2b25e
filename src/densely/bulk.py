"""What a trained network says of more images than fit into memory: a CSV, written as it goes.

Images are read a batch ahead of the network, so memory does not grow with their number. The table is called
`NAME.partial.csv` until its last row is on the disk; whatever ends the work before, what was done is in there.
"""

from __future__ import annotations

import csv
import itertools
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from densely.console import counted, tell
from densely.data import read_image
from densely.data.images import EXTENSIONS
from densely.data.walking import Found, images_below
from densely.errors import DataError, DenselyError, UsageError
from densely.evaluation import probabilities
from densely.evaluation.views import YES
from densely.files import flush
from densely.interruption import Interrupted, StopSignals
from densely.model_file import ModelFile
from densely.runs import Run, Weights
from densely.training.bars import live

if TYPE_CHECKING:
    import keras

BATCH_PIXELS = 2**21
"""Pixels of the images that go through the network at once: 256 of 64×64, 41 of 224×224."""
LARGEST_BATCH = 256
FEW = 20
"""Images of a folder for which there is a table each on the screen."""

Read = tuple[str, NDArray[np.uint8] | str]
"""A path with its pixels, or with what is wrong with it."""


class Tally(NamedTuple):
    """What became of the files.

    Attributes:
        predicted: images that the table has a class for.
        bad: files and folders that could not be read; the table says why.
        others: files below the folders that are not called images, and were not looked at.
    """

    predicted: int
    bad: int
    others: int


def images_of(sources: Sequence[str | Path]) -> tuple[Iterator[Found], list[int]]:
    """The image files that are named, and those below the folders that are.

    Args:
        sources: folders and files, in any order.

    Returns:
        The files, and a list with one number: the other files met so far.

    Raises:
        UsageError: if one of `sources` is not there.
    """
    for source in sources:
        if not os.path.exists(source):
            raise UsageError(f"There is no image or folder at {source}: check the path.")
    others = [0]

    def other() -> None:
        others[0] += 1

    each = (images_below(s, other) if os.path.isdir(s) else iter([Found(os.fspath(s))]) for s in sources)
    return itertools.chain.from_iterable(each), others


def few(sources: Sequence[str | Path]) -> list[str]:
    """The images that are named, and those below the folders that are, if they fit on a screen.

    Raises:
        UsageError: if the folders hold more than `FEW`, or a source is not there.
        DataError: if they hold none, or something in them cannot be looked into.
    """
    folders = [source for source in sources if os.path.isdir(source)]
    if not folders:
        return [os.fspath(source) for source in sources]
    where = ", ".join(map(str, folders))
    if len(list(itertools.islice(images_of(folders)[0], FEW + 1))) > FEW:
        raise UsageError(
            f"More than {FEW} images, as in {where}, are too many to print: write a table of them with --csv FILE.csv."
        )
    found = list(images_of(sources)[0])
    for item in found:
        if item.wrong:
            raise DataError(item.wrong)
    if not found:
        raise DataError(f"There is no image ({', '.join(EXTENSIONS)}) in {where}.")
    return [item.path for item in found]


def predict_to_csv(
    trained: Run | ModelFile,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Weights = "final",
    all_classes: bool = False,
    console: Console | None = None,
) -> Tally:
    """Write a table of what a network says of each image, as many as there are.

    The columns are `file`, `class`, `probability` and `error`; with `all_classes` there follows one for each class,
    called `p_` and its name. A network of several labels an image has `labels`, those with a probability of at least
    one half and `|` between them, in place of class and probability, and always a column for each class. A file that
    cannot be read is a row whose `error` says why and whose other cells are empty. UTF-8, quoted as RFC 4180 has it.

    Args:
        trained: an opened run or model file.
        sources: folders, looked through to any depth, and image files. Below a folder, hidden files are left out,
            and so are those that do not end as images do.
        out: the table, ending in `.csv`; one that exists is replaced once the new one is whole.
        weights: `"final"` or `"best"`.
        all_classes: a column of probabilities for each class.
        console: where a bar moves, if it is a terminal; default none.

    Raises:
        UsageError: if a source or the folder of `out` is not there, or `out` does not end in `.csv`.
        DataError: if there is no image, none could be read, or the table cannot be written.
        Interrupted: after Ctrl-C or SIGTERM; the rows until then are in `NAME.partial.csv`.
    """
    out = Path(out)
    check_table(out)
    found, others = images_of(sources)
    total = sum(1 for _ in found)
    if not total:
        left = f" ({counted(others[0], 'other file')} left out)" if others[0] else ""
        raise DataError(f"There is no image ({', '.join(EXTENSIONS)}) in {', '.join(map(str, sources))}{left}.")
    table = _Table(trained, trained.model(weights), all_classes or trained.inputs.multi_label)
    partial = out.with_suffix(".partial.csv")
    done = bad = 0
    console = console or Console(quiet=True)
    if partial.exists():
        tell(console, f"{partial}, which earlier work was broken off in, is replaced", style="dim")
    try:
        batches = closing(_batches(images_of(sources)[0], trained))
        with StopSignals() as signals, closing(live(console)) as bar, batches as read:
            began = time.monotonic()
            # A name that is no text is written with its odd bytes spelt out: the table stays UTF-8.
            with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                writer = csv.writer(file)  # quotes commas, quotes and line ends; ends lines as RFC 4180 does
                writer.writerow(table.columns)
                # Only noted until a batch is written: an exception from a signal may rise in a destructor, and is lost.
                with signals.deferred():
                    for batch in read:
                        rows, wrong = table.rows(batch)
                        writer.writerows(rows)
                        file.flush()
                        done, bad = done + len(rows), bad + wrong
                        bar.show("Images", done, total, f"{done / (time.monotonic() - began):,.0f} img/s")
                        if signals.received is not None:
                            raise Interrupted(signals.received)
                os.fsync(file.fileno())
            partial.replace(out)
            flush(out.parent)
    except OSError as error:
        kept = f"; the first {done:,} of {total:,} rows are in {partial}" if done else ""
        if not done:
            with suppress(OSError):
                partial.unlink()
        raise DataError(f"{out} cannot be written: {error.strerror or error}{kept}.") from None
    except KeyboardInterrupt as stop:
        number = stop.signal if isinstance(stop, Interrupted) else signal.SIGINT
        if done:
            raise Interrupted(
                number, None, f"after {done:,} of {total:,} images; their rows are in {partial}"
            ) from None
        with suppress(OSError):
            partial.unlink()
        raise Interrupted(number, None, "before the first images were done") from None
    if bad == done:
        raise DataError(f"Of {counted(done, 'image')} none could be read: the column error of {out} says why.")
    return Tally(done - bad, bad, others[0])


def check_table(out: Path) -> None:
    """Told before anything is computed: a table that could not be written.

    Raises:
        UsageError: if it does not end in `.csv`, is a folder, or its folder is not there.
    """
    if out.suffix.lower() != ".csv":
        raise UsageError(f"--csv must end in .csv, not {out.name!r}.")
    for path in (out, out.with_suffix(".partial.csv")):
        if path.is_dir():
            raise UsageError(f"{path} is a folder: choose another name for the table.")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent} to write {out.name} in: make it first.")


def _batches(found: Iterator[Found], trained: Run | ModelFile) -> Generator[list[Read]]:
    """Paths with their pixels, or with what is wrong; the next batch is read while one is looked at."""
    height, width, channels = trained.inputs.input_shape

    def read(item: Found) -> NDArray[np.uint8] | str:
        # Not to be opened: a pipe would wait for somebody to write.
        if item.wrong or (os.path.exists(item.path) and not os.path.isfile(item.path)):
            return item.wrong or f"{item.path} is no regular file: remove it."
        try:
            return read_image(item.path, (height, width), channels)
        except DenselyError as error:
            return str(error)

    size = max(1, min(LARGEST_BATCH, BATCH_PIXELS // (height * width)))
    # Threads, not processes: Pillow's decoders and resizing run outside Python's lock.
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))

    def begun() -> list[tuple[str, Future[NDArray[np.uint8] | str]]]:
        return [(item.path, pool.submit(read, item)) for item in itertools.islice(found, size)]

    try:
        ahead = begun()
        while ahead:
            now, ahead = ahead, begun()
            yield [(path, future.result()) for path, future in now]
    finally:
        pool.shutdown(cancel_futures=True)


class _Table:
    """Rows for what a network says.

    Attributes:
        columns: their names.
    """

    def __init__(self, trained: Run | ModelFile, model: keras.Model, all_classes: bool) -> None:
        self.trained = trained
        self.model = model
        self.names = trained.inputs.class_names
        self.several = trained.inputs.multi_label
        self.all_classes = all_classes
        told = ["labels"] if self.several else ["class", "probability"]
        self.columns = ["file", *told, "error", *(f"p_{name}" for name in self.names if all_classes)]

    def rows(self, batch: Sequence[Read]) -> tuple[list[list[str]], int]:
        """A row for each file of a batch, and how many are bad."""
        images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        said: Iterator[NDArray[np.float32]] = iter(())
        if images:
            preprocessing, views = self.trained.preprocessing, self.trained.views
            said = iter(probabilities(self.model, np.stack(images), preprocessing, len(images), views))
        rows = []
        for path, pixels in batch:
            if isinstance(pixels, str):
                empty = [""] * (len(self.columns) - 2)
                rows.append([path, *empty])
                rows[-1].insert(self.columns.index("error"), " ".join(pixels.split()))
            else:
                rows.append([path, *self._told(next(said))])
        return rows, len(batch) - len(images)

    def _told(self, p: NDArray[np.float32]) -> list[str]:
        every = [f"{value:.6g}" for value in p] if self.all_classes else []
        if self.several:
            labels = (name for name, value in zip(self.names, p, strict=True) if value >= YES)
            return ["|".join(labels), "", *every]
        best = int(p.argmax())
        return [self.names[best], f"{p[best]:.6g}", "", *every]
