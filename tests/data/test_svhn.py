import zlib

import numpy as np
import pytest
from scipy.io import savemat

from densely.data import load, svhn
from densely.errors import DataError, UsageError


def write(path, n, seed=0, **changed):
    rng = np.random.default_rng(seed)
    content = {
        "X": rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8),
        "y": (np.arange(n, dtype=np.uint8) % 10 + 1).reshape(-1, 1),
    }
    savemat(path, content | changed, do_compression=True)
    return content


def test_reads_what_scipy_wrote(tmp_path):
    train = write(tmp_path / "train_32x32.mat", 12, seed=1)
    write(tmp_path / "test_32x32.mat", 5, seed=2)
    parts = svhn.load(tmp_path)
    assert (len(parts.train), len(parts.test), parts.val) == (12, 5, None)
    assert parts.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # 10 means the digit 0
    for i in range(12):
        np.testing.assert_array_equal(parts.train.images[i], train["X"][:, :, :, i])
    assert parts.train.source == "svhn/train"
    assert load("svhn", data_dir=tmp_path).test.fingerprint() == parts.test.fingerprint()


def test_extra_joins_the_training_part(tmp_path):
    for name, n in (("train", 4), ("test", 3), ("extra", 6)):
        write(tmp_path / f"{name}_32x32.mat", n)
    parts = svhn.load(tmp_path, extra=True)
    assert (len(parts.train), len(parts.test)) == (10, 3)
    assert parts.train.source == "svhn-extra/train"


def test_absent(tmp_path):
    with pytest.raises(UsageError, match=r"train_32x32\.mat is not in"):
        svhn.load(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"X": np.zeros((28, 28, 3, 4), dtype=np.uint8)},
        {"X": np.zeros((32, 32, 3, 4))},
        {"y": np.zeros((4, 1), dtype=np.uint8)},
        {"y": np.full((4, 1), 11, dtype=np.uint8)},
        {"y": np.ones((3, 1), dtype=np.uint8)},
    ],
)
def test_other_content(tmp_path, changed):
    write(tmp_path / "train_32x32.mat", 4, **changed)
    write(tmp_path / "test_32x32.mat", 4)
    with pytest.raises(DataError, match=r"train_32x32\.mat holds"):
        svhn.load(tmp_path)


@pytest.mark.parametrize("cut", [0, 50, 200, 2000])
def test_damaged(tmp_path, cut):
    write(tmp_path / "train_32x32.mat", 4)
    write(tmp_path / "test_32x32.mat", 4)
    damaged = tmp_path / "test_32x32.mat"
    damaged.write_bytes(damaged.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"test_32x32\.mat"):
        svhn.load(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_small_file_that_claims_to_be_huge(tmp_path, compressed):
    write(tmp_path / "test_32x32.mat", 2)
    path = tmp_path / "train_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [2]])}, do_compression=compressed)
    content = bytearray(path.read_bytes())
    if compressed:
        # The element of X: its tag, then a zlib stream that is made again with another last dimension in its header.
        size = int.from_bytes(content[132:136], "little")
        inner = bytearray(zlib.decompress(content[136 : 136 + size]))
        at = inner.index((3).to_bytes(4, "little") + (2).to_bytes(4, "little")) + 4
        inner[at : at + 4] = (2**30).to_bytes(4, "little")
        packed = zlib.compress(bytes(inner))
        content[132 : 136 + size] = len(packed).to_bytes(4, "little") + packed
    else:
        at = content.index((3).to_bytes(4, "little") + (2).to_bytes(4, "little")) + 4
        content[at : at + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"train_32x32\.mat holds no images X"):
        svhn.load(tmp_path)


def test_structures_are_not_read(tmp_path):
    write(tmp_path / "train_32x32.mat", 2)
    savemat(tmp_path / "test_32x32.mat", {"X": {"a": np.zeros(3)}, "y": np.array([[1]])})
    with pytest.raises(DataError, match="holds no images X"):
        svhn.load(tmp_path)


@pytest.mark.parametrize("changed", [{"X": np.zeros((32, 32, 3, 2))}, {"y": np.zeros((2, 10**6))}, {"y": "text"}])
def test_other_types_and_sizes_get_no_memory(tmp_path, changed):
    write(tmp_path / "train_32x32.mat", 2, **changed)
    write(tmp_path / "test_32x32.mat", 2)
    with pytest.raises(DataError, match=f"holds no (images|labels) {next(iter(changed))}"):
        svhn.load(tmp_path)
