"""The walk-through: runs from top to bottom, comes to what its words say, and is committed as it ran.

After a change, `make notebook` runs it again and writes it with its outputs; look at them.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest
from kernel import executed, text

PATH = Path(__file__).parents[2] / "notebooks" / "densenet.ipynb"


def by_name(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    return {cell.id: cell for cell in notebook.cells}


def check(notebook: nbformat.NotebookNode) -> None:
    """What must come out of the cells, whatever machine they run on."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")  # no warnings
    cells = by_name(notebook)
    accuracy = re.fullmatch(r"test accuracy: ([\d.]+) %\n", text(cells["accuracy"]))
    assert accuracy is not None
    assert float(accuracy[1]) > 95
    assert "mean over pixels + bias = logit: True" in text(cells["cam"])
    assert "by hand the same: True" in text(cells["block"])
    assert "parameters: 67,258 by hand, 67,258 built\nsame outputs: True" in text(cells["by-hand"])
    assert text(cells["cifar"]) == "CIFAR-10 was left out.\n"
    assert "<svg" in cells["run"].outputs[0].data["text/html"]
    assert "dense block 2" in cells["show"].outputs[0].data["text/html"]
    kept = re.search(r"32 layers: (\d+) MiB against (\d+) MiB", text(cells["memory"]))
    assert kept is not None
    assert int(kept[1]) > 5 * int(kept[2])
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == 8


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DENSELY_CIFAR", raising=False)
    check(executed(nbformat.read(PATH, 4), tmp_path))


def test_it_is_committed_with_what_came_out() -> None:
    notebook = nbformat.read(PATH, 4)
    nbformat.validate(notebook)
    check(notebook)


def test_the_committed_file_is_small_and_names_no_machine() -> None:
    assert PATH.stat().st_size < 1_000_000
    notebook = nbformat.read(PATH, 4)
    told = []
    for cell in notebook.cells:
        assert "execution" not in cell.metadata  # times of day
        for output in cell.get("outputs", []):
            told.append(text(cell))
            told += [value for kind, value in output.get("data", {}).items() if kind != "image/png"]
    words = json.dumps([*told, *(cell.source for cell in notebook.cells)])
    assert re.search(r"/(tmp|home|root|work|Users|var|usr|opt)/|[A-Z]:\\\\", words) is None


def test_its_links_lead_to_its_headings() -> None:
    notebook = nbformat.read(PATH, 4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    headings = {line.removeprefix("## ").replace(" ", "-") for line in prose.splitlines() if line.startswith("## ")}
    links = set(re.findall(r"\]\(#([^)]*)\)", prose))
    assert links == headings
