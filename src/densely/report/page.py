"""The report as one page that needs no other file: what was found, in words, figures and images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from densely import data, runs, show
from densely.console import clock, counted
from densely.data import Dataset
from densely.evaluation import scorecard
from densely.evaluation.scorecard import percent
from densely.report import figures, images
from densely.report.gathering import EXAMPLES, Findings, Shown
from densely.report.suspects import thumbnail_shape
from densely.runs import Run
from densely.version import __version__

GRID, VARIANTS = 160, 7
"""About so many images of the data are shown in all; of an augmented one so many variants."""

SECTIONS = (
    ("verdict", "Verdict"), ("learning", "Learning"), ("confusions", "Confusions"), ("mistakes", "Mistakes"),
    ("looks", "What it looks at"), ("trust", "Trust"), ("second", "Second look"), ("network", "Network"),
    ("data", "Data"), ("repeat", "Repeat"),
)  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A page from one of this package's templates, with its style and script; what is no markup is escaped."""
    environment = Environment(loader=PackageLoader("densely.report", ""), autoescape=True, undefined=StrictUndefined)
    beside = Path(__file__).parent
    style, script = (Markup((beside / name).read_text(encoding="utf-8")) for name in ("style.css", "page.js"))
    return environment.get_template(template).render(style=style, script=script, version=__version__, **values)


def draw_all(findings: Findings) -> dict[str, figures.Drawn]:
    """Every figure of a report by its name."""
    run, scores = findings.run, findings.scores
    last = findings.history[-1] if findings.history else {}
    drawn = {
        "loss": (figures.loss(run), _curve("Loss", last, "loss", 1, "", run.config.watched)),
        "accuracy": (figures.accuracy(run), _curve("Accuracy", last, "accuracy", 100, " %", run.config.watched)),
        "learning_rate": (figures.learning_rate(run), "Learning rate over the epochs"),
        "per_class": (figures.per_class(findings), "A bar for each class, the worst first; the table below has all"),
        "reliability": (
            figures.reliability(findings),
            f"Reliability diagram: share of right answers by confidence; expected calibration error "
            f"{100 * scores['ece']:.1f} %",
        ),
        "network": (figures.network(run), f"The stages of {run.config.model} with the sizes of their maps"),
        "balance": (figures.balance(findings), "Images of each class in the training, validation and test part"),
    }
    if "confusion_matrix" in scores:
        drawn["confusion"] = (figures.confusion(findings), "Confusion matrix: rows the truth, columns the answer")
    for number, values in enumerate(findings.reuse, start=1):
        drawn[f"reuse_{number}"] = (
            figures.reuse(values, number, number == len(findings.reuse)),
            f"Mean absolute weight from every source to every reader in dense block {number}",
        )
    return {name: figures.finished(name, figure, alt) for name, (figure, alt) in drawn.items()}


def page(findings: Findings, drawn: Mapping[str, figures.Drawn]) -> str:
    """The whole page.

    Args:
        findings: what to tell.
        drawn: from `draw_all`.
    """
    run, config = findings.run, findings.run.config
    train, held_out = findings.parts.train, findings.held_out
    part = "test" if findings.part == "test" else "validation"
    order, history = runs.HistoryFile.columns, findings.history
    mistakes = [_card(one, held_out.multi_label) for one in findings.mistakes]
    calibration = findings.scores.get("calibration")
    return render(
        "report.html.j2",
        title=f"{config.model} on {config.data_name}",
        subtitle=f"{run.folder.name} · recipe {config.recipe.name} · seed {config.seed} · {_started(run)}",
        sections=SECTIONS,
        figures=inlined(drawn),
        multi_label=held_out.multi_label,
        many=train.classes > figures.NUMBERED,
        train_classes=train.classes,
        part_name=part,
        **_verdict(findings, part),
        words=_words(findings, part),
        history={
            "columns": [name.replace("val_", f"{run.config.watched} ").replace("_", " ") for name in order],
            "rows": [[_cell(name, row.get(name)) for name in order] for row in history],
        },
        confused=scorecard.mistakes(findings.scores)[:8],
        classes=_classes(findings.scores),
        mistakes=mistakes,
        mistake_classes=sorted({name for card in mistakes for name in card["classes"]}),
        examples=[_card(one, held_out.multi_label, example=True) for one in findings.examples],
        doubtful=[_card(one, held_out.multi_label) for one in findings.doubtful],
        twins=[_card(one, held_out.multi_label, example=True) for one in findings.twins],
        calibration=calibration,
        trust=_trust(findings.scores),
        reuse=[name for name in drawn if name.startswith("reuse_")],
        hard=images.is_small(train.images[0]),
        augmented=_augmented(findings),
        grid=_grid(train),
        command=_command(run),
        config=tomli_w.dumps(config.model_dump(exclude_none=True, mode="json")),
        environment=_environment(run),
    )


def inlined(drawn: Mapping[str, figures.Drawn]) -> dict[str, dict[str, Any]]:
    """Figures as the templates take them."""
    return {name: {"svg": Markup(figures.inline(one)), "alt": one.alt} for name, one in drawn.items()}


def _verdict(findings: Findings, part: str) -> dict[str, Any]:
    run, scores = findings.run, findings.scores
    main = "mean_average_precision" if findings.held_out.multi_label else "accuracy"
    value = scores[main]
    images_scored = counted(scores["n"], f"{part} image")
    if main == "accuracy":
        low, high = scores["accuracy_ci95"]
        of = (
            f"of {images_scored} named right; 95 % interval {100 * low:.1f} to {100 * high:.1f} %. "
            f"{findings.wrong:,} wrong."
        )
        bars = [{"name": "this network", "value": value}]
        if findings.paper is not None:
            source = "the old notebook" if run.config.model == "notebook" else "the paper"
            bars.append({"name": f"{source} ({findings.paper[0]}, one run)", "value": findings.paper[1]})
        nearest = f"the nearest {_thumbnail(findings.parts.train)} thumbnail's class"
        bars.append({"name": nearest, "value": findings.nearest})
        bars.append({"name": "always the most frequent class", "value": findings.chance})
    else:
        of = f"mean average precision of {counted(len(run.inputs.class_names), 'label')} on {images_scored}"
        bars = [
            {"name": "mean average precision", "value": value},
            {"name": "yes-or-no answers right", "value": scores["accuracy"]},
            {"name": "images with every answer right", "value": scores["exact_match"]},
        ]
    seconds = sum(row.get("seconds", 0) for row in findings.history)
    facts = [
        ("network", run.config.model),
        ("parameters", f"{findings.parameters:,}"),
        ("trained on", counted(len(findings.parts.train), "image")),
        ("epochs", f"{len(findings.history)} in {clock(seconds)}"),
        ("loss", f"{scores['loss']:.4f} nats"),
        ("calibration error", f"{100 * scores['ece']:.1f} %"),
    ]
    if scores.get("balanced_accuracy") is not None:
        facts.insert(4, ("balanced accuracy", f"{100 * scores['balanced_accuracy']:.2f} %"))
    if "top5_accuracy" in scores:
        facts.insert(4, ("top-5 accuracy", f"{100 * scores['top5_accuracy']:.2f} %"))
    warning = ""
    if run.config.watches_test:
        warning = "The test part was watched during training, as this recipe does: the score is no honest one."
    elif run.config.tune:
        warning = "Held-out training images were scored, to choose settings by; the test part was left alone."
    return {
        "score": percent(value),
        "of_what": of,
        "bars": [bar for bar in bars if bar["value"] is not None],
        "facts": facts,
        "warning": warning,
    }


def _words(findings: Findings, part: str) -> dict[str, str]:
    run, scores, train = findings.run, findings.scores, findings.parts.train
    recipe = run.config.recipe
    images_scored = counted(scores["n"], f"{part} image")
    best = ""
    watched = [row for row in findings.history if "val_accuracy" in row]
    if watched:
        # As the conductor ranks them.
        row = max(watched, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
        best = (
            f" The best {run.config.watched} accuracy was {percent(row['val_accuracy'])}, in epoch {row['epoch']:.0f}."
        )
    epochs = len(findings.history)
    ended = f"The last of {epochs} epochs is scored." if epochs > 1 else "There was one epoch."
    if recipe.early_stop is not None:
        ended = f"The epoch that was best on the {run.config.watched} part is scored."
    if recipe.ema:
        ended += " Scored are the averaged weights."
    which = "each class" if train.classes <= EXAMPLES else f"the first {EXAMPLES} classes"
    matrix = (
        "Rows are the truth, columns the answer; blue is right, red a mistake, the stronger the more frequent."
        if train.classes <= figures.NUMBERED
        else "Rows are the truth, columns the answer; blue is right, red a mistake. Classes that are taken for one "
        "another stand together. Scroll to read the names."
    )
    temperature = scores.get("calibration", {}).get("temperature")
    trust = (
        "A network that says 90 % should be right nine times in ten: then the points lie on the dotted line; below it, "
        "it is too sure of itself."
    )
    if temperature is not None:
        trust += (
            f" A temperature of {temperature:.2f}, fitted on the validation part, divides every logit: no answer "
            f"changes, only how sure it is said to be. {scorecard.doubtful_temperature(scores)}"
        )
    return {
        "learning": ended + best,
        "confusions": f"Of {images_scored}. "
        + ("A label is seen where its probability is one half or more." if train.multi_label else matrix),
        "mistakes": f"{_of_all(len(findings.mistakes), findings.wrong)} Colour marks what "
        "speaks for its answer: yellow the most, clear the least. Choose one to see it large; the arrow keys lead on.",
        "no_mistakes": f"There are none: every one of the {scores['n']:,} {part} images was named right.",
        "looks": f"Of {which} the image it was surest of, with the exact class activation map: the last maps, "
        "weighted as the classifier weighs them; their mean is the class's logit. No gradient, no approximation.",
        "trust": trust,
        "second": "Candidates for a person to judge, the likeliest first. Nothing here is proof, and nothing was "
        "changed by it.",
        "doubtful": f"{part.capitalize()} images of which the network is sure that they are something else, and whose "
        "nearest neighbours in its features carry that other label too.",
        "no_doubtful": "None: no image is held to be of another class both by the network and by its neighbours.",
        "twins": f"Pairs whose {_thumbnail(train)} thumbnails, or mirror images, are nearly equal: "
        f"{findings.twin_count:,} of {scores['n']:,}. If they are the same picture, the score may be too good, by so "
        "much at most. "
        "Pictures with little in them (a plane in the sky) can look alike without being so.",
        "no_twins": f"None: no {part} image has a {_thumbnail(train)} thumbnail nearly equal to a training image's.",
        "network": f"{run.config.model}: {findings.parameters:,} trained parameters. Every layer of a dense block "
        "reads the maps of all layers before it, and of the block's input.",
        "reuse": "The mean absolute weight from each source to each reader, as in the paper's Figure 5: red, much "
        "used; blue, little. A column is a layer, its last one what follows the block.",
        "data": f"{run.config.data_name}: {len(train):,} images to train"
        + "".join(
            f", {len(dataset):,} to {word}"
            for word, dataset in (("validate", findings.parts.val), ("test", findings.parts.test))
            if dataset is not None
        )
        + f"; {train.classes} {'labels' if train.multi_label else 'classes'}, "
        + "×".join(map(str, train.input_shape))
        + ".",
        "augmentation": "Every image as it is."
        if show.describe(recipe) == show.AS_IT_IS
        else f"The image as it is, then as it was trained on: {show.describe(recipe)}.",
        "repeat": _repeats(run),
    }


def _of_all(shown: int, wrong: int) -> str:
    """Which of the mistakes are shown."""
    return f"All {wrong:,}, the surest first." if shown == wrong else f"The {shown} it was surest of, of {wrong:,}."


def _card(one: Shown, multi_label: bool, example: bool = False) -> dict[str, Any]:
    """One image of a gallery."""
    truth, guess = ", ".join(one.truth) or "nothing", ", ".join(one.guess) or "nothing"
    sure = f"{100 * one.of_share:.0f}\u00a0%"
    right = set(one.truth) == set(one.guess)
    lines: list[dict[str, str] | None]
    if example:
        lines = [{"kind": "", "text": f"{one.of} {sure}"}, {"kind": "faint", "text": one.note} if one.note else None]
    else:
        lines = [
            {"kind": "good" if right else "bad", "text": f"{guess} {'' if multi_label else sure}"},
            {"kind": "", "text": f"is {truth}"},
            {"kind": "faint", "text": one.note} if one.note else None,
        ]
    return {
        "image": images.address(one.image),
        "hard": images.is_small(one.image),
        "heat": images.heat(one.heat),
        "beside": None if one.beside is None else images.address(one.beside),
        "alt": f"image {one.index}: {truth}; the network says {guess}",
        "lines": lines,
        "classes": sorted({*one.truth, *one.guess}),
        "told": {
            "title": truth if right else f"{guess}, but it is {truth}",
            "note": f"image {one.index} of its part" + (f"; {one.note}" if one.note else ""),
            "of": one.of,
            "top": [(name, round(float(p), 4)) for name, p in one.top],
        },
    }


def _classes(scores: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"precision": "precision", "recall": "recall", "f1": "F1", "average_precision": "average precision"}
    present = [key for key in columns if key in next(iter(scores["per_class"].values()))]
    rows = [
        (name, [percent(row[key]) for key in present] + [f"{row['support']:,}"])
        for name, row in scores["per_class"].items()
    ]
    return {"columns": [*(columns[key] for key in present), "images"], "rows": rows}


def _trust(scores: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    after = scores.get("calibration")
    return [
        (
            "expected calibration error",
            percent(scores["ece"]),
            percent(after["ece_after"]) if after else "",
        ),
        ("loss (nats)", f"{scores['loss']:.4f}", f"{after['loss_after']:.4f}" if after else ""),
    ]


def _augmented(findings: Findings) -> list[dict[str, Any]]:
    """A few training images, each as it is and as training saw it."""
    train, recipe, seed = findings.parts.train, findings.run.config.recipe, findings.run.config.seed
    if show.describe(recipe) == show.AS_IT_IS:
        return []
    classes, shown = show.one_a_class(train, 6, seed)
    seen = [
        show.seen_in_training(shown, findings.run.preprocessing, recipe, seed, epoch)[0] for epoch in range(VARIANTS)
    ]
    return [
        {
            "name": train.class_names[label],
            "images": [images.address(shown.images[row]), *(images.address(found[row]) for found in seen)],
        }
        for row, label in enumerate(classes)
    ]


def _grid(train: Dataset) -> list[dict[str, Any]]:
    each = max(1, min(10, GRID // train.classes))
    rng = np.random.default_rng(0)
    carries = train.carries()
    rows = []
    for label in range(min(train.classes, GRID)):
        chosen = rng.permutation(np.flatnonzero(carries[:, label]))[:each]
        rows.append({"name": train.class_names[label], "images": [images.address(train.images[i]) for i in chosen]})
    return rows


def _command(run: Run) -> str:
    """The command that made the run, and the one that makes it again from its config."""
    argv = _environment_of(run).get("command")
    made = ""
    if isinstance(argv, list) and argv and Path(str(argv[0])).stem in ("densely", "__main__"):
        made = shlex.join(["densely", *map(str, argv[1:])]) + "\n"
    if run.config.data not in data.NAMES and run.config.size is None:
        config = str(run.folder / "config.toml")
        return f"densely.train(data, config={config!r})  # in Python, where its data came from"
    return f"{made}densely train --config {shlex.quote(str(run.folder / 'config.toml'))}"


def _environment(run: Run) -> list[tuple[str, str]]:
    found = _environment_of(run)
    flat: list[tuple[str, str]] = []
    for name, value in found.items():
        if isinstance(value, dict):
            flat += [(key, str(inner)) for key, inner in value.items() if inner is not None]
        elif name not in ("command", "resumed") and value is not None:
            flat.append((name.replace("_", " "), str(value)))
    if isinstance(found.get("resumed"), list) and found["resumed"]:
        flat.append(("gone on after a break", counted(len(found["resumed"]), "time")))
    return flat


def _environment_of(run: Run) -> dict[str, Any]:
    """`environment.json`; nothing of it where somebody put something else there."""
    found = runs.read_json(run.folder / "environment.json")
    return found if isinstance(found, dict) else {}


def _started(run: Run) -> str:
    return str(_environment_of(run).get("started", ""))[:10]


def _thumbnail(train: Dataset) -> str:
    return "×".join(map(str, thumbnail_shape(*train.input_shape[:2])))


def _repeats(run: Run) -> str:
    """How exactly the command gives the same again."""
    machine = _environment_of(run).get("machine")
    gpu = machine.get("gpu") if isinstance(machine, dict) else None
    if gpu and not run.config.deterministic:
        return "On a GPU the same command gives the same but for rounding; with --deterministic, the same bits."
    return "The same command on the same machine with the same number of threads and versions gives the same bits."


def _curve(name: str, last: Mapping[str, float], key: str, scale: float, unit: str, watched: str) -> str:
    ends = [
        f"{words} {scale * last[k]:.4g}{unit}" for k, words in ((key, "training"), (f"val_{key}", watched)) if k in last
    ]
    return f"{name} over the epochs; at the end {', '.join(ends)}" if ends else f"{name} over the epochs"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "epoch":
        return f"{value:.0f}"
    if name.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    return f"{value:.3g}" if name == "learning_rate" else f"{value:.4f}" if "loss" in name else f"{value:.1f}"
