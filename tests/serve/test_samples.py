"""The images that a page offers."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving import encoded

from densely.data import Dataset, load, read_image
from densely.errors import UsageError
from densely.serve import samples

RNG = np.random.default_rng(0)


def test_one_of_each_class_comes_first_and_the_pixels_are_the_test_images() -> None:
    test = load("digits").test
    found = samples.of_dataset(test, 12)
    assert [one.name for one in found] == [*"0123456789", "0", "1"]
    for one in found:
        pixels = read_image(io.BytesIO(one.data), (8, 8), 1)
        same = (test.images == pixels).all(axis=(1, 2, 3))
        assert one.name in {test.class_names[label] for label in test.labels[same]}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_channels_and_several_labels(channels: int) -> None:
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]], np.uint8)
    dataset = Dataset(RNG.integers(0, 256, (3, 9, 9, channels), dtype=np.uint8), labels, ("a", "b", "c"), "x/test")
    found = samples.of_dataset(dataset)
    assert sorted(one.name for one in found) == ["a, c", "b", "none"]
    with Image.open(io.BytesIO(found[0].data)) as image:
        assert image.mode == {1: "L", 2: "L", 3: "RGB", 4: "RGBA"}[channels]


def test_large_ones_are_made_smaller_and_handed_over_whole(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (2, 600, 1200, 3), dtype=np.uint8)
    found = samples.of_dataset(Dataset(images, np.array([0, 1]), ("a", "b"), "x/test"))
    with Image.open(io.BytesIO(found[0].data)) as image:
        assert image.size == (512, 256)
    samples.write(tmp_path / "there", found)
    assert samples.read(tmp_path / "there") == found
    assert samples.read(tmp_path / "nowhere") == []


def test_a_folder_s_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, kind in (("b.JPG", "JPEG"), ("a.png", "PNG"), ("c.webp", "WEBP")):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (9, 9)), kind))
    (tmp_path / "notes.txt").write_text("x")
    found = samples.of_folder(tmp_path)
    assert [(one.name, one.kind) for one in found] == [("a", "image/png"), ("b", "image/jpeg"), ("c", "image/webp")]
    assert found[0].data == (tmp_path / "a.png").read_bytes()
    with pytest.raises(UsageError, match="There is no folder"):
        samples.of_folder(tmp_path / "nothing")
