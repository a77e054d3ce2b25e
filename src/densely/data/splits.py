"""Which image is for training, which for validation, which for the test: pure functions of (labels, amount, seed)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densely.console import counted
from densely.data.dataset import Dataset, Parts, joined
from densely.data.iterative import deal
from densely.errors import DataError, UsageError, reason

TEST_SEED = 0
"""Of every test part that is taken here: runs with different seeds are scored on the same images."""

Indices = NDArray[np.int64]
Labels = NDArray[np.int64] | NDArray[np.uint8]


def stratified(labels: Labels, amount: float, seed: int) -> tuple[Indices, Indices]:
    """Divide the indices of `labels` in two, each class in proportion.

    Args:
        labels: int (n,), one class per image; or (n, classes) of zeros and ones, several labels per image.
        amount: what to hold out: a float in (0, 1) is a fraction of n (rounded, at least 1), an int in 1..n-1 a count.
        seed: not negative; the same arguments give the same answer on every machine and NumPy version.

    Returns:
        (kept, held out), both int64 and sorted. The count is exact. A class's share differs from its exact
        proportion only by rounding, and by giving a class of two or more at least one image on each side where the
        count allows. Where images have several labels, iterative stratification (see `iterative`) comes as near to
        that as it can, the rarest label first.

    Raises:
        UsageError: the amount is out of range, or the seed negative.
    """
    n = len(labels)
    count = _count(amount, n)
    order = _shuffled(n, seed)
    if labels.ndim == 2:
        held_out = np.flatnonzero(_dealt_in_two(labels, count, order))
    else:
        _, strata, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        shares = _shares(sizes, count)
        grouped = order[np.argsort(strata[order], kind="stable")]
        first_of_class = np.repeat(np.cumsum(sizes) - sizes, sizes)
        rank_in_class = np.arange(n) - first_of_class
        held_out = grouped[rank_in_class < np.repeat(shares, sizes)]
    is_held_out = np.zeros(n, dtype=bool)
    is_held_out[held_out] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def folds(labels: Labels, k: int, seed: int, class_names: Sequence[str] | None = None) -> list[tuple[Indices, Indices]]:
    """Divide the indices of `labels` in `k` folds for cross-validation, each class in proportion.

    Args:
        labels: int (n,), one class per image; or (n, classes) of zeros and ones, several labels per image.
        k: how many folds, at least 2.
        seed: not negative; the same arguments give the same answer on every machine and NumPy version.
        class_names: of the labels, for messages; default their numbers.

    Returns:
        `k` pairs (kept, held out), int64 and sorted. Every image is held out exactly once; the sizes of the folds
        differ by at most one, and so do the numbers of images of each class in them. Where images have several labels,
        iterative stratification (see `iterative`) comes as near to that as it can, the rarest label first.

    Raises:
        UsageError: fewer than two folds, more folds than images, or a negative seed.
        DataError: a class has images, but fewer than folds.
    """
    n = len(labels)
    if not 2 <= k <= n:
        raise UsageError(f"{n} images cannot be divided in {k} folds: choose between 2 and {n}.")
    order = _shuffled(n, seed)
    sizes = labels.sum(axis=0, dtype=np.int64) if labels.ndim == 2 else np.bincount(labels)
    if len(few := np.flatnonzero((sizes > 0) & (sizes < k))):
        name = str(few[0]) if class_names is None else repr(class_names[few[0]])
        size = int(sizes[few[0]])
        raise DataError(
            f"Class {name} has {counted(size, 'image')} and {k} folds need {k}, one each: add images, remove it,"
            " or take fewer folds."
        )
    fold_of = np.empty(n, dtype=np.int64)
    if labels.ndim == 2:
        capacity = n // k + (np.arange(k) < n % k)
        wanted = np.tile(sizes, (k, 1))  # in k-ths of an image
        fold_of = deal(np.asarray(labels, dtype=np.uint8), order, capacity, wanted, image=k)
    else:
        # One after the other, class by class: neither a fold nor a class in it can come out more than one ahead.
        fold_of[order[np.argsort(labels[order], kind="stable")]] = np.arange(n) % k
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(k)]


@dataclass(frozen=True)
class SplitRecord:
    """How `complete` divided a source's training part; goes into the run folder.

    Attributes:
        seed: of the validation part.
        val_fraction, test_fraction: what was asked for (used only where the source defined no such part).
        images: how many the source's training part had.
        train: indices into the source's training part that stayed.
        val, test: indices that were taken for that part; None where the source defined it itself or none was wanted.
    """

    seed: int
    val_fraction: float
    test_fraction: float
    images: int
    train: tuple[int, ...]
    val: tuple[int, ...] | None
    test: tuple[int, ...] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        values = asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SplitRecord":
        """The record that `as_dict` wrote.

        Raises:
            DataError: a field is missing, unknown or not of its type.
        """
        try:
            record = cls(**values)
            return cls(
                seed=int(record.seed),
                val_fraction=float(record.val_fraction),
                test_fraction=float(record.test_fraction),
                images=int(record.images),
                train=tuple(int(i) for i in record.train),
                val=None if record.val is None else tuple(int(i) for i in record.val),
                test=None if record.test is None else tuple(int(i) for i in record.test),
            )
        except (TypeError, ValueError) as error:
            raise DataError(f"The record of the split cannot be read ({reason(error)}): write it again.") from error


def complete(
    parts: Parts, *, val_fraction: float = 0.1, test_fraction: float = 0.2, seed: int = 0
) -> tuple[Parts, SplitRecord]:
    """Fill in the parts that a source does not define, always from its training data: the test first, then validation.

    Args:
        parts: what the source gave.
        val_fraction: of the training images that are left after the test part was taken; 0 leaves `val` None.
        test_fraction: of the training images. The test part does not depend on `val_fraction`.
        seed: of the validation part. The test part is the same for every seed.

    Raises:
        UsageError: a fraction is out of range.
        DataError: a class has too few images to be divided.
    """
    if not 0 <= val_fraction < 1:
        raise UsageError(f"The validation fraction is {val_fraction}: it must be at least 0 and below 1.")
    if not 0 < test_fraction < 1:
        raise UsageError(f"The test fraction is {test_fraction}: it must lie between 0 and 1.")
    wants_test, wants_val = parts.test is None, parts.val is None and val_fraction > 0
    _check_divisible(parts.train, ["test"] * wants_test + ["validation"] * wants_val)

    source, test, val = parts.train, parts.test, parts.val
    train_indices: Indices = np.arange(len(source))
    test_indices: Indices | None = None
    val_indices: Indices | None = None
    if wants_test:
        train_indices, test_indices = stratified(source.labels, test_fraction, TEST_SEED)
        test = replace(source.take(test_indices), source=f"{source.source}, held out for the test")
    if wants_val:
        kept, held_out = stratified(source.labels[train_indices], val_fraction, seed)
        train_indices, val_indices = train_indices[kept], train_indices[held_out]
        val = replace(source.take(val_indices), source=f"{source.source}, held out for validation")
    train = source if len(train_indices) == len(source) else source.take(train_indices)
    record = SplitRecord(
        seed=seed,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        images=len(source),
        train=tuple(train_indices.tolist()),
        val=None if val_indices is None else tuple(val_indices.tolist()),
        test=None if test_indices is None else tuple(test_indices.tolist()),
    )
    return Parts(train, val, test), record


def join(parts: Parts) -> Parts:
    """The training part with the validation part behind it, nothing held out any more: for the final training.

    Settings are chosen on the validation part; once they are, its images are training images like the others. The
    images stay in their order, those of `val` after those of `train`; the test part stays what it is. Parts without a
    validation part come back as they are.
    """
    train, val = parts.train, parts.val
    if val is None:
        return parts
    images, labels = joined(train.images, val.images), np.concatenate([train.labels, val.labels])
    return Parts(Dataset(images, labels, train.class_names, train.source), None, parts.test)


def limit(parts: Parts, n: int, seed: int) -> Parts:
    """At most `n` images of each part that the source defines, each class in proportion (before `complete`).

    Args:
        parts: what the source gave.
        n: images, at least 1.
        seed: which ones, as in `stratified`.

    Raises:
        UsageError: `n` is below 1.
    """
    if n < 1:
        raise UsageError(f"The limit is {n} images: it must be at least 1.")

    def limited(part: Dataset) -> Dataset:
        if len(part) <= n:
            return part
        kept, _ = stratified(part.labels, len(part) - n, seed)
        return part.take(kept)

    return Parts(
        train=limited(parts.train),
        val=None if parts.val is None else limited(parts.val),
        test=None if parts.test is None else limited(parts.test),
    )


def _count(amount: float, n: int) -> int:
    if isinstance(amount, (int, np.integer)) and not isinstance(amount, bool):
        if not 0 < amount < n:
            raise UsageError(f"{amount} of {n} images cannot be held out: the count must lie between 1 and {n - 1}.")
        return int(amount)
    if not 0 < amount < 1:
        raise UsageError(f"A fraction of {amount} cannot be held out: it must lie between 0 and 1.")
    if n < 2:
        raise UsageError(f"{n} image cannot be divided in two: at least 2 are needed.")
    return min(max(int(n * amount + 0.5), 1), n - 1)


def _shuffled(n: int, seed: int) -> Indices:
    if seed < 0:
        raise UsageError(f"The seed is {seed}: it must not be negative.")
    # Sorting raw bits, not Generator.permutation: NumPy promises that a bit generator's stream never changes (NEP 19)
    # and promises nothing for the methods on top of it, and a test part has to outlive the next release.
    return np.argsort(np.random.PCG64(seed).random_raw(n), kind="stable")


def _dealt_in_two(labels: Labels, count: int, order: Indices) -> Indices:
    """1 for the `count` images to hold out, else 0."""
    n = len(labels)
    sizes = labels.sum(axis=0, dtype=np.int64)
    # In n-ths of an image. A label of two images or more is wanted on both sides, by one image at least.
    several = sizes >= 2
    held_out = np.clip(sizes * count, np.where(several, n, 0), np.where(several, sizes - 1, sizes) * n)
    wanted = np.stack([sizes * n - held_out, held_out])
    return deal(np.asarray(labels, dtype=np.uint8), order, np.array([n - count, count]), wanted, image=n)


def _shares(sizes: Indices, count: int) -> Indices:
    """How many of each class to hold out, `count` together: proportional by largest remainder, then within bounds."""
    lowest = np.where(sizes >= 2, 1, 0).astype(np.int64)
    highest = np.where(sizes >= 2, sizes - 1, 0)
    if count < lowest.sum():
        lowest = np.zeros_like(sizes)
    if count > highest.sum():
        highest = sizes
    exact = sizes * (count / sizes.sum())
    shares: Indices = np.clip(np.floor(exact).astype(np.int64), lowest, highest)
    while (missing := count - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        can_move = shares < highest if step > 0 else shares > lowest
        most_wanting = np.where(can_move, step * (exact - shares), -np.inf)
        shares[np.argsort(-most_wanting, kind="stable")[: min(abs(missing), int(can_move.sum()))]] += step
    return shares


def _check_divisible(train: Dataset, parts_to_take: list[str]) -> None:
    needed = 1 + len(parts_to_take)
    if needed == 1:
        return
    if len(train) < needed:
        raise DataError(
            f"{train.source} has {counted(len(train), 'image')}: at least {needed} are needed to divide it, so add "
            "some."
        )
    if train.multi_label:
        return
    for name, count in zip(train.class_names, train.class_counts().tolist(), strict=True):
        if 0 < count < needed:
            raise DataError(
                f"Class {name!r} of {train.source} has {counted(count, 'image')} and needs {needed}, one each"
                f" for {', '.join(['training', *parts_to_take])}: add images, remove it, or provide those parts."
            )
