import json

import numpy as np
import pytest
from data.two_parts import exact_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.data import Dataset, Parts, SplitRecord, complete, folds, join, limit, stratified
from densely.errors import DataError, UsageError

class_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) >= 2)


def labels_of(sizes, seed):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def dataset(sizes, seed=0):
    labels = labels_of(sizes, seed)
    images = np.arange(len(labels) * 4, dtype=np.int64).astype(np.uint8).reshape(-1, 2, 2, 1)
    return Dataset(images, labels, tuple(f"class{i}" for i in range(len(sizes))), "toy")


@given(class_sizes, st.data(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_two_parts_disjoint_complete_exact_and_reproducible(sizes, data, seed):
    labels = labels_of(sizes, seed)
    count = data.draw(st.integers(1, len(labels) - 1))
    exact_parts(labels, count, seed)


@given(class_sizes, st.data(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_every_class_has_its_share(sizes, data, seed):
    labels = labels_of(sizes, seed)
    count = data.draw(st.integers(1, len(labels) - 1))
    _, held_out = stratified(labels, count, seed)
    sizes = np.array(sizes)
    shares = np.bincount(labels[held_out], minlength=len(sizes))
    exact = sizes * count / len(labels)
    divisible = sizes >= 2
    if ((exact >= 1) & (exact <= sizes - 1)).all():  # rounding alone decides
        assert (np.abs(shares - exact) < 1).all()
    if divisible.sum() <= count <= (sizes - 1).sum():  # room for one on each side
        assert (shares[divisible] >= 1).all()
        assert (shares <= sizes - 1).all()


def test_largest_remainder_by_hand():
    # 10 of 28 + 14 + 7: exact shares 5.71, 2.86, 1.43; floors 5, 2, 1; the two left over go to .86 and .71.
    labels = np.repeat([0, 1, 2], [28, 14, 7])
    _, held_out = stratified(labels, 10, seed=3)
    assert np.bincount(labels[held_out]).tolist() == [6, 3, 1]


def test_rare_classes_are_on_both_sides():
    labels = np.repeat([0, 1, 2, 3], [100, 2, 2, 1])
    kept, held_out = stratified(labels, 0.1, seed=0)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [9, 1, 1, 0]
    assert np.bincount(labels[kept], minlength=4).tolist() == [91, 1, 1, 1]


def test_seeds_differ_and_every_image_can_be_held_out():
    labels = np.repeat([0, 1], 10)
    often = np.zeros(20)
    for seed in range(300):
        often[stratified(labels, 0.2, seed)[1]] += 1
    assert often.sum() == 300 * 4
    assert (np.abs(often - 60) < 30).all()  # 60 expected, deviation about 7


def test_the_stream_is_frozen():
    """A change here would quietly give every folder another test part."""
    assert stratified(np.repeat([0, 1], 10), 4, seed=0)[1].tolist() == [2, 3, 11, 13]


# ---- several labels per image ----------------------------------------------------------------------------------------


label_tables = st.tuples(st.integers(2, 60), st.integers(1, 8), st.floats(0.02, 0.9), st.integers(0, 2**31)).map(
    lambda t: (np.random.default_rng(t[3]).random((t[0], t[1])) < t[2]).astype(np.uint8)
)


@given(label_tables, st.data(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_multi_label_parts_are_exact_and_the_rarest_label_is_on_both_sides(labels, data, seed):
    count = data.draw(st.integers(1, len(labels) - 1))
    kept, held_out = exact_parts(labels, count, seed)
    sizes = labels.sum(axis=0).astype(int)
    if (sizes > 0).any():
        rarest = int(np.where(sizes > 0, sizes, 1000).argmin())
        if sizes[rarest] >= 2:
            assert labels[kept, rarest].any()
            assert labels[held_out, rarest].any()


@given(class_sizes, st.data(), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_one_label_each_written_as_several_is_divided_as_well(sizes, data, seed):
    labels = labels_of(sizes, seed)
    count = data.draw(st.integers(1, len(labels) - 1))
    _, held_out = stratified(np.eye(len(sizes), dtype=np.uint8)[labels], count, seed)
    sizes = np.array(sizes)
    exact = sizes * count / len(labels)
    if ((exact >= 1) & (exact <= sizes - 1)).all():
        assert (np.abs(np.bincount(labels[held_out], minlength=len(sizes)) - exact) < 1).all()


def test_rare_labels_are_spread_where_chance_would_lose_them():
    rng = np.random.default_rng(0)
    frequency = np.array([0.5, 0.3, 0.1, 0.05, 0.03, 0.02])
    for seed in range(20):
        labels = (rng.random((200, 6)) < frequency).astype(np.uint8)
        sizes = labels.sum(axis=0).astype(int)
        kept, held_out = stratified(labels, 0.1, seed)
        several = sizes >= 2
        assert labels[held_out][:, several].any(axis=0).all()
        assert labels[kept][:, several].any(axis=0).all()
        # Chance alone is off by 2.8 images for the worst label.
        wanted = np.where(several, np.clip(sizes * 0.1, 1, None), sizes * 0.1)
        assert (np.abs(labels[held_out].sum(axis=0) - wanted) <= 1).all()


def test_the_multi_label_stream_is_frozen():
    labels = np.eye(3, dtype=np.uint8)[np.arange(12) % 3]
    labels[::4, 0] = 1
    assert stratified(labels, 4, seed=0)[1].tolist() == [2, 5, 6, 7]
    assert [held_out.tolist() for _, held_out in folds(labels, 3, seed=0)] == [
        [0, 1, 8, 10],
        [3, 5, 7, 11],
        [2, 4, 6, 9],
    ]


# ---- folds -----------------------------------------------------------------------------------------------------------


def check_folds(labels, k, seed):
    """What holds for any labels; returns how many images of each class each fold holds out, (k, classes)."""
    n = len(labels)
    found = folds(labels, k, seed)
    assert len(found) == k
    assert sorted(np.concatenate([held_out for _, held_out in found])) == list(range(n))
    for kept, held_out in found:
        assert sorted([*kept, *held_out]) == list(range(n))
        assert (np.diff(kept) > 0).all()
        assert (np.diff(held_out) > 0).all()
    sizes = [len(held_out) for _, held_out in found]
    assert max(sizes) - min(sizes) <= 1
    for one, two in zip(found, folds(labels, k, seed), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    table = labels if labels.ndim == 2 else np.eye(labels.max() + 1, dtype=int)[labels]
    return np.array([table[held_out].sum(axis=0, dtype=int) for _, held_out in found])


@given(st.integers(2, 6), st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_folds_differ_by_at_most_one_image_of_a_class(k, extra, seed):
    labels = labels_of([k + more for more in extra], seed)
    per_fold = check_folds(labels, k, seed)
    assert (per_fold.max(axis=0) - per_fold.min(axis=0) <= 1).all()


@given(st.integers(2, 6), label_tables, st.integers(0, 2**31))
@settings(max_examples=150, deadline=None)
def test_multi_label_folds(k, labels, seed):
    sizes = labels.sum(axis=0).astype(int)
    labels, sizes = labels[:, (sizes == 0) | (sizes >= k)], sizes[(sizes == 0) | (sizes >= k)]
    if len(labels) < k:
        return
    per_fold = check_folds(labels, k, seed)
    if (sizes > 0).any():  # the rarest label is dealt first, when nothing stands in its way
        rarest = int(np.where(sizes > 0, sizes, 1000).argmin())
        assert per_fold[:, rarest].max() - per_fold[:, rarest].min() <= 1


def test_multi_label_folds_are_even_where_chance_is_not():
    rng = np.random.default_rng(1)
    for seed in range(10):
        labels = (rng.random((203, 5)) < np.array([0.5, 0.3, 0.2, 0.1, 0.05])).astype(np.uint8)
        if labels.sum(axis=0).min() < 5:
            continue
        per_fold = check_folds(labels, 5, seed)
        assert (per_fold.max(axis=0) - per_fold.min(axis=0) <= 3).all()  # by chance: about 10 for the commonest


def test_seeds_give_other_folds():
    labels = np.repeat([0, 1], 20)
    assert not np.array_equal(folds(labels, 4, 0)[0][1], folds(labels, 4, 1)[0][1])


def test_folds_that_cannot_be():
    labels = np.repeat([0, 1], [10, 3])
    for k in (-1, 0, 1, 14):
        with pytest.raises(UsageError, match=r"13 images cannot be divided in .* folds: choose between 2 and 13"):
            folds(labels, k, 0)
    with pytest.raises(UsageError, match="seed"):
        folds(labels, 2, -1)
    with pytest.raises(DataError, match="Class 1 has 3 images and 5 folds need 5"):
        folds(labels, 5, 0)
    with pytest.raises(DataError, match="Class 'fox' has 3 images"):
        folds(np.eye(2, dtype=np.uint8)[labels], 5, 0, class_names=("cat", "fox"))
    assert len(folds(labels + 1, 3, 0)) == 3  # a class without images stands in nobody's way


# ---- impossible, and whole parts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "seed"), [(0, 0), (10, 0), (-1, 0), (0.0, 0), (1.0, 0), (1.5, 0), (True, 0), (float("nan"), 0), (2, -1)]
)
def test_impossible_amounts(amount, seed):
    with pytest.raises(UsageError, match=r"between 1 and 9|A fraction of .* between 0 and 1|seed"):
        stratified(np.zeros(10, dtype=np.int64), amount, seed)


def test_a_fraction_leaves_an_image_on_either_side():
    assert [part.tolist() for part in stratified(np.zeros(2, dtype=np.int64), 0.9, 0)] in ([[0], [1]], [[1], [0]])
    for fraction, held_out in ((0.001, 1), (0.1, 1), (0.25, 3), (0.999, 9)):
        assert len(stratified(np.zeros(10, dtype=np.int64), fraction, 0)[1]) == held_out
    with pytest.raises(UsageError, match="1 image cannot be divided in two"):
        stratified(np.zeros(1, dtype=np.int64), 0.5, 0)


def test_complete_takes_the_test_first_then_validation():
    source = dataset([50, 30, 20])
    parts, record = complete(Parts(source), val_fraction=0.1, test_fraction=0.2, seed=5)
    assert (len(parts.train), len(parts.val), len(parts.test)) == (72, 8, 20)
    assert sorted([*record.train, *record.val, *record.test]) == list(range(100))
    for part, indices in ((parts.train, record.train), (parts.val, record.val), (parts.test, record.test)):
        assert part.fingerprint() == source.take(indices).fingerprint()
    other, _ = complete(Parts(source), val_fraction=0.3, test_fraction=0.2, seed=5)
    assert other.test.fingerprint() == parts.test.fingerprint()
    assert (parts.val.source, parts.test.source) == ("toy, held out for validation", "toy, held out for the test")
    assert complete(Parts(source))[1] == complete(Parts(source), seed=0)[1]


def test_complete_leaves_what_the_source_defines():
    train, val, test = dataset([10, 10]), dataset([3, 3]), dataset([2, 2])
    parts, record = complete(Parts(train, val, test))
    assert (parts.train, parts.val, parts.test) == (train, val, test)
    assert (record.val, record.test, len(record.train)) == (None, None, 20)
    parts, record = complete(Parts(train, test=test), val_fraction=0)
    assert parts.val is None
    assert len(parts.train) == 20


def test_a_class_too_small_to_divide_is_named():
    with pytest.raises(
        DataError, match=r"Class 'class1' of toy has 1 image and needs 3, one each for training, test, valid"
    ):
        complete(Parts(dataset([10, 1])))
    with pytest.raises(DataError, match="has 2 images and needs 3"):
        complete(Parts(dataset([10, 2])))
    with pytest.raises(DataError, match="needs 2, one each for training, validation"):
        complete(Parts(dataset([10, 1]), test=dataset([2, 2])))
    parts, _ = complete(Parts(dataset([10, 1]), test=dataset([2, 2])), val_fraction=0)  # nothing to divide
    assert len(parts.train) == 11
    parts, _ = complete(Parts(dataset([3, 0, 3])))  # as few as can be; a class without images is in nobody's way
    assert (len(parts.train), len(parts.val), len(parts.test)) == (4, 1, 1)


@pytest.mark.parametrize(
    "fractions", [{"val_fraction": 1}, {"val_fraction": -0.1}, {"test_fraction": 0}, {"test_fraction": 1}]
)
def test_complete_refuses(fractions):
    with pytest.raises(UsageError, match="fraction"):
        complete(Parts(dataset([10, 10])), **fractions)


def test_record_survives_json():
    _, record = complete(Parts(dataset([10, 10])), seed=3)
    assert SplitRecord.from_dict(json.loads(json.dumps(record.as_dict()))) == record
    for damage in ({"seed": "x"}, {"train": None}, {"surplus": 1}):
        with pytest.raises(DataError, match="record of the split"):
            SplitRecord.from_dict(record.as_dict() | damage)


def test_limit_is_stratified_and_only_ever_shrinks():
    parts = Parts(dataset([60, 30, 10]), dataset([20, 10, 10]), dataset([4, 4, 4]))
    limited = limit(parts, 20, seed=0)
    assert limited.train.class_counts().tolist() == [12, 6, 2]
    assert limited.val.class_counts().tolist() == [10, 5, 5]
    assert limited.test is parts.test
    assert limit(limited, 20, seed=1).train is limited.train
    alone = limit(Parts(parts.train), 1, seed=0)
    assert (len(alone.train), alone.val, alone.test) == (1, None, None)
    assert limit(parts, 20, seed=0).train.fingerprint() == limited.train.fingerprint()
    assert limit(parts, 20, seed=1).train.fingerprint() != limited.train.fingerprint()
    with pytest.raises(UsageError, match="at least 1"):
        limit(parts, 0, seed=0)


def test_join_moves_the_validation_images_behind_the_training_images():
    train, val, test = dataset([10, 10]), dataset([3, 3], seed=1), dataset([2, 2])
    joined = join(Parts(train, val, test))
    assert (joined.val, joined.test, joined.train.source) == (None, test, "toy")
    assert joined.train.take(range(20)).fingerprint() == train.fingerprint()
    assert joined.train.take(range(20, 26)).fingerprint() == val.fingerprint()
    parts, _ = complete(joined, val_fraction=0)
    assert len(parts.train) == 26
    without = Parts(train, test=test)
    assert join(without) is without
    several = Dataset(train.images, np.eye(2, dtype=np.uint8)[train.labels], train.class_names, "toy")
    assert join(Parts(several, several)).train.labels.shape == (40, 2)


def test_too_few_images_altogether():
    with pytest.raises(UsageError, match="cannot be divided"):
        stratified(np.zeros(1, dtype=np.int64), 0.5, 0)
    one = Dataset(np.zeros((1, 2, 2, 1), dtype=np.uint8), np.array([[0, 1]]), ("a", "b"), "toy")
    with pytest.raises(DataError, match="toy has 1 image: at least 3"):
        complete(Parts(one))


def test_complete_with_several_labels_per_image():
    labels = np.eye(3, dtype=np.uint8)[np.arange(30) % 3]
    source = Dataset(np.zeros((30, 2, 2, 1), dtype=np.uint8), labels, ("a", "b", "c"), "toy")
    parts, _ = complete(Parts(source))
    assert (len(parts.train), len(parts.val), len(parts.test)) == (22, 2, 6)
