"""The images of a training: read from their source, chosen, divided; and read again from what a run says."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from densely import data, recipes, runs
from densely.console import tell
from densely.data import Dataset, Parts, SplitRecord
from densely.errors import DataError, UsageError
from densely.recipes import Recipe
from densely.runs import Run
from densely.training.bars import live

#: Where a source has no test part of its own, this share of it becomes one, the same for every seed.
TEST_FRACTION = 0.2
#: Held out by `tune` where the recipe holds out nothing: CIFAR's 5,000 of 50,000, as in the paper.
TUNE_FRACTION = 0.1
#: So many of the images that were skipped are told one by one.
SHOWN = 10


def load(
    source: str | Path | Dataset | Parts,
    data_dir: str | Path | None,
    size: tuple[int, int] | None,
    channels: int | None,
    console: Console,
    skip_bad: bool = False,
    cache: int | None = None,
    workers: int | None = None,
) -> Parts:
    """The parts that a source has itself, with a progress bar where images are decoded; what is skipped is told."""
    if isinstance(source, Dataset | Parts):
        if size is not None or channels is not None or skip_bad:
            raise UsageError("size, channels and skip_bad are for image files: a Dataset has its images already.")
        return source if isinstance(source, Parts) else Parts(source, None, None)
    with closing(live(console)) as bar:
        parts = data.load(
            str(source),
            data_dir=data_dir,
            size=size,
            channels=channels,
            skip_bad=skip_bad,
            cache=cache,
            workers=workers,
            notify=lambda line: tell(console, line, style="dim"),
            progress=lambda done, total: bar.show("Reading images", done, total),
        )
    if parts.skipped:
        told = [f"skipped, because they cannot be read: {len(parts.skipped):,}", *parts.skipped[:SHOWN]]
        if len(parts.skipped) > SHOWN:
            told.append(f"… and {len(parts.skipped) - SHOWN:,} more; a training lists all in its splits.json")
        tell(console, "\n  ".join(told))
    return parts


def name_of(source: str | Path | Dataset | Parts) -> str:
    """What data go by in the config: a built-in name, a path in full, or the name that a `Dataset` carries."""
    if isinstance(source, Dataset | Parts):
        train = source.train if isinstance(source, Parts) else source
        return train.source.removesuffix("/train")
    name = str(source)
    return name if name in data.NAMES else str(Path(os.path.expanduser(name)).resolve())


def is_files(source: str | Path | Dataset | Parts) -> bool:
    """Whether a source is a folder or a table of image files, which can be brought to any size."""
    return not isinstance(source, Dataset | Parts) and name_of(source) not in data.NAMES


def task_of(parts: Parts, name: str) -> recipes.Task:
    """What a recipe may look at before it chooses."""
    return recipes.Task(name, parts.train.input_shape, parts.train.classes, len(parts.train))


def selected(parts: Parts, name: str, limit: int | None, fold: tuple[int, int] | None, tune: bool) -> Parts:
    """What of a source is used at all, before a part that it lacks is taken from its training data."""
    if name in data.SMALL and not tune:
        # Their validation images are for choosing settings; the final training has them all.
        parts = data.join(parts)
    if limit is not None:
        # The same images whatever the seed, so that several seeds are scored on the same.
        parts = data.limit(parts, limit, data.TEST_SEED)
    if fold is not None:
        number, count = fold
        if not 1 <= number <= count:
            raise UsageError(f"There is no fold {number} of {count}: they are counted from 1.")
        train = data.join(parts).train
        # The same folds whatever the seed, so that several seeds are scored on the same images.
        kept, held_out = data.folds(train.labels, count, data.TEST_SEED, train.class_names)[number - 1]
        test = replace(train.take(held_out), source=f"{train.source}, fold {number} of {count}")
        return Parts(train.take(kept), None, test)
    return parts


def val_fraction(recipe: Recipe, tune: bool) -> float:
    """How much is held out: for tuning always something, even where the recipe itself watches nothing."""
    return recipe.val_fraction or (TUNE_FRACTION if tune else 0.0)


def complete(parts: Parts, val_fraction: float, seed: int) -> tuple[Parts, SplitRecord]:
    """The parts that a source lacks, taken from its training data, and how."""
    return data.complete(parts, val_fraction=val_fraction, test_fraction=TEST_FRACTION, seed=seed)


def parts_of(run: Run, data_dir: str | Path | None = None) -> Parts:
    """The parts that a run was trained and scored on, read again from its source.

    Raises:
        UsageError: if the run's data came from Python, not from a source that can be read again.
        DataError: if the source has changed since.
    """
    config = run.config
    if config.data not in data.NAMES and config.size is None:
        raise UsageError(f"{run.folder} was trained on data given in Python, which cannot be read again.")
    parts = data.load(
        config.data, data_dir=data_dir, size=config.size, channels=config.channels, skip_bad=config.skip_bad
    )
    parts = selected(parts, config.data, config.limit, config.fold, config.tune)
    parts, _ = complete(parts, val_fraction(config.recipe, config.tune), config.seed)
    recorded = runs.read_fingerprints(run.folder)
    for part, fingerprint in parts.fingerprints().items():
        if recorded.get(part) != fingerprint:
            raise DataError(
                f"The {part} part of {config.data} is not the one that {run.folder} was trained with: "
                "the data have changed since. Bring back what they were, or train again."
            )
    return parts
