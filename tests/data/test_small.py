import numpy as np
import pytest

from densely.data import Dataset, Parts, join, load
from densely.data.small import first_fifty
from densely.errors import DataError


def dataset(labels, classes, source):
    """Every image carries its own number in its first two pixels."""
    images = np.zeros((len(labels), 1, 2, 1), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = divmod(np.arange(len(labels)), 256)
    return Dataset(images, np.asarray(labels), tuple(f"class{i}" for i in range(classes)), source)


def numbers(part):
    return part.images[:, 0, 0, 0].astype(int) * 256 + part.images[:, 0, 1, 0]


def test_the_first_thirty_and_the_next_twenty_of_each_class():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [50, 60, 90, 300]))
    test = dataset([0, 1, 2, 3, 3], 4, "cifar10/test")
    parts = first_fifty(Parts(dataset(labels, 4, "cifar10/train"), test=test), "cifar10-50")
    train, val = [], []
    seen = [0] * 4
    for i, label in enumerate(labels):
        if seen[label] < 50:
            (train if seen[label] < 30 else val).append(i)
        seen[label] += 1
    assert numbers(parts.train).tolist() == train
    assert numbers(parts.val).tolist() == val
    for part in (parts.train, parts.val):
        assert part.labels.tolist() == labels[numbers(part)].tolist()
    assert parts.test.fingerprint() == test.fingerprint()
    assert [part.source for part in (parts.train, parts.val, parts.test)] == [
        "cifar10-50/train",
        "cifar10-50/val",
        "cifar10-50/test",
    ]


def test_an_archive_that_is_not_the_official_one_says_so():
    train = dataset(np.arange(200) % 2, 2, "cifar100/train (unverified)")
    parts = first_fifty(Parts(train), "cifar100-50")
    assert parts.train.source == "cifar100-50/train (unverified)"
    assert parts.val.source == "cifar100-50/val (unverified)"
    assert parts.test is None


def test_too_few_images_of_a_class():
    with pytest.raises(DataError, match="cifar10/train has only 49 images of 'class1' and cifar10-50 takes 50 of each"):
        first_fifty(Parts(dataset([0] * 50 + [1] * 49, 2, "cifar10/train")), "cifar10-50")


def test_real_cifar10_50(cifar_dir):
    whole, parts = load("cifar10", data_dir=cifar_dir), load("cifar10-50", data_dir=cifar_dir)
    assert parts.train.class_counts().tolist() == [30] * 10
    assert parts.val.class_counts().tolist() == [20] * 10
    assert parts.test.fingerprint() == whole.test.fingerprint()
    cats = whole.train.images[whole.train.labels == 3]
    np.testing.assert_array_equal(parts.train.images[parts.train.labels == 3], cats[:30])
    np.testing.assert_array_equal(parts.val.images[parts.val.labels == 3], cats[30:50])
    assert join(parts).train.class_counts().tolist() == [50] * 10


def test_a_small_archive_of_cifar100_has_too_few(cifar_dir):
    if not (cifar_dir / "cifar-100-small-python.tar.gz").is_file():
        pytest.skip("no small CIFAR-100 archive")
    with pytest.raises(
        DataError, match=r"\(subset, 1,000 images\) has only 10 images of 'apple' and cifar100-50 takes"
    ):
        load("cifar100-50", data_dir=cifar_dir)
