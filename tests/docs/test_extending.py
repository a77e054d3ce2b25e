"""The page that tells how to add something: what it adds is added to a copy of the package, and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def added(root: Path, block: str) -> None:
    """A file, or some lines where the first one says: in what opens with a bracket, or before something."""
    first, _, code = block.partition("\n")
    told = re.fullmatch(r"# (\S+?\.py)(?:, (in|before) (\w+))?", first)
    assert told is not None, first
    path, how, name = root / told[1], told[2], told[3]
    if how is None:
        assert not path.exists(), path
        path.write_text(code, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    imports = re.findall(r"^from .*\n", code, re.MULTILINE)
    rest = code.replace("".join(imports), "").lstrip("\n")
    [place] = re.findall(rf"^ *(?:\w+, )*{name}\b[^\n]*\{{$\n", text, re.MULTILINE)
    # In front of the comment that tells what it is.
    at = re.search(rf"(?:^#:.*\n)*{re.escape(place)}", text, re.MULTILINE)
    assert at is not None
    text = (
        text.replace(place, place + rest, 1) if how == "in" else f"{text[: at.start()]}{rest}\n\n{text[at.start() :]}"
    )
    last = re.findall(r"^from densely.*\n", text, re.MULTILINE)[-1] if imports else ""
    path.write_text(text.replace(last, last + "".join(imports), 1) if imports else text, encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for block in BLOCKS:
        if block.startswith("# src/"):
            added(root, block)
    return root


def densely(place: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "densely", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place / "src"), "DENSELY_REPORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_source_recipe_network_and_export_work_as_the_page_adds_them(place: Path) -> None:
    assert "densenet-bc-28-8" in densely(place, "models")
    assert "Every image as it is, and nothing else" in densely(place, "recipes")
    told = densely(place, "train", "stripes", "--recipe", "plain", "--model", "densenet-bc-28-8", "--epochs", "3")
    assert "stripes: 54 to train" in told
    assert "Test accuracy" in told
    told = densely(place, "export", "runs/stripes-1", "--format", "torchscript")
    assert "on 20 test images, probabilities differ by at most" in told
    folder = place / "runs" / "stripes-1" / "export" / "torchscript"
    assert (folder / "model.pt").is_file()
    # The card's lines run, and need no Densely.
    lines = re.search(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert lines is not None
    from PIL import Image

    lying = np.arange(8)[:, None] % 2 * np.full((8, 8), 160)
    Image.fromarray(lying.astype(np.uint8)).save(folder / "photo.png")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", lines[1]], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] in ("lying", "upright")


def test_the_kernel_of_the_page_counts_and_gives_the_same() -> None:
    [block] = [block for block in BLOCKS if not block.startswith("# src/")]
    found: dict[str, Any] = {}
    exec(block, found)
    np.testing.assert_allclose(found["y"].numpy(), found["expected"].numpy(), rtol=1e-4, atol=1e-5)
    assert found["engine"].counted == 2 * 8 * 8 * 9 * (16 + 20) * 4


def test_every_place_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w/.]+)`", PAGE)
    assert len(named) > 10
    for name in named:
        assert "NAME" in name or (ROOT / name).exists(), name
