"""The model card beside an export: `README.md`, with the front matter that model hubs read."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from densely import data
from densely.console import counted
from densely.cost import multiply_adds, parameters
from densely.errors import UsageError
from densely.evaluation.scorecard import doubtful_temperature, percent
from densely.export import usage
from densely.export.checking import Checked
from densely.export.description import Description
from densely.export.formats import FORMATS, Format
from densely.files import write_whole
from densely.model_file import ModelFile
from densely.runs import Run, Weights
from densely.version import __version__

FILE = "README.md"
MARK = "Written by densely export: the next one writes it anew."
SHOWN = 20
"""Class names, at most."""


def check_place(folder: Path) -> None:
    """Told before anything is computed: a folder that is none, or a README.md that is somebody else's.

    Raises:
        UsageError: for such a place.
    """
    card = folder / FILE
    try:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is no folder: choose another --out.")
        ours = not card.exists() or MARK in card.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be used: {error.strerror}; choose another --out.") from None
    if not ours:
        raise UsageError(f"{card} is not of an export, and would be lost: choose another --out.")


def origin(trained: Run | ModelFile, weights: Weights = "final") -> str:
    """Where weights are from, in a sentence without a full stop; a run's scores are of its final ones."""
    if isinstance(trained, ModelFile):
        return trained.header.origin.rstrip(".")
    config = trained.config
    of = "the weights of the best validation accuracy" if weights == "best" else ""
    told = [of] if of else [f"{name[0].lower()}{name[1:]} {value}" for name, value, _ in trained.scored()]
    return "; ".join([f"Trained on {config.data_name} by recipe {config.recipe.name}, seed {config.seed}", *told])


def write(
    path: Path,
    trained: Run | ModelFile,
    format: Format,
    name: str,
    file: Path,
    description: Description,
    checked: Checked,
    weights: Weights = "final",
) -> Path:
    """Write the card of an export, whole.

    Args:
        path: of the card.
        trained: what was exported.
        format: as in `export`.
        name: that the file will bear.
        file: where it is now.
        description: what is in it.
        checked: how it compares.
        weights: which of the run's; its scores are of the final ones.
    """
    environment = Environment(
        loader=PackageLoader("densely.export", ""), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["plain"] = plain
    environment.filters["yaml"] = lambda text: json.dumps(text, ensure_ascii=False)  # JSON is YAML too
    run = trained if isinstance(trained, Run) else None
    part, scores = _scores(run) if weights == "final" else ("test", None)
    names = trained.inputs.class_names
    text = environment.get_template("card.md.j2").render(
        library=FORMATS[format].library,
        dataset=run.config.data if run is not None and run.config.data in data.NAMES else None,
        data=None if run is None else run.config.data_name,
        name=trained.name,
        weights=weights,
        part=part,
        scores=scores,
        watched=run is not None and (run.config.tune or run.config.watches_test),
        doubt="" if scores is None else doubtful_temperature(scores),
        results=[] if scores is None else _results(scores),
        facts=_facts(trained, weights),
        classes=names,
        shown=[plain(name) for name in names[:SHOWN]],
        activation=trained.network.activation,
        views=trained.views.number,
        format=format,
        about=description,
        formula=usage.formula(description, "pixels"),
        usage=usage.lines(format, name, description),
        checked=checked.told(),
        file=name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        mark=MARK,
        version=__version__,
    )
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))
    return path


def plain(text: str) -> str:
    """Somebody's words in one line that Markdown leaves as they are."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _scores(run: Run | None) -> tuple[str, dict[str, Any] | None]:
    """The part that a run was scored on, and its scores."""
    if run is None or not (run.folder / "metrics.json").is_file():
        return "test", None
    return ("validation" if run.config.tune else "test"), run.metrics.get(run.config.scored)


def _results(scores: dict[str, Any]) -> list[tuple[str, str]]:
    n = counted(scores["n"], "image")
    if "exact_match" in scores:
        rows = [
            ("mean average precision", percent(scores["mean_average_precision"])),
            ("accuracy of all yes-or-no answers", f"{percent(scores['accuracy'])} ({n})"),
            ("every label right", _with_interval(scores, "exact_match")),
        ]
    else:
        rows = [
            ("accuracy", f"{_with_interval(scores, 'accuracy')}, {n}"),
            ("balanced accuracy", percent(scores["balanced_accuracy"])),
            ("macro F1", percent(scores["macro_f1"])),
        ]
    return [*rows, ("loss", f"{scores['loss']:.4f} nats"), ("expected calibration error", percent(scores["ece"]))]


def _with_interval(scores: dict[str, Any], name: str) -> str:
    if f"{name}_ci95" not in scores:  # which runs of earlier versions lack
        return percent(scores[name])
    low, high = scores[f"{name}_ci95"]
    return f"{percent(scores[name])} (95 % interval {percent(low)} to {percent(high)})"


def _facts(trained: Run | ModelFile, weights: Weights) -> list[tuple[str, str]]:
    network = trained.network
    height, width, channels = trained.inputs.input_shape
    macs = multiply_adds(network.model_copy(update={"input_shape": (height, width, channels)}))
    facts = [
        ("network", f"{plain(trained.name)}, {parameters(network):,} parameters, {macs / 1e6:,.0f} M multiply-adds"),
    ]
    if isinstance(trained, ModelFile):
        facts.append(("origin", plain(origin(trained)) or "unknown"))
    else:
        recipe = trained.config.recipe
        last = "after the last epoch" if weights == "final" else "of the best validation accuracy"
        facts += [
            ("data", plain(trained.config.data_name)),
            ("recipe", f"{recipe.name}: {counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, "
             f"{recipe.optimizer}, learning rate {recipe.learning_rate:g} ({recipe.schedule}); "
             "`config.toml` of the run has every setting"),
            ("seed", str(trained.config.seed)),
            ("weights", last),
        ]  # fmt: skip
    return facts
