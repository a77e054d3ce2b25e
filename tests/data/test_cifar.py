import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from densely.data import cifar, load
from densely.errors import DataError, UsageError

FOLDER = "cifar-100-python"
FINE = [f"fine{i}".encode() for i in range(4)]
COARSE = [b"coarse0", b"coarse1"]


def batch(n, seed=0, **changed):
    rng = np.random.default_rng(seed)
    return {
        b"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
        b"fine_labels": [i % 4 for i in range(n)],
        b"coarse_labels": [i % 2 for i in range(n)],
    } | {key.encode(): value for key, value in changed.items()}


def members(**changed):
    """A tiny sound CIFAR-100, pickled as Python 2 did; `changed` replaces a member's bytes."""
    values = {
        "train": batch(8),
        "test": batch(4, seed=1),
        "meta": {b"fine_label_names": FINE, b"coarse_label_names": COARSE},
    }
    return {name: pickle.dumps(value, protocol=2) for name, value in values.items()} | changed


def archive(path, contents, special=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name if "/" in name else f"{FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in special:
            tar.addfile(info)
    return path.parent


# ---- the real files --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cifar10(cifar_dir):
    return cifar.load_cifar10(cifar_dir)


def test_real_cifar10(cifar10):
    assert (len(cifar10.train), len(cifar10.test), cifar10.val) == (50_000, 10_000, None)
    assert cifar10.train.class_counts().tolist() == [5000] * 10
    assert cifar10.test.class_counts().tolist() == [1000] * 10
    assert cifar10.train.class_names == cifar.CIFAR10_NAMES
    assert cifar10.train.source == "cifar10/train"
    # Channel means that the literature quotes; they would differ if planes or parts were mixed up.
    np.testing.assert_allclose(cifar10.train.images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)


def test_real_cifar10_against_a_plain_reading(cifar10, cifar_dir):
    with tarfile.open(cifar_dir / "cifar-10-python.tar.gz") as tar:
        raw = pickle.loads(tar.extractfile("cifar-10-batches-py/data_batch_1").read(), encoding="bytes")
    assert cifar10.train.labels[:10_000].tolist() == raw[b"labels"]
    for i in (0, 1, 9_999):
        for channel in range(3):
            plane = raw[b"data"][i, channel * 1024 : (channel + 1) * 1024].reshape(32, 32)
            np.testing.assert_array_equal(cifar10.train.images[i, :, :, channel], plane)


def test_real_cifar100_subset(cifar_dir):
    fine = load("cifar100", data_dir=cifar_dir)
    coarse = load("cifar100-coarse", data_dir=cifar_dir)
    assert fine.train.class_counts().tolist() == [10] * 100
    assert coarse.train.class_counts().tolist() == [50] * 20
    assert (fine.train.class_names[0], coarse.train.class_names[0]) == ("apple", "aquatic_mammals")
    assert fine.train.source == "cifar100/train (subset, 1,000 images)"
    assert coarse.test.source == "cifar100-coarse/test (subset, 500 images)"


# ---- made-up files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["archive", "other-archive", "folder"])
def test_tiny_cifar100(tmp_path, layout):
    if layout == "folder":
        (tmp_path / FOLDER).mkdir()
        for name, content in members().items():
            (tmp_path / FOLDER / name).write_bytes(content)
    else:
        archive(tmp_path / f"cifar-100{'-tiny' * (layout == 'other-archive')}-python.tar.gz", members())
    parts = cifar.load_cifar100(tmp_path)
    expected = batch(8)
    assert parts.train.labels.tolist() == expected[b"fine_labels"]
    assert parts.train.class_names == ("fine0", "fine1", "fine2", "fine3")
    np.testing.assert_array_equal(parts.train.images[5, :, :, 2].ravel(), expected[b"data"][5, 2048:])
    assert cifar.load_cifar100(tmp_path, "coarse").test.labels.tolist() == [0, 1, 0, 1]


def test_full_count_with_other_bytes_is_called_unverified(tmp_path):
    blank = np.zeros((50_000, 3072), dtype=np.uint8)
    train = {b"data": blank, b"fine_labels": [0] * 50_000, b"coarse_labels": [0] * 50_000}
    (tmp_path / FOLDER).mkdir()
    for name, content in members(train=pickle.dumps(train, protocol=2)).items():
        (tmp_path / FOLDER / name).write_bytes(content)
    assert cifar.load_cifar100(tmp_path).train.source == "cifar100/train (unverified)"


def test_absent(tmp_path):
    with pytest.raises(UsageError, match=r"cifar-10-python\.tar\.gz"):
        cifar.load_cifar10(tmp_path)
    with pytest.raises(UsageError, match=r"cifar-100-python\.tar\.gz"):
        cifar.load_cifar100(tmp_path)
    with pytest.raises(UsageError, match="'fine' or 'coarse'"):
        cifar.load_cifar100(tmp_path, "medium")


def test_cifar10_member_with_another_md5(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    contents = {name: pickle.dumps(batch(2, labels=[0, 1]), protocol=2) for name in cifar.CIFAR10_MD5}
    contents["batches.meta"] = pickle.dumps({b"label_names": [b"a", b"b"]}, protocol=2)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        monkeypatch.setitem(cifar.CIFAR10_MD5, name, hashlib.md5(content).hexdigest())
    parts = cifar.load_cifar10(tmp_path)
    assert (len(parts.train), len(parts.test)) == (10, 2)

    damaged = bytearray(contents["data_batch_4"])
    damaged[-100] ^= 1
    (folder / "data_batch_4").write_bytes(damaged)
    with pytest.raises(DataError, match="data_batch_4 is damaged"):
        cifar.load_cifar10(tmp_path)
    (folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match="has no cifar-10-batches-py/data_batch_4"):
        cifar.load_cifar10(tmp_path)


# ---- hostile and damaged files ---------------------------------------------------------------------------------------


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_runs_code_is_stopped_before_it_runs(tmp_path):
    canary = tmp_path / "it-ran"
    hostile = pickle.dumps({b"data": Canary(canary)}, protocol=2)
    pickle.loads(hostile)
    assert canary.exists()  # it does sing for pickle.loads
    canary.rmdir()
    archive(tmp_path / "cifar-100-python.tar.gz", members(train=hostile))
    with pytest.raises(DataError, match=r"train asks for (posix|nt)\.mkdir, .* not safe"):
        cifar.load_cifar100(tmp_path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n.",
        b"cbuiltins\neval\n.",
        b"cnumpy\nndarray\n((I1000000000000\ntt R.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I99999999999\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'O8'\ntR.",
        b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
        b"",
        b"not a pickle",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({b"data": 3}, protocol=2),
        pickle.dumps(batch(3)[b"data"][:, :3000], protocol=2),
        pickle.dumps(batch(0), protocol=2),
        pickle.dumps(batch(3, data=np.zeros((3, 3072))), protocol=2),
        pickle.dumps(batch(3, fine_labels=[0, 1]), protocol=2),
        pickle.dumps(batch(3, fine_labels=[0, 1, 4]), protocol=2),
        pickle.dumps(batch(3, fine_labels=["a", "b", "c"]), protocol=2),
        pickle.dumps(batch(3, fine_labels=[[0], [1, 2], []]), protocol=2),
    ],
)
def test_pickles_that_are_no_batch(tmp_path, content):
    archive(tmp_path / "cifar-100-python.tar.gz", members(train=content))
    with pytest.raises(DataError) as caught:
        cifar.load_cifar100(tmp_path)
    assert "train" in str(caught.value)


def test_meta_without_names(tmp_path):
    archive(tmp_path / "cifar-100-python.tar.gz", members(meta=pickle.dumps({}, protocol=2)))
    with pytest.raises(DataError, match="meta holds no fine_label_names"):
        cifar.load_cifar100(tmp_path)


def test_numpys_own_dtype_is_not_the_pickles_to_change(tmp_path):
    archive(tmp_path / "cifar-100-python.tar.gz", members())
    cifar.load_cifar100(tmp_path)
    assert np.dtype("u1") == np.uint8
    assert cifar._dtype("u1", False, False) is not np.dtype("u1")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file(tmp_path, kind):
    secret = tmp_path / "secret"
    secret.write_bytes(members()["train"])
    link = tarfile.TarInfo(f"{FOLDER}/train")
    link.type, link.linkname = kind, str(secret)
    contents = members()
    del contents["train"]
    archive(tmp_path / "cifar-100-python.tar.gz", contents, special=[link])
    with pytest.raises(DataError, match="train is not a regular file"):
        cifar.load_cifar100(tmp_path)


def test_members_elsewhere_are_neither_read_nor_written(tmp_path):
    data_dir = tmp_path / "a" / "b"
    data_dir.mkdir(parents=True)
    contents = members()
    contents["../../escaped"] = b"x"
    contents[f"{FOLDER}/../train"] = b"x"
    archive(data_dir / "cifar-100-python.tar.gz", contents)
    assert len(cifar.load_cifar100(data_dir).train) == 8
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "b", "cifar-100-python.tar.gz"]

    contents = members()
    contents[f"{FOLDER}/../{FOLDER}/train"] = contents.pop("train")
    archive(data_dir / "cifar-100-python.tar.gz", contents)
    with pytest.raises(DataError, match="has no cifar-100-python/train"):
        cifar.load_cifar100(data_dir)


def test_a_member_twice(tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in [*members().items(), ("train", b"other")]:
            info = tarfile.TarInfo(f"{FOLDER}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match="holds train twice"):
        cifar.load_cifar100(tmp_path)


def test_sizes_are_limited(tmp_path, monkeypatch):
    archive(tmp_path / "cifar-100-python.tar.gz", members())
    with monkeypatch.context() as small:
        small.setattr(cifar, "MEMBER_LIMIT", 20_000)
        with pytest.raises(DataError, match="train has more than 20,000 bytes"):
            cifar.load_cifar100(tmp_path)
    (tmp_path / FOLDER).mkdir()
    for name, content in members().items():
        (tmp_path / FOLDER / name).write_bytes(content)
    with monkeypatch.context() as small:
        small.setattr(cifar, "MEMBER_LIMIT", 20_000)
        with pytest.raises(DataError, match="train has more than 20,000 bytes"):
            cifar.load_cifar100(tmp_path)
    shutil.rmtree(tmp_path / FOLDER)
    monkeypatch.setattr(cifar, "ARCHIVE_LIMIT", 2**20)
    archive(tmp_path / "cifar-100-python.tar.gz", {"bomb": bytes(3 * 2**20), **members()})
    with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
        cifar.load_cifar100(tmp_path)


def test_damaged_archives(tmp_path):
    path = tmp_path / "cifar-100-python.tar.gz"
    archive(path, members())
    whole = path.read_bytes()
    garbled = bytearray(whole)
    garbled[len(whole) // 2] ^= 0xFF
    for content in (
        b"",
        b"not gzip",
        whole[:1000],
        whole[: len(whole) // 2],
        bytes(garbled),
        gzip.compress(b"not tar" * 500),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cifar-100-python\.tar\.gz"):
            cifar.load_cifar100(tmp_path)
