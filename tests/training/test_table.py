"""A table of several labels an image, from the CSV to scores and predictions, in Python and on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from rich.console import Console
from typer.testing import CliRunner

import densely
from densely.cli import app
from densely.errors import DenselyError
from densely.prediction import predict
from densely.runs import Run
from densely.training.parts import parts_of

CLASSES = ("large", "red")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of two sizes and colours on a dark ground: each label is there or not, whatever the other is."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    lines = ["file;labels"]
    for i in range(80):
        large, red = i % 2, i // 2 % 2
        side = 11 if large else 5
        left, top = rng.integers(1, 15 - side, 2).tolist()
        image = Image.new("RGB", (16, 16), (20, 20, 20))
        ImageDraw.Draw(image).rectangle((left, top, left + side, top + side), fill="red" if red else "blue")
        image.save(folder / f"{i}.png")
        lines.append(f"{i}.png;{'|'.join(name for name, on in zip(CLASSES, (large, red), strict=True) if on)}")
    path = folder / "labels.csv"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module", autouse=True)
def own_cache(table: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSELY_CACHE", str(table.parent / "cache"))
        yield


@pytest.fixture(scope="module")
def run(table: Path, own_cache: None) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(table.parent)
        return densely.train(
            "labels.csv",
            model="densenet-bc-16-8",
            size=(16, 16),
            epochs=8,
            batch_size=8,
            flip=False,
            shift=0,
            out=table.parent / "run",
            console=Console(quiet=True),
        )


def command(verb: str, run: Run, *words: object) -> str:
    done = CliRunner().invoke(app, [verb, str(run.folder), *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_learns_each_label_by_itself(run: Run) -> None:
    assert run.inputs.class_names == CLASSES
    assert run.inputs.multi_label
    assert run.config.network.activation == "sigmoid"
    assert run.metrics["test"]["n"] == 16
    assert run.accuracy > 0.85  # of single answers; always the likelier one: 0.5


def test_every_part_has_its_share_of_every_label(run: Run, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")  # the config holds the whole path
    parts = parts_of(run)
    assert run.config.data == str(table.resolve())
    assert parts.test.class_counts().tolist() == [8, 8]
    assert np.abs(parts.val.class_counts() - 3).max() <= 1  # of 6 images


def test_evaluate_gives_the_same_score(run: Run) -> None:
    found = json.loads(command("evaluate", run, "--json"))
    scores = {name: score for name, score in run.metrics["test"].items() if isinstance(score, float)}
    assert {name: found[name] for name in scores} == pytest.approx(scores)
    assert found["per_class"].keys() == run.metrics["test"]["per_class"].keys()


def test_predict_gives_each_label_a_probability_of_its_own(run: Run, table: Path) -> None:
    files = [table.parent / f"{i}.png" for i in range(4)]  # neither, large, red, both
    found = [{guess.label: guess.probability for guess in guesses} for guesses in predict(run, list(files))]
    sums = [sum(guesses.values()) for guesses in found]
    assert sums[0] < 1 < sums[3]
    [row] = json.loads(command("predict", run, files[3], "--json"))
    assert {guess["class"]: guess["probability"] for guess in row["top"]} == pytest.approx(found[3], abs=1e-5)


def test_a_changed_table_is_noticed(run: Run, table: Path) -> None:
    before = table.read_text()
    table.write_text(before.replace("\n3.png;large|red", "\n3.png;red"))
    try:
        with pytest.raises(DenselyError, match="changed since"):
            parts_of(run)
    finally:
        table.write_text(before)
