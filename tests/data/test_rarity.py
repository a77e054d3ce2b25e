import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from densely.data import Dataset, class_weights


def dataset(labels, classes):
    images = np.zeros((len(labels), 2, 2, 1), dtype=np.uint8)
    return Dataset(images, np.asarray(labels), tuple(f"class{i}" for i in range(classes)), "toy")


def test_one_label_an_image_is_scikit_learn_s_balanced():
    labels = np.random.default_rng(0).choice(4, 200, p=[0.6, 0.3, 0.08, 0.02])
    found = class_weights(dataset(labels, 4))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(4), y=labels))
    assert found[labels].mean() == pytest.approx(1)


def test_a_class_without_images_weighs_nothing_and_changes_nothing():
    found = class_weights(dataset([0, 0, 0, 2], 4))
    assert found.tolist() == pytest.approx([4 / (2 * 3), 0, 4 / (2 * 1), 0])


def test_several_labels_an_image_weigh_their_positives():
    labels = np.zeros((100, 5), dtype=np.uint8)
    for label, count in enumerate([50, 20, 2, 98, 0]):
        labels[:count, label] = 1
    # 50/50, 80/20; 98/2 and 2/98 are clipped, and so is the label that no image has.
    assert class_weights(dataset(labels, 5)).tolist() == pytest.approx([1, 4, 10, 0.1, 10])
