"""Iterative stratification against a textbook program, and what it promises for two parts."""

import numpy as np
from data.two_parts import exact_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from densely.data import folds, stratified

multi_labels = st.tuples(st.integers(2, 40), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1))
)


def textbook(labels, order, capacity):
    """Algorithm 1 of Sechidis et al. (2011) for folds, recounted at every step, with two changes.

    A full part takes no more; and among the parts whose wants lie within an image of the greatest, the emptiest takes
    it. In k-ths of an image: a fold wants a k-th of the images with a label, less those it has got.
    """
    n, classes = labels.shape
    part_of = {}

    def wants(part, label):
        got = sum(1 for image, p in part_of.items() if p == part and labels[image, label])
        return int(labels[:, label].sum()) - len(capacity) * got

    def room(part):
        return capacity[part] - sum(1 for p in part_of.values() if p == part)

    while True:
        left = [i for i in order if i not in part_of]
        counts = {label: sum(int(labels[i, label]) for i in left) for label in range(classes)}
        present = [label for label in range(classes) if counts[label]]
        if not present:
            break
        rarest = min(present, key=lambda label: (counts[label], label))
        for image in [i for i in left if labels[i, rarest]]:
            open_parts = [p for p in range(len(capacity)) if room(p)]
            most = max(wants(p, rarest) for p in open_parts)
            near = [p for p in open_parts if wants(p, rarest) > most - len(capacity)]
            part_of[image] = max(near, key=lambda p: room(p) / capacity[p])
    for image in order:
        if image not in part_of:
            part_of[image] = next(p for p in range(len(capacity)) if room(p))
    return np.array([part_of[i] for i in range(n)])


@given(multi_labels, st.integers(2, 5), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_folds_are_those_of_the_published_algorithm(labels, k, seed):
    k = min(k, len(labels))
    labels[:, (labels.sum(axis=0) < k)] = 0  # too few to divide is an error of its own
    order = np.argsort(np.random.PCG64(seed).random_raw(len(labels)), kind="stable").tolist()
    capacity = [len(labels) // k + (i < len(labels) % k) for i in range(k)]
    expected = textbook(labels, order, capacity)
    for fold, (_, held_out) in enumerate(folds(labels, k, seed)):
        assert held_out.tolist() == np.flatnonzero(expected == fold).tolist()


@given(multi_labels, st.data(), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_two_parts_disjoint_complete_exact_and_reproducible(labels, data, seed):
    before = labels.copy()
    count = data.draw(st.integers(1, len(labels) - 1))
    exact_parts(labels, count, seed)
    assert np.array_equal(labels, before)


def test_rare_labels_are_on_both_sides_and_common_ones_in_proportion():
    rng = np.random.default_rng(0)
    labels = (rng.random((400, 5)) < [0.6, 0.3, 0.1, 0, 0]).astype(np.uint8)
    labels[:8, 3] = 1
    labels[10:12, 4] = 1
    for seed in range(10):
        _, held_out = stratified(labels, 0.1, seed)
        shares = labels[held_out].sum(axis=0)
        assert 1 <= shares[3] <= 2  # 0.8 exactly, and one at least
        assert shares[4] == 1
        assert (np.abs(shares[:3] - labels.sum(axis=0)[:3] / 10) <= 2).all()


def test_a_label_of_one_image_stays_with_the_larger_part():
    labels = np.zeros((50, 2), dtype=np.uint8)
    labels[::2, 0] = 1
    labels[7, 1] = 1
    assert all(7 in stratified(labels, 0.2, seed)[0] for seed in range(20))


def test_the_order_decides_which_images():
    labels = np.eye(3, dtype=np.uint8)[np.arange(30) % 3]
    chosen = {tuple(stratified(labels, 6, seed)[1]) for seed in range(20)}
    assert len(chosen) == 20
    for held_out in chosen:
        assert labels[list(held_out)].sum(axis=0).tolist() == [2, 2, 2]


def test_the_stream_is_frozen():
    """A change here would quietly give every table of several labels another test part."""
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0]] * 4, dtype=np.uint8)
    assert stratified(labels, 5, seed=0)[1].tolist() == [4, 5, 6, 8, 12]
