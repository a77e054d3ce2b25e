"""`densely convert`, as a user runs it, and what it refuses before it reads anything."""

from pathlib import Path

import pytest
import torch
from conversion.keras2_files import network, save, trained
from conversion.torch_files import densenet
from processes import Done
from processes import densely as command

import densely
from densely import conversion
from densely.errors import UsageError
from densely.model_file import ModelFile


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save(trained(network(depth=10, growth_rate=4, filters=8, classes=3)), folder / "w.h5")
    tiny = densenet(classes=2, growth_rate=4, block_config=(1, 1, 1, 1), num_init_features=8)
    torch.save(tiny.state_dict(), folder / "w.pth")
    return folder


def run(*words: object, cwd: Path) -> Done:
    return command(*words, cwd=cwd, COLUMNS="150")


def test_the_command_writes_a_model_file_into_the_current_folder(place: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a cat\n\n dog \nlièvre\n", encoding="utf-8")
    done = run("convert", place / "w.h5", "--classes", "names.txt", "--size", "24x40", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Model          w.safetensors"
    assert "3 classes, 24×40×3" in done.stdout
    found = ModelFile.open(tmp_path / "w.safetensors")
    assert found.inputs.class_names == ("a cat", "dog", "lièvre")
    assert found.inputs.input_shape == (24, 40, 3)
    before = (tmp_path / "w.safetensors").read_bytes()

    again = run("convert", place / "w.h5", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert "w.safetensors exists already" in again.stderr
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_names_with_commas_between_them_or_in_a_file_of_windows(tmp_path: Path) -> None:
    assert conversion.read_classes("cat, dog,fox ") == ("cat", "dog", "fox")
    (tmp_path / "notepad.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert conversion.read_classes(str(tmp_path / "notepad.txt")) == ("cat", "dog")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "nowhere.h5"}, "no file of weights nowhere.h5"),
        ({"weights": "."}, "no file of weights"),
        ({"weights": "notes.txt"}, "notes.txt is no file of weights that can be converted"),
        ({"out": "m.h5"}, "must end in .safetensors, not 'm.h5'"),
        ({"out": "nowhere/m.safetensors"}, "no folder nowhere"),
        ({"out": "there.safetensors"}, "there.safetensors exists already"),
        ({"classes": ["a", "b"]}, "The network has 3 classes, and 2 names were given"),
        ({"classes": ["a", "b", "a"]}, "Two classes are called 'a'"),
        ({"classes": ["a", " ", "c"]}, "Class name 2, ' ', is empty"),
        ({"classes": ["a", "b\nc", "c"]}, "cannot be printed"),
        ({"size": (3, 32)}, "too small"),
    ],
)
def test_wrong_use_is_told_and_nothing_is_written(
    options: dict, words: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("these are notes")
    Path("there.safetensors").write_text("something else")
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UsageError) as told:
        densely.convert(**{"weights": place / "w.h5", **options})
    assert words in str(told.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_of_names_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(UsageError, match=r"There is no file .*names with a class name a line"):
        conversion.read_classes(str(tmp_path / "names"))


def test_what_is_converted_predicts(place: Path, tmp_path: Path) -> None:
    found = densely.convert(place / "w.pth", tmp_path / "m.safetensors", classes=["no", "yes"], size=(32, 32))
    from PIL import Image

    Image.new("RGB", (50, 40), "red").save(tmp_path / "x.png")
    done = run("predict", found.path, "x.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "yes" in done.stdout
