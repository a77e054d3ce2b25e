import os
import subprocess
import sys
from pathlib import Path

import pytest

from densely import data
from densely.errors import UsageError


def test_digits_by_name():
    assert data.load("digits").train.source == "digits/train"


def test_a_path_is_a_folder(pets, monkeypatch):
    assert data.load(pets).train.source == "pets/train"
    assert data.load(str(pets), size=(16, 16), channels=1).train.input_shape == (16, 16, 1)
    monkeypatch.chdir(pets.parent)
    assert len(data.load("pets").train) == 8


def test_a_name_wins_over_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(data.load("digits").train) == 1438


def test_unknown_names_and_paths():
    with pytest.raises(UsageError, match=r"no folder, CSV or data set named 'cifar1O': did you mean cifar10"):
        data.load("cifar1O")
    with pytest.raises(UsageError, match="no folder at"):
        data.load("./nowhere")


def test_a_folder_whose_name_is_nearly_right_is_offered(tmp_path, monkeypatch):
    (tmp_path / "Photos").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"'photo': did you mean Photos\?$"):
        data.load("photo")
    with pytest.raises(UsageError, match=r"no folder at photos2: did you mean Photos\?$"):
        data.load("./photos2")


@pytest.mark.parametrize("given", [{"size": (32, 32)}, {"channels": 1}])
def test_only_folders_are_resized(given):
    with pytest.raises(UsageError, match="digits has its own"):
        data.load("digits", **given)


def test_default_data_dir(monkeypatch):
    monkeypatch.setenv("DENSELY_DATA", "/somewhere")
    assert data.default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("DENSELY_DATA")
    assert data.default_data_dir() == Path("~/.cache/densely/data").expanduser()


def test_importing_brings_in_nothing_heavy():
    program = """
import sys, densely
before = set(sys.modules)
import densely.data
heavy = {"keras", "torch", "jax", "sklearn", "scipy", "PIL"} & (set(sys.modules) - before)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
