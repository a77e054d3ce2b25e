"""Which images a training uses, and that they are found again."""

import io
import json
from pathlib import Path

from PIL import Image
from rich.console import Console

from densely.training.parts import parts_of
from densely.training.preparation import prepare
from densely.training.single import train


def test_the_limit_is_on_all_images_of_a_small_set(cifar_dir: Path) -> None:
    options = {"data_dir": cifar_dir, "model": "densenet-bc-16-8", "limit": 100, "console": Console(quiet=True)}
    assert len(prepare("cifar10-50", **options).parts.train) == 100
    folded = prepare("cifar10-50", fold=(1, 5), **{**options, "limit": None}).parts
    assert (len(folded.train), len(folded.test)) == (400, 100)


def test_skipped_images_are_counted_told_and_listed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (32, 32), (10 * i, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    for i in range(12):
        (tmp_path / "photos" / "a" / f"bad-{i:02}.png").write_bytes(b"no image")
    console = Console(record=True, width=300, file=io.StringIO())
    run = train(
        tmp_path / "photos", skip_bad=True, out=tmp_path / "run", model="densenet-bc-16-8", epochs=1, console=console
    )
    text = console.export_text()
    assert "skipped, because they cannot be read: 12" in text
    assert "bad-09.png is not a PNG" in text
    assert "bad-10.png" not in text
    assert "… and 2 more" in text
    assert len(json.loads((run.folder / "splits.json").read_text())["skipped"]) == 12
    # A config remembers it, and what is read again is the same.
    assert run.config.skip_bad
    assert len(parts_of(run).train) == len(json.loads((run.folder / "splits.json").read_text())["train"])
