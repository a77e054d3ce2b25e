"""Iterative stratification: images with several labels dealt out so that every label is spread over all parts.

K. Sechidis, G. Tsoumakas, I. Vlahavas, *On the Stratification of Multi-Label Data*, ECML PKDD 2011, Algorithm 1: the
rarest label first, each of its images to the part that still wants this label most. Two things differ from the paper:
a part that is full takes no more, so the counts are exact; and ties go to the lower part number, so that nothing but
the order of the images is random.
"""

import numpy as np
from numpy.typing import NDArray


def deal(
    labels: NDArray[np.uint8], order: NDArray[np.int64], capacity: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which part each image goes to, int64 (n,).

    Args:
        labels: (n, classes), zeros and ones.
        order: a permutation of the n images, in which they are dealt.
        capacity: (parts,), how many images each part takes; n together.
        wanted: (parts, classes), how many images of a label each part should get, in n-ths of an image: whole
            numbers, so that ties are exact on every machine.
    """
    n = len(labels)
    part_of = np.full(n, -1, dtype=np.int64)
    left, wanted, shuffled = capacity.tolist(), wanted.copy(), labels[order].astype(bool)
    remaining = shuffled.sum(axis=0)
    while remaining.any():
        rarest = int(np.where(remaining > 0, remaining, n + 1).argmin())
        with_it = order[shuffled[:, rarest]]
        for image in with_it[part_of[with_it] < 0].tolist():
            wants = wanted[:, rarest].tolist()
            part = max((p for p in range(len(left)) if left[p]), key=lambda p: (wants[p], left[p]))
            part_of[image] = part
            left[part] -= 1
            wanted[part] -= n * labels[image].astype(np.int64)
            remaining -= labels[image]
    without = order[part_of[order] < 0]
    part_of[without] = np.repeat(np.arange(len(left)), left)
    return part_of
