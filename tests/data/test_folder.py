import os
import shutil

import numpy as np
import pytest
from PIL import Image

from densely.data import folder, read_image
from densely.errors import DataError, UsageError


def test_class_folders(pets):
    parts = folder.load(pets, size=(40, 40), channels=3)
    assert parts.train.class_names == ("cat", "dog")
    assert parts.train.labels.tolist() == [0] * 4 + [1] * 4
    assert (parts.val, parts.test, parts.train.source) == (None, None, "pets/train")
    for i, name in enumerate(["0.png", "1.jpg", "2.webp", "3.BMP"]):
        np.testing.assert_array_equal(parts.train.images[i], read_image(pets / "cat" / name, (40, 40), 3))


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_part_folders(draw, tmp_path, val):
    for part, count in (("train", 3), (val, 2), ("test", 1)):
        for name in ("a", "b"):
            for i in range(count):
                draw(f"set/{part}/{name}/{i}.png")
    parts = folder.load(tmp_path / "set")
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [6, 4, 2]
    assert parts.val.source == "set/val"


def test_nested_folders_hidden_files_and_others(draw, tmp_path, pets):
    draw("pets/cat/deep/er/0.png", seed=5)
    draw("pets/.thumbnails/0.png")
    draw("pets/cat/.trash/0.png")
    draw("pets/cat/.hidden.png")
    (pets / "cat" / "notes.txt").write_text("purr")
    (pets / "README.md").write_text("pets")
    parts = folder.load(pets)
    assert parts.train.class_counts().tolist() == [5, 4]


def test_the_default_size_and_channels(draw, tmp_path):
    for i, side in enumerate([50, 54, 60]):  # the median short side, 54, to a multiple of 8
        draw(f"grey/a/{i}.png", size=(side, 90), mode="L")
        draw(f"grey/b/{i}.png", size=(70, side), mode="L")
    assert folder.load(tmp_path / "grey").train.input_shape == (56, 56, 1)
    draw("grey/b/colour.png", size=(54, 54))
    assert folder.load(tmp_path / "grey").train.input_shape == (56, 56, 3)
    for name in ("a", "b"):
        draw(f"tiny/{name}/0.png", size=(5, 5))
        draw(f"large/{name}/0.png", size=(300, 300))
    assert folder.load(tmp_path / "tiny").train.input_shape == (32, 32, 3)
    assert folder.load(tmp_path / "large").train.input_shape == (128, 128, 3)


def test_a_class_may_be_called_train(draw, tmp_path):
    for name in ("bus", "train", "test"):
        draw(f"traffic/{name}/0.png")
    assert folder.load(tmp_path / "traffic").train.class_names == ("bus", "test", "train")


# ---- what is refused -------------------------------------------------------------------------------------------------


def refused(path, message, error=DataError):
    with pytest.raises(error, match=message):
        folder.load(path)


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "no folder at", UsageError)
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is a file: name a folder", UsageError)


def test_too_few_classes(draw, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "has 0 class folders")
    draw("one/cat/0.png")
    refused(tmp_path / "one", "has 1 class folder:")


def test_one_class_in_place_of_all(pets):
    refused(pets / "dog", f"looks like one class of {pets}; train on that folder")


def test_a_class_without_images(pets):
    (pets / "fish").mkdir()
    (pets / "fish" / "notes.txt").touch()
    refused(pets, r"class folder .*fish has no .* images \(it has \.txt 1: convert them\)")


def test_files_that_are_no_images_are_told(pets):
    for name in ("cat/a.HEIC", "dog/b.heic", "dog/notes.txt", "dog/Makefile", "dog/.DS_Store"):
        (pets / name).touch()
    told: list[str] = []
    count = len(folder.load(pets, notify=told.append).train)
    assert told == [
        f"left out: 4 files in {pets} that by their names are no PNG, JPEG, WebP or BMP images"
        " (.heic 2, no ending 1, .txt 1)"
    ]
    for file in [*pets.glob("*/*.[hH]*"), pets / "dog/notes.txt", pets / "dog/Makefile"]:
        file.unlink()
    assert len(folder.load(pets, notify=told.append).train) == count
    assert len(told) == 1


@pytest.mark.parametrize(("first", "second"), [("9.png", "9.jpg"), ("x.png", "X.png"), ("sub/x.png", "sub/X.JPG")])
def test_two_images_of_one_name(draw, pets, first, second):
    draw(f"pets/cat/{first}")
    draw(f"pets/cat/{second}")
    with pytest.raises(DataError) as caught:
        folder.load(pets)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_parts_with_other_classes(draw, tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b", "test/c"):
        draw(f"more/{name}/0.png")
    refused(tmp_path / "more", "Class 'c' is in .*test and not in .*train")
    for name in ("train/a", "train/b", "test/a"):
        draw(f"fewer/{name}/0.png")
    refused(tmp_path / "fewer", "Class 'b' is in .*train and not in .*test")


def test_unclear_layouts(draw, tmp_path):
    for name in ("train/a", "train/b", "val/a", "val/b", "valid/a", "valid/b"):
        draw(f"twice/{name}/0.png")
    refused(tmp_path / "twice", "both val and valid")
    draw("lone/test/a/0.png")
    draw("lone/test/b/0.png")
    refused(tmp_path / "lone", "has test but no train")
    draw("mixed/train/a/0.png")
    draw("mixed/train/b/0.png")
    draw("mixed/extra/0.png")
    refused(tmp_path / "mixed", "has train, as if it held parts, beside extra")


@pytest.mark.parametrize("damage", ["zero", "text", "cut"])
def test_an_image_that_cannot_be_read_is_named(pets, damage):
    victim = pets / "dog" / "1.jpg"
    content = victim.read_bytes()
    victim.write_bytes({"zero": b"", "text": b"hello", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(DataError, match=r"dog/1\.jpg.*, or leave out all such files with --skip-bad\.$"):
        folder.load(pets)
    with pytest.raises(DataError, match=r"dog/1\.jpg"):
        folder.load(pets, size=(32, 32), channels=3)


def test_links(draw, pets, tmp_path):
    (pets / "cat" / "loop").symlink_to(pets, target_is_directory=True)
    (pets / "cat" / "self").symlink_to(pets / "cat", target_is_directory=True)
    draw("elsewhere/0.png", seed=3)
    (pets / "fish").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(DataError, match="leads back to"):
        folder.load(pets)
    (pets / "cat" / "loop").unlink()
    with pytest.raises(DataError, match="leads back to"):
        folder.load(pets)
    (pets / "cat" / "self").unlink()
    assert folder.load(pets).train.class_names == ("cat", "dog", "fish")
    (pets / "cat" / "lost.png").symlink_to(tmp_path / "gone.png")
    refused(pets, r"lost\.png is a link to a file that is not there")


# ---- the cache -------------------------------------------------------------------------------------------------------


def replace_keeping_size_and_time(path):
    """Other bytes that nothing but decoding could notice."""
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def cached(cache):
    return sorted(cache.rglob("*.npz"))


def test_a_second_load_decodes_nothing(pets, tmp_path):
    calls = []
    first = folder.load(
        pets, size=(16, 16), channels=3, cache_dir=tmp_path / "cache", progress=lambda *done: calls.append(done)
    )
    assert calls == [(i, 8) for i in range(1, 9)]
    [file] = cached(tmp_path / "cache")
    written = file.stat().st_mtime_ns
    replace_keeping_size_and_time(pets / "cat" / "0.png")
    second = folder.load(
        pets, size=(16, 16), channels=3, cache_dir=tmp_path / "cache", progress=lambda *done: calls.append(done)
    )
    assert second.train.fingerprint() == first.train.fingerprint()
    assert len(calls) == 8
    assert file.stat().st_mtime_ns == written


def test_what_makes_the_cache_stale(pets, draw, tmp_path):
    cache = tmp_path / "cache"

    def load(size=(16, 16), channels=3):
        return folder.load(pets, size=size, channels=channels, cache_dir=cache).train

    before = load()
    os.utime(pets / "cat" / "0.png", ns=(1, 1))
    load()
    load(size=(16, 24))
    load(channels=1)
    assert len(cached(cache)) == 4
    draw("pets/cat/0.png", seed=77)
    assert load().fingerprint() != before.fingerprint()
    (pets / "dog" / "0.png").unlink()
    assert len(load()) == 7
    assert len(cached(cache)) == 6


def test_two_folders_do_not_share(pets, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(pets, twin)  # keeps sizes and times
    replace_keeping_size_and_time(twin / "cat" / "0.png")
    folder.load(pets, size=(16, 16), channels=3)
    with pytest.raises(DataError, match=r"twin/cat/0\.png"):
        folder.load(twin, size=(16, 16), channels=3)


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_cache_is_made_again(pets, own_cache, damage):
    first = folder.load(pets, size=(16, 16), channels=3)
    [file] = cached(own_cache)
    whole = file.read_bytes()
    if damage == "other":
        np.savez(file, train=np.zeros((8, 4, 4, 3), dtype=np.uint8))
    else:
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        file.write_bytes({"empty": b"", "cut": whole[:-500], "flipped": bytes(flipped)}[damage])
    assert folder.load(pets, size=(16, 16), channels=3).train.fingerprint() == first.train.fingerprint()
    replace_keeping_size_and_time(pets / "cat" / "0.png")
    assert (
        folder.load(pets, size=(16, 16), channels=3).train.fingerprint() == first.train.fingerprint()
    )  # from the new cache


def test_a_cache_that_is_a_pickle_is_not_opened(pets, own_cache):
    folder.load(pets, size=(16, 16), channels=3)
    [file] = cached(own_cache)
    np.savez(file, train=np.array([print], dtype=object))
    assert folder.load(pets, size=(16, 16), channels=3).train.input_shape == (16, 16, 3)


def test_a_cache_that_cannot_be_written(pets, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert len(folder.load(pets, size=(16, 16), channels=3, cache_dir=tmp_path / "file").train) == 8

    def full_disk(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    assert len(folder.load(pets, size=(16, 16), channels=3, cache_dir=tmp_path / "cache").train) == 8
    assert list((tmp_path / "cache" / "images").iterdir()) == []


def test_a_four_channel_folder(draw, tmp_path):
    for name in ("a", "b"):
        draw(f"alpha/{name}/0.png", mode="RGBA")
    got = folder.load(tmp_path / "alpha", size=(40, 40), channels=4).train
    np.testing.assert_array_equal(got.images[0], np.asarray(Image.open(tmp_path / "alpha/a/0.png")))


# ---- images that cannot be read --------------------------------------------------------------------------------------


def test_bad_images_are_skipped_if_wanted_and_told(pets, tmp_path):
    sound = folder.load(pets, size=(16, 16), channels=3)
    (pets / "cat" / "1.jpg").write_bytes(b"")
    (pets / "dog" / "0.png").write_bytes((pets / "dog" / "0.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"1\.jpg"):
        folder.load(pets, size=(16, 16), channels=3)
    for _ in range(2):  # decoded, then from the cache
        parts = folder.load(pets, size=(16, 16), channels=3, skip_bad=True)
        assert parts.train.labels.tolist() == [0] * 3 + [1] * 3
        np.testing.assert_array_equal(parts.train.images, sound.train.images[[0, 2, 3, 5, 6, 7]])
        assert all(
            str(pets / name) in line for name, line in zip(("cat/1.jpg", "dog/0.png"), parts.skipped, strict=True)
        )
    with pytest.raises(DataError, match=r"1\.jpg"):  # the cache forgives nothing
        folder.load(pets, size=(16, 16), channels=3)
    assert sound.skipped == ()


def test_bad_images_do_not_choose_the_size(pets):
    (pets / "cat" / "0.png").write_bytes(b"no image")
    assert folder.load(pets, skip_bad=True).train.input_shape == (40, 40, 3)


def test_a_class_of_which_nothing_is_left(pets):
    for file in (pets / "dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="No training image of class 'dog' can be read"):
        folder.load(pets, skip_bad=True)
    for file in (pets / "cat").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="Of 8 images looked at none can be read"):
        folder.load(pets, skip_bad=True)


@pytest.mark.parametrize("channels", [-1, 0, 2, 5])
def test_channels_that_no_image_has_are_refused(pets, channels):
    with pytest.raises(UsageError, match=f"cannot be given {channels} channels: choose 1"):
        folder.load(pets, channels=channels)
