"""Iterative stratification: images with several labels dealt out so that every label is spread over all parts.

K. Sechidis, G. Tsoumakas, I. Vlahavas, *On the Stratification of Multi-Label Data*, ECML PKDD 2011, Algorithm 1: the
rarest label first, each of its images to the part that still wants this label most. Two things differ from the paper.
A part that is full takes no more, so the counts are exact. And parts whose wants differ by less than an image count as
equal, the emptiest goes first: were all labels rounded alike, nothing would be left for the last of them.
"""

import numpy as np
from numpy.typing import NDArray


def deal(
    labels: NDArray[np.uint8],
    order: NDArray[np.int64],
    capacity: NDArray[np.int64],
    wanted: NDArray[np.int64],
    image: int,
) -> NDArray[np.int64]:
    """Which part each image goes to, int64 (n,).

    Args:
        labels: (n, classes), zeros and ones.
        order: a permutation of the n images, in which they are dealt: the only thing that is random.
        capacity: (parts,), how many images each part takes; at least 1 each, n together.
        wanted: (parts, classes), how many images of a label each part should get, in fractions of an image.
        image: how many of these fractions make an image. Whole numbers, so that ties are exact on every machine.
    """
    part_of = np.full(len(labels), -1, dtype=np.int64)
    room, left, wanted = capacity.tolist(), capacity.tolist(), wanted.copy()
    with_label = labels[order].astype(bool)
    remaining = with_label.sum(axis=0)
    while remaining.any():
        rarest = int(np.where(remaining > 0, remaining, len(labels) + 1).argmin())
        candidates = order[with_label[:, rarest]]
        for i in candidates[part_of[candidates] < 0].tolist():
            wants = wanted[:, rarest].tolist()
            free = [part for part in range(len(room)) if left[part]]
            most = max(wants[part] for part in free)
            part = max((p for p in free if wants[p] > most - image), key=lambda p: left[p] / room[p])
            part_of[i] = part
            left[part] -= 1
            wanted[part] -= image * labels[i].astype(np.int64)
            remaining -= labels[i]
    without_label = order[part_of[order] < 0]
    part_of[without_label] = np.repeat(np.arange(len(left)), left)
    return part_of
