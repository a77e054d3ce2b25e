"""The card, as a hub and as a reader would take it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console

from densely.export import export
from densely.model_file import ModelFile
from densely.runs import Run
from densely.training.single import train


def front_matter(card: Path) -> dict[str, Any]:
    _, front, _ = card.read_text(encoding="utf-8").split("---\n", 2)
    return dict(yaml.safe_load(front))


def test_a_hub_finds_what_it_looks_for(digits: Run, tmp_path: Path) -> None:
    front = front_matter(export(digits, "keras", out=tmp_path).card)
    assert front["library_name"] == "keras"
    assert front["pipeline_tag"] == "image-classification"
    assert front["datasets"] == ["digits"]
    (result,) = front["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert result["metrics"][0]["value"] == pytest.approx(digits.accuracy, abs=1e-4)


def test_a_reader_finds_data_recipe_results_and_limits(digits: Run, tmp_path: Path) -> None:
    text = export(digits, "keras", out=tmp_path).card.read_text(encoding="utf-8")
    low, high = digits.metrics["test"]["accuracy_ci95"]
    for part in (
        f"{100 * digits.accuracy:.2f} % (95 % interval {100 * low:.2f} % to {100 * high:.2f} %), 359 images",
        f"| recipe | {digits.config.recipe.name}: 3 epochs",
        "| seed | 0 |",
        "## Limits",
        "(N, 8, 8, 1)",
        "on 359 test images, probabilities differ by at most",
    ):
        assert part in text, part
    assert sum(len(table.split("</tr>")) - 1 for table in tables(text)) >= 12


def test_a_temperature_that_may_do_harm_is_told(digits: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(digits.folder, copy)
    told = json.loads((copy / "metrics.json").read_text())
    told["test"]["calibration"]["temperature_ci95"] = [0.8, 1.3]
    (copy / "metrics.json").write_text(json.dumps(told))
    text = export(Run.open(copy), "keras", out=tmp_path / "out").card.read_text(encoding="utf-8")
    assert "too small to tell this temperature from 1 (95 % interval 0.80 to 1.30)" in text


def test_the_front_matter_has_names_as_they_are(several: Run, tmp_path: Path) -> None:
    """A folder's name may be anything."""
    config = several.config.model_copy(update={"data": "my_photos: *new*"})
    run = Run(several.folder, config, several.inputs)
    (result,) = front_matter(export(run, "keras", out=tmp_path).card)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "my_photos: *new*"
    assert "trained on my\\_photos: \\*new\\*" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_part_that_was_watched_is_not_called_unseen(runs_folder: Path, tmp_path: Path) -> None:
    tiny = {"model": "densenet-bc-16-8", "limit": 200, "epochs": 1, "console": Console(quiet=True)}
    run = train("digits", out=runs_folder / "tuned", tune=True, **tiny)
    text = export(run, "keras", out=tmp_path).card.read_text(encoding="utf-8")
    assert "validation part, watched during training" in text
    assert "scored once" not in text


def tables(text: str) -> list[str]:
    html = MarkdownIt("commonmark").enable("table").render(text)
    return [part.partition("</table>")[0] for part in html.split("<table>")[1:]]


def test_names_stay_names(several: Run, tmp_path: Path) -> None:
    card = export(several, "keras", out=tmp_path).card
    html = MarkdownIt("commonmark").enable("table").render(card.read_text(encoding="utf-8").split("---\n", 2)[2])
    assert "red &lt;b&gt;, green | co, blue sky" in html
    assert "<b>" not in html
    assert "accuracy of all yes-or-no answers" in html
    assert "datasets" not in front_matter(card)


def test_the_best_weights_do_not_borrow_the_final_ones_scores(digits: Run, tmp_path: Path) -> None:
    card = export(digits, "keras", out=tmp_path, weights="best").card
    assert "model-index" not in front_matter(card)
    assert "scores of the training are of its final weights" in card.read_text(encoding="utf-8")
    file = export(digits, "safetensors", out=tmp_path / "file", weights="best").path
    origin = ModelFile.open(file).header.origin
    assert "best validation accuracy" in origin
    assert "test accuracy" not in origin
