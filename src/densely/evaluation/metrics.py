"""Scores from predictions. Nothing here trains; a data set goes in, fractions come out, as plain JSON values.

A class without an image in the scored part has no recall, so it says nothing of the network: its scores are `None`,
and means over classes leave it out. (An image that was mistaken for it still counts against its own class.)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from densely.data import Dataset, Preprocessing
from densely.errors import DenselyError, UsageError
from densely.evaluation import calibration
from densely.evaluation.views import ONE_VIEW, YES, Views, probabilities

if TYPE_CHECKING:
    import keras


def scores(probabilities: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    """Scores of predictions against the labels of a data set.

    Args:
        probabilities: `(N, classes)`.
        dataset: the N images they belong to.

    Returns:
        Fractions, not percent; `None` where a score is not defined. In both cases `n`, `accuracy`, `loss` (mean
        negative log-likelihood in nats), `macro_f1`, `ece` and `reliability` (see `densely.evaluation.calibration`),
        and `per_class`, by class name: `precision`, `recall`, `f1`, `support`.

        One label an image: `accuracy_ci95`, its 95 % confidence interval (Wilson); `top5_accuracy`, for six classes
        and more; `balanced_accuracy`, the mean recall; `confusion_matrix`, rows the truth, columns the guess.

        Several labels an image, each answered yes from one half on: `accuracy` is that of the single answers;
        `exact_match`, the share of images with all answers right, and `exact_match_ci95`;
        `mean_average_precision`, `macro_roc_auc`, `micro_f1`; per class also `average_precision`,
        `false_positives`, `false_negatives`.

    Raises:
        UsageError: the probabilities are not one row an image and one column a class.
        DenselyError: some are not numbers.
    """
    if probabilities.shape != (len(dataset), dataset.classes):
        raise UsageError(
            f"Probabilities of shape {probabilities.shape} do not fit {dataset.source}: its {len(dataset)} images of "
            f"{dataset.classes} classes need ({len(dataset)}, {dataset.classes})."
        )
    finite = np.isfinite(probabilities).all(axis=1)
    if not finite.all():
        raise DenselyError(
            f"What the network says of {np.count_nonzero(~finite)} of the {len(dataset)} images of {dataset.source} is "
            "not a number: its weights have diverged; train it with a lower learning rate."
        )
    return (_several_labels if dataset.multi_label else _one_label)(probabilities, dataset)


def evaluate(
    model: "keras.Model",
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch_size: int = 256,
    views: Views = ONE_VIEW,
) -> dict[str, Any]:
    """`scores` of a model on a data set; the arguments are those of `probabilities`."""
    return scores(probabilities(model, dataset.images, preprocessing, batch_size, views), dataset)


def evaluate_held_out(
    model: "keras.Model",
    preprocessing: Preprocessing,
    *,
    val: Dataset | None,
    test: Dataset | None,
    batch_size: int = 256,
    views: Views = ONE_VIEW,
) -> dict[str, dict[str, Any]]:
    """`scores` of a model on the parts it was not trained on: what `metrics.json` holds.

    Args:
        model: from `(N, H, W, C)` to `(N, classes)` probabilities.
        preprocessing: what the model was trained with.
        val: the validation part, or `None`.
        test: the test part, or `None` if it is not to be looked at.
        batch_size: images at a time.
        views: as in `probabilities`.

    Returns:
        `scores` as `val` and as `test`, for the parts there are. Where there are both, `test` has `calibration` too:
        the temperature fitted on `val`, its 95 % confidence interval `temperature_ci95`, and what it does for `test`
        (see `densely.evaluation.calibration`).
    """
    named = {name: part for name, part in (("val", val), ("test", test)) if part is not None}
    p = {name: probabilities(model, part.images, preprocessing, batch_size, views) for name, part in named.items()}
    return held_out_scores(p, val=val, test=test)


def held_out_scores(
    p: Mapping[str, np.ndarray], *, val: Dataset | None, test: Dataset | None
) -> dict[str, dict[str, Any]]:
    """What `evaluate_held_out` gives, of probabilities that are known already.

    Args:
        p: `(N, classes)` of each part that there is, as `val` and as `test`.
        val: the validation part, or `None`.
        test: the test part, or `None` if it is not to be looked at.
    """
    named = {name: part for name, part in (("val", val), ("test", test)) if part is not None}
    found = {name: scores(p[name], part) for name, part in named.items()}
    if val is not None and test is not None:
        temperature = calibration.fit_temperature(p["val"], val)
        found["test"]["calibration"] = {
            "fitted_on": "val",
            "temperature_ci95": list(calibration.temperature_interval(p["val"], val, temperature)),
            **calibration.with_temperature(p["test"], test, temperature),
        }
    return found


def summarise(metrics: Sequence[Mapping[str, Any]], part: str = "test") -> dict[str, dict[str, Any]]:
    """The scores of several runs (seeds, or folds) in one.

    Args:
        metrics: what each run's `metrics.json` holds.
        part: which part's scores.

    Returns:
        For every score that is a single fraction or loss: `mean`, `std` (of the sample, n - 1; `None` for one run),
        `n` (runs that have it), `min`, `max`.

    Raises:
        UsageError: there are no runs, or one of them has no such part.
    """
    if not metrics:
        raise UsageError("There are no runs to summarise: give at least one.")
    for number, run in enumerate(metrics, start=1):
        if part not in run:
            raise UsageError(f"Run {number} of {len(metrics)} has no {part} scores: leave it out.")
    values: dict[str, list[float]] = {}
    for run in metrics:
        for name, value in run[part].items():
            if isinstance(value, float):  # neither n, nor what a class or a bin has of its own, nor None
                values.setdefault(name, []).append(value)
    return {
        name: {
            "mean": float(np.mean(v)),
            "std": float(np.std(v, ddof=1)) if len(v) > 1 else None,
            "n": len(v),
            "min": min(v),
            "max": max(v),
        }
        for name, v in values.items()
    }


def wilson(right: int, n: int) -> list[float]:
    """The 95 % confidence interval `[low, high]` of a share of which `right` of `n` were seen (E. B. Wilson, 1927).

    It stays inside [0, 1], and is not empty where everything was right.
    """
    from scipy.stats import binomtest  # half a second, which `densely predict` need not wait for

    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def _one_label(probabilities: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    truth, classes, n = dataset.labels, dataset.classes, len(dataset)
    ranked = np.argsort(-probabilities, axis=1, kind="stable")
    confusion = np.bincount(truth * classes + ranked[:, 0], minlength=classes**2).reshape(classes, classes)
    right = int(np.trace(confusion))
    per_class = _per_class(np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1))
    found: dict[str, Any] = {
        "n": n,
        "accuracy": right / n,
        "accuracy_ci95": wilson(right, n),
        "loss": calibration.loss(probabilities, dataset),
    }
    if classes > 5:
        found["top5_accuracy"] = float(np.mean((ranked[:, :5] == truth[:, None]).any(axis=1)))
    return {
        **found,
        "balanced_accuracy": _mean(row["recall"] for row in per_class),
        "macro_f1": _mean(row["f1"] for row in per_class),
        "ece": calibration.expected_calibration_error(probabilities, dataset),
        "reliability": calibration.reliability(probabilities, dataset),
        "per_class": dict(zip(dataset.class_names, per_class, strict=True)),
        "confusion_matrix": confusion.tolist(),
    }


def _several_labels(probabilities: np.ndarray, dataset: Dataset) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth, n = dataset.labels == 1, len(dataset)
    answer = probabilities >= YES
    all_right = int((answer == truth).all(axis=1).sum())
    hits, guessed, support = (truth & answer).sum(axis=0), answer.sum(axis=0), truth.sum(axis=0)
    per_class = _per_class(hits, guessed, support)
    areas = []
    for i, row in enumerate(per_class):
        t, p = truth[:, i], probabilities[:, i]
        row["average_precision"] = float(average_precision_score(t, p)) if t.any() else None
        row["false_positives"] = int(guessed[i] - hits[i])
        row["false_negatives"] = int(support[i] - hits[i])
        areas.append(float(roc_auc_score(t, p)) if t.any() and not t.all() else None)
    return {
        "n": n,
        "accuracy": float(np.mean(answer == truth)),
        "exact_match": all_right / n,
        "exact_match_ci95": wilson(all_right, n),
        "loss": calibration.loss(probabilities, dataset),
        "mean_average_precision": _mean(row["average_precision"] for row in per_class),
        "macro_roc_auc": _mean(areas),
        "micro_f1": _ratio(2 * hits.sum(), guessed.sum() + support.sum()),
        "macro_f1": _mean(row["f1"] for row in per_class),
        "ece": calibration.expected_calibration_error(probabilities, dataset),
        "reliability": calibration.reliability(probabilities, dataset),
        "per_class": dict(zip(dataset.class_names, per_class, strict=True)),
    }


def _per_class(hits: np.ndarray, guessed: np.ndarray, support: np.ndarray) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, from how often it was found, guessed and there."""
    return [
        {
            "precision": _ratio(h, g),
            "recall": _ratio(h, s),
            "f1": _ratio(2 * h, g + s) if s else None,
            "support": int(s),
        }
        for h, g, s in zip(hits, guessed, support, strict=True)
    ]


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are defined."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
