"""Several runs on one page: what each reached, how each learned, and whether they really differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from densely import cost, runs
from densely.console import clock
from densely.errors import DataError, UsageError
from densely.files import write_whole
from densely.report import figures, page
from densely.runs import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 12
"""Runs on one page: more curves than that cannot be told apart."""


class Difference(NamedTuple):
    """What two runs say of the same images, one against the other.

    Attributes:
        one, other: their names.
        only_one, only_other: images that only the one, or only the other, got right.
        p_value: of the exact McNemar test: how likely a difference at least so uneven is between equally good networks.
    """

    one: str
    other: str
    only_one: int
    only_other: int
    p_value: float


def write(opened: Sequence[Run], out: Path) -> Path:
    """Write the page: what `densely compare RUN RUN…` does.

    Args:
        opened: two to twelve finished runs.
        out: the page; its figures go into a folder of its name, less the ending, with `-figures`.

    Raises:
        UsageError: for one run, more than twelve, or one that did not finish.
        DataError: if a run folder is damaged, or the page cannot be written.
    """
    if not 2 <= len(opened) <= MOST:
        raise UsageError(f"A comparison takes 2 to {MOST} runs, not {len(opened)}.")
    found = rows(opened)
    names = [row["name"] for row in found]
    drawn = {
        key: figures.finished(
            key, figures.overlaid(opened, names, key, label, scale), f"{label} of each run over the epochs"
        )
        for key, label, scale in (
            ("loss", "training loss (nats)", 1.0),
            ("val_loss", "held-out loss (nats)", 1.0),
            ("accuracy", "training accuracy (%)", 100.0),
            ("val_accuracy", "held-out accuracy (%)", 100.0),
        )
        if any(key in row for run in opened for row in run.history)
    }
    text = page.render(
        "compare.html.j2",
        title=f"{len(opened)} runs compared",
        rows=found,
        same_test=len({row["fingerprint"] for row in found}) == 1,
        differences=differences(opened, names),
        settings=settings(opened),
        names=names,
        figures=page.inlined(drawn),
    )
    for name, one in drawn.items():
        figures.write(one, out.with_name(f"{out.stem}-figures"), name)
    write_whole(out, lambda aside: aside.write_text(text, encoding="utf-8"))
    return out


def rows(opened: Sequence[Run]) -> list[dict[str, Any]]:
    """A row of the table for each run."""
    names = labels([run.folder for run in opened])
    return [_row(name, run) for name, run in zip(names, opened, strict=True)]


def labels(folders: Sequence[Path]) -> list[str]:
    """Names short enough for a legend and different from one another: as many last parts of each path as that takes."""
    whole = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, whole)) + 1):
        found = ["/".join(parts[-count:]) for parts in whole]
        if len(set(found)) == len(found):
            return found
    raise UsageError("The same run was given twice: a comparison takes different ones.")


def differences(opened: Sequence[Run], names: Sequence[str]) -> list[Difference]:
    """Every pair of runs that were scored on the same images, by the exact McNemar test.

    Runs of several labels an image, and runs of versions that kept no predictions, are left out.

    Args:
        opened: finished runs.
        names: what each is called.
    """
    from scipy.stats import binomtest

    known: list[tuple[str, str, NDArray[np.bool_]]] = []
    for run, name in zip(opened, names, strict=True):
        part = run.config.scored
        right = _right(run, part)
        if right is not None:
            known.append((name, runs.read_fingerprints(run.folder).get(part, ""), right))
    found = []
    for i, (one, first, right) in enumerate(known):
        for other, second, also_right in known[i + 1 :]:
            if first != second:
                continue
            a, b = int(np.count_nonzero(right & ~also_right)), int(np.count_nonzero(~right & also_right))
            p = float(binomtest(a, a + b).pvalue) if a + b else 1.0
            found.append(Difference(one, other, a, b, p))
    return found


def settings(opened: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """What the runs' configs differ in: the setting's name, and each run's value."""
    configs = [runs.flat(run.config.model_dump()) for run in opened]
    return [
        (key, ["" if config.get(key) is None else str(config.get(key)) for config in configs])
        for key in dict.fromkeys(key for config in configs for key in config)
        if len({str(config.get(key)) for config in configs}) > 1
    ]


def _row(name: str, run: Run) -> dict[str, Any]:
    part = run.config.scored
    metrics, history = run.metrics, run.history
    with runs.reading(run.folder / "metrics.json"):
        scores = metrics[part]
        multi = run.inputs.multi_label
        main = scores["mean_average_precision" if multi else "accuracy"]
        low, high = scores.get("exact_match_ci95" if multi else "accuracy_ci95", (None, None))
        return {
            "name": name,
            "fingerprint": runs.read_fingerprints(run.folder).get(part, ""),
            "data": f"{run.config.data_name}, {part}",
            "network": run.config.model,
            "parameters": cost.parameters(run.config.network),
            "epochs": len(history),
            "time": clock(sum(row.get("seconds", 0) for row in history)),
            "score": main,
            "low": low,
            "high": high,
            "kind": "mAP" if multi else "accuracy",
            "loss": scores["loss"],
            "ece": scores["ece"],
            "n": scores["n"],
        }


def _right(run: Run, part: str) -> NDArray[np.bool_] | None:
    """Which images of a part a run got right; `None` where that was not kept."""
    if run.inputs.multi_label or not (run.folder / "predictions.safetensors").is_file():
        return None
    found = run.predictions
    if f"{part}_labels" not in found:
        raise DataError(f"{run.folder / 'predictions.safetensors'} holds no labels of the {part} part.")
    return np.asarray(found[part].argmax(axis=1) == found[f"{part}_labels"])
