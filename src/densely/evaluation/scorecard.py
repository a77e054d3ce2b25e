"""What `densely evaluate` prints of the scores: the whole first, then each class, then what was taken for what."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from densely.console import counted, tell

#: At most so many classes and confusions are shown; `--json` has them all.
CLASSES, CONFUSIONS = 20, 5


def show(scores: Mapping[str, Any], console: Console) -> None:
    """Print scores.

    Args:
        scores: what `densely.evaluation.scores` gives, with or without its `calibration`.
        console: where to.
    """
    if "exact_match" in scores:
        rows, worst_by, title = _several_labels(scores), "average_precision", "Most missed and most invented"
    else:
        rows, worst_by, title = _one_label(scores), "recall", "Most frequent confusions"

    whole = Table("score", "value", "")
    whole.columns[1].justify = "right"
    for row in (*rows, *_calibration(scores)):
        whole.add_row(*row)
    console.print(whole)
    if doubt := doubtful_temperature(scores):
        tell(console, doubt, style="yellow")
    console.print(_classes(scores["per_class"], worst_by))
    found = mistakes(scores)
    if found:
        console.print(f"{title}:")
    for count, what in found[:CONFUSIONS]:
        tell(console, f"  {what}: {count:,}")


def mistakes(scores: Mapping[str, Any]) -> list[tuple[int, str]]:
    """What was taken for what, or of several labels what was missed and what invented: (count, words), most first."""
    found = _wrong_answers(scores) if "exact_match" in scores else _confusions(scores)
    return sorted(found, key=lambda mistake: -mistake[0])


def doubtful_temperature(scores: Mapping[str, Any]) -> str:
    """What has to be said of a temperature that may as well do harm, in a sentence; empty where there is none such."""
    # Runs of earlier versions lack the interval.
    low, high = scores.get("calibration", {}).get("temperature_ci95", (0.0, 0.0))
    if not low <= 1 <= high:
        return ""
    return (
        f"The validation part is too small to tell this temperature from 1 (95 % interval {low:.2f} to {high:.2f}): on "
        "other images it may do harm."
    )


def _one_label(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield "accuracy", percent(scores["accuracy"]), _interval(scores["accuracy_ci95"], scores["n"])
    yield "balanced accuracy", percent(scores["balanced_accuracy"]), "mean recall of the classes"
    yield "macro F1", percent(scores["macro_f1"]), "mean F1 of the classes"
    if "top5_accuracy" in scores:
        yield "top-5 accuracy", percent(scores["top5_accuracy"]), ""
    yield "loss", f"{scores['loss']:.4f}", "nats"


def _several_labels(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield "mean average precision", percent(scores["mean_average_precision"]), "of the classes"
    yield "macro ROC AUC", percent(scores["macro_roc_auc"]), "mean of the classes"
    yield "accuracy", percent(scores["accuracy"]), "of all yes-or-no answers"
    yield "exact match", percent(scores["exact_match"]), _interval(scores["exact_match_ci95"], scores["n"])
    yield "micro F1", percent(scores["micro_f1"]), "of all answers together"
    yield "macro F1", percent(scores["macro_f1"]), "mean F1 of the classes"
    yield "loss", f"{scores['loss']:.4f}", "nats an answer"


def _calibration(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    yield "ECE", percent(scores["ece"]), "expected calibration error"
    if "calibration" in scores:
        scaled = scores["calibration"]
        yield "temperature", f"{scaled['temperature']:.3f}", f"fitted on {scaled['fitted_on']}; with it"
        yield "  loss", f"{scaled['loss_after']:.4f}", ""
        yield "  ECE", percent(scaled["ece_after"]), ""


def _classes(per_class: Mapping[str, Mapping[str, Any]], worst_by: str) -> Table:
    """The worst classes first; those without a score, having no images, last."""

    def rank(name: str) -> tuple[bool, float]:
        score = per_class[name][worst_by]
        return score is None, score or 0.0

    columns = {"recall": "recall", "precision": "precision", "f1": "F1"}
    if worst_by == "average_precision":
        columns["average_precision"] = "average precision"
    shown = sorted(per_class, key=rank)[:CLASSES]
    more = len(per_class) - len(shown)
    table = Table(
        "class",
        *columns.values(),
        "images",
        caption=f"… and {counted(more, 'more class')}; --json has all." if more else None,
        caption_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name in shown:
        row = per_class[name]
        # A name is the user's and may look like Rich's markup.
        table.add_row(Text(name), *(percent(row[column]) for column in columns), f"{row['support']:,}")
    return table


def _confusions(scores: Mapping[str, Any]) -> list[tuple[int, str]]:
    names = list(scores["per_class"])
    return [
        (count, f"{names[truth]} taken for {names[guess]}")
        for truth, row in enumerate(scores["confusion_matrix"])
        for guess, count in enumerate(row)
        if count and truth != guess
    ]


def _wrong_answers(scores: Mapping[str, Any]) -> list[tuple[int, str]]:
    return [
        (row[count], f"{name} {what}")
        for name, row in scores["per_class"].items()
        for count, what in (("false_negatives", "missed"), ("false_positives", "seen where there is none"))
        if row[count]
    ]


def _interval(interval: tuple[float, float], n: int) -> str:
    low, high = interval
    return f"95 % interval {100 * low:.1f} to {100 * high:.1f} %, {counted(n, 'image')}"


def percent(value: float | None) -> str:
    """A fraction in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.2f} %"
