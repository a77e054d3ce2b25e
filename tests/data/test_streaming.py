"""What is streamed must be, to the byte, what is read whole: the array is the oracle."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from densely import data
from densely.data import Preprocessing, folder, table
from densely.data.dataset import chunks, in_turn
from densely.data.streaming import Streamed, size_in_bytes, size_in_words
from densely.errors import DataError, DenselyError, UsageError

IMAGE = 16 * 16 * 3


def streamed(path, cache=0, workers=0, **more):
    return folder.load(path, size=(16, 16), channels=3, cache=cache, workers=workers, notify=lambda line: None, **more)


@pytest.fixture
def whole(pets):
    return folder.load(pets, size=(16, 16), channels=3).train


def garble(path):
    """Other bytes, which only decoding could notice."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_it_looks_like_the_array(pets, whole):
    images = streamed(pets, cache=3 * IMAGE).train.images
    assert isinstance(images, Streamed)
    assert (images.shape, images.dtype, images.ndim, images.size, len(images)) == (
        *(whole.images.shape, whole.images.dtype, whole.images.ndim, whole.images.size),
        8,
    )
    mask = np.arange(8) % 3 == 0
    for index in (0, -1, slice(None), slice(1, 7, 2), slice(0, 0), [5, 0, 5], np.array([7, 2]), mask):
        np.testing.assert_array_equal(images[index], whole.images[index])
    np.testing.assert_array_equal(np.asarray(images), whole.images)
    np.testing.assert_array_equal(np.divide(images, 2), whole.images / 2)
    with pytest.raises(TypeError, match="take some first"):
        images[:, 0]
    with pytest.raises(IndexError):
        images[8]


@pytest.mark.parametrize(("cache", "workers"), [(0, 0), (3 * IMAGE, 2), (7 * IMAGE, 1)])
def test_groups_come_in_their_order_whatever_the_workers(pets, whole, cache, workers):
    images = streamed(pets, cache, workers).train.images
    groups = [[3, 1], [0], [], [7, 6, 5, 1], [3], [2, 4]]
    for _ in range(2):
        for group, got in zip(groups, in_turn(images, iter(groups)), strict=True):
            np.testing.assert_array_equal(got, whole.images[np.array(group, dtype=int)])
    np.testing.assert_array_equal(np.concatenate(list(chunks(images))), whole.images)
    assert multiprocessing.active_children() == []


def test_divided_and_joined_they_have_the_fingerprints_of_the_array(pets, whole):
    images = streamed(pets).train
    for part, other in ((images, whole), (images.take([6, 1, 0]), whole.take([6, 1, 0]))):
        assert part.fingerprint() == other.fingerprint()
        assert Preprocessing.fit(part.images, "standardise") == Preprocessing.fit(other.images, "standardise")
    done, record = data.complete(data.Parts(images), val_fraction=0.3, seed=4)
    expected, same = data.complete(data.Parts(whole), val_fraction=0.3, seed=4)
    assert done.fingerprints() == expected.fingerprints()
    assert record == same
    assert data.join(done).train.fingerprint() == data.join(expected).train.fingerprint()
    assert data.limit(done, 2, 0).fingerprints() == data.limit(expected, 2, 0).fingerprints()
    assert all(isinstance(part.images, Streamed) for part in (done.train, done.val, done.test, data.join(done).train))


def test_the_first_that_fit_are_kept_and_never_thrown_out(pets, whole):
    images = streamed(pets, cache=3 * IMAGE + 5, workers=1).train.images
    order = np.array([6, 2, 5, 0, 1, 3, 4, 7])
    list(in_turn(images, iter([order[:4], order[4:]])))
    for file in pets.rglob("*.*"):
        garble(file)
    np.testing.assert_array_equal(images[[5, 6, 2, 6]], whole.images[[5, 6, 2, 6]])
    for other in (0, 1, 3, 4, 7):
        with pytest.raises(DataError, match=r"cannot be read|not a PNG"):
            images[other]


def test_what_passes_over_all_images_found_is_remembered(pets, whole):
    first = streamed(pets).train
    fingerprint, fitted = first.fingerprint(), Preprocessing.fit(first.images, "standardise")
    for file in pets.rglob("*.*"):
        garble(file)
    again = streamed(pets).train
    assert again.fingerprint() == fingerprint == whole.fingerprint()
    assert Preprocessing.fit(again.images, "standardise") == fitted
    with pytest.raises(DataError):  # of other images nothing is known
        again.take([3, 2]).fingerprint()


def test_a_damaged_memory_is_found_anew(pets, whole, own_cache):
    streamed(pets).train.fingerprint()
    [memory] = own_cache.rglob("*.json")
    for damage in ("", "[1, 2]", memory.read_text()[:20]):
        memory.write_text(damage)
        assert streamed(pets).train.fingerprint() == whole.fingerprint()


# ---- whether it streams ----------------------------------------------------------------------------------------------


def test_what_fits_is_an_array(pets, monkeypatch):
    told = []
    fits = folder.load(pets, size=(16, 16), channels=3, cache=8 * IMAGE, notify=told.append).train
    assert isinstance(fits.images, np.ndarray)
    assert told == []
    larger = folder.load(pets, size=(16, 16), channels=3, cache=8 * IMAGE - 1, workers=2, notify=told.append).train
    assert isinstance(larger.images, Streamed)
    [line] = told
    assert line.startswith("pets: 8 images of 16×16×3 would take 6.1 KB of memory, more than 6.1 KB")
    assert "by 2 worker processes" in line
    assert isinstance(folder.load(pets, size=(16, 16), channels=3).train.images, np.ndarray)
    monkeypatch.setenv("DENSELY_CACHE_SIZE", "1KB")
    assert isinstance(data.load(pets, size=(16, 16), notify=told.append).train.images, Streamed)


def test_impossible_amounts(pets):
    for wrong in ({"cache": -1}, {"workers": -1}):
        with pytest.raises(UsageError, match="give 0 or more"):
            folder.load(pets, **wrong)


def test_sizes_in_words_and_bytes():
    assert [size_in_bytes(text) for text in ("0", "17", "2GB", "1.5 mb", "3T", "8kB")] == [
        *(0, 17, 2 * 10**9, 1_500_000, 3 * 10**12, 8000)
    ]
    assert [size_in_words(size) for size in (0, 1500, 2 * 10**9, 99_960_000_000_000)] == [
        *("0.0 KB", "1.5 KB", "2.0 GB", "100.0 TB")
    ]
    for wrong in ("", "GB", "2 XB", "-1", "1e9"):
        with pytest.raises(UsageError, match="2GB or 500MB"):
            size_in_bytes(wrong)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_named_or_skipped_as_in_the_array(pets, workers):
    (pets / "cat" / "1.jpg").write_bytes(b"")
    (pets / "dog" / "0.png").write_bytes((pets / "dog" / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"^[^\n]*cat/1\.jpg[^\n]*$"):
        streamed(pets, workers=workers).train.fingerprint()
    expected = folder.load(pets, size=(16, 16), channels=3, skip_bad=True)
    calls = []
    for _ in range(2):  # looked for, then remembered
        parts = streamed(pets, workers=workers, skip_bad=True, progress=lambda *done: calls.append(done))
        assert parts.skipped == expected.skipped
        assert parts.train.fingerprint() == expected.train.fingerprint()
    assert calls == [(8, 8)]


def test_a_line_of_a_table_is_named(pets):
    lines = ["file,label", *(f"{file.relative_to(pets)},{file.parent.name}" for file in sorted(pets.rglob("*.*")))]
    (pets / "labels.csv").write_text("\n".join(lines))
    (pets / "cat" / "2.webp").write_bytes(b"no image")
    images = table.load(
        pets / "labels.csv", size=(16, 16), channels=3, cache=0, workers=1, notify=lambda line: None
    ).train.images
    with pytest.raises(DataError, match=r"labels\.csv, line 4: .*2\.webp is not a PNG"):
        list(chunks(images))


def test_a_worker_that_is_killed_ends_it_with_a_sentence(pets):
    groups = in_turn(streamed(pets, workers=2).train.images, iter([[i % 8] for i in range(1000)]))
    next(groups)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(DenselyError, match=r"ended from outside.*--cache or fewer --workers"):
        list(groups)
    del groups
    assert multiprocessing.active_children() == []


def test_ctrl_c_does_not_end_a_worker(pets, whole):
    groups = in_turn(streamed(pets, workers=2).train.images, iter([[i % 8] for i in range(50)]))
    got = [next(groups)]
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    got += groups
    np.testing.assert_array_equal(np.concatenate(got), whole.images[np.arange(50) % 8])
