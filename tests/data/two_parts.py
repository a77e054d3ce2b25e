"""What every division in two must be, whatever it divides by."""

import numpy as np

from densely.data import stratified


def exact_parts(labels, count, seed):
    """(kept, held out), found to be disjoint, complete, of the exact size, sorted, and the same a second time."""
    kept, held_out = stratified(labels, count, seed)
    assert len(held_out) == count
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held_out) > 0).all()
    again = stratified(labels, count, seed)
    assert all(np.array_equal(a, b) for a, b in zip((kept, held_out), again, strict=True))
    return kept, held_out
