"""The 1,797 handwritten digits inside scikit-learn: real 8x8 scans that need no network.

Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository.
"""

import numpy as np

from densely.data.dataset import Dataset, Parts
from densely.data.splits import stratified

TEST_FRACTION = 0.2
TEST_SEED = 1797
"""The test part never depends on a training seed, so accuracies of different runs can be compared."""


def load() -> Parts:
    """The digits: 8x8x1 images, ten classes, 1,438 for training and a fixed stratified 359 for the test.

    The scans have 17 grey levels, 0..16; they are spread over 0..255 (times 255/16, rounded).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)[..., np.newaxis]
    labels = bunch.target.astype(np.int64)
    names = tuple(str(digit) for digit in range(10))
    kept, held_out = stratified(labels, TEST_FRACTION, TEST_SEED)
    train = Dataset(images[kept], labels[kept], names, "digits/train")
    return Parts(train=train, test=Dataset(images[held_out], labels[held_out], names, "digits/test"))
