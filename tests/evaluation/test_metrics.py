"""Scores against counts by hand, textbook loops and scikit-learn."""

import json
import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from densely.architecture import build
from densely.data import Dataset, Preprocessing
from densely.errors import DenselyError, UsageError
from densely.evaluation import evaluate_held_out, scores, summarise, wilson

CONFIDENT = 1.959963984540054  # the normal distribution's 97.5 % point


def dataset(labels: np.ndarray, classes: int) -> Dataset:
    images = np.zeros((len(labels), 4, 4, 1), np.uint8)
    return Dataset(images, labels, tuple(f"class {i}" for i in range(classes)), "made up")


def test_accuracy_loss_and_top5_by_hand() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8), size=50).astype(np.float32)
    labels = rng.integers(0, 8, 50)
    found = scores(p, dataset(labels, 8))
    right = sum(int(max(range(8), key=lambda c: row[c]) == label) for row, label in zip(p, labels, strict=True))
    in_top5 = sum(
        int(label in sorted(range(8), key=lambda c: -row[c])[:5]) for row, label in zip(p, labels, strict=True)
    )
    assert found["n"] == 50
    assert found["accuracy"] == right / 50
    assert found["top5_accuracy"] == in_top5 / 50
    assert found["loss"] == pytest.approx(-np.mean([np.log(p[i, labels[i]]) for i in range(50)]), rel=1e-6)


def test_few_classes_have_no_top5() -> None:
    assert "top5_accuracy" not in scores(np.eye(3, dtype=np.float32), dataset(np.arange(3), 3))


def test_several_labels_an_image_count_each_answer() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)
    p = np.array([[0.9, 0.2, 0.4], [0.6, 0.1, 0.8]], np.float32)
    found = scores(p, dataset(labels, 3))
    assert found["accuracy"] == 4 / 6
    assert found["loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.4, 0.9, 0.8]).mean(), rel=1e-6)


def test_a_certain_wrong_answer_has_a_finite_loss() -> None:
    assert np.isfinite(scores(np.array([[1.0, 0.0]], np.float32), dataset(np.array([1]), 2))["loss"])


def test_one_label_an_image_as_scikit_learn_counts_it() -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(6), size=200)
    labels = rng.integers(0, 6, 200)
    found = scores(p, dataset(labels, 6))
    guess = p.argmax(axis=1)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, guess))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, guess, average="macro"))
    assert found["confusion_matrix"] == sk.confusion_matrix(labels, guess).tolist()
    columns = zip(*sk.precision_recall_fscore_support(labels, guess), strict=True)
    assert list(found["per_class"]) == [f"class {i}" for i in range(6)]
    for row, expected in zip(found["per_class"].values(), columns, strict=True):
        assert [row[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(expected)


def test_several_labels_an_image_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((150, 4)) < 0.4).astype(np.uint8)
    p = np.clip(0.3 * labels + rng.random((150, 4)) * 0.7, 0, 1).round(2)  # rounded: ranks are shared
    found = scores(p, dataset(labels, 4))
    answer = (p >= 0.5).astype(np.uint8)
    assert found["exact_match"] == sk.accuracy_score(labels, answer)
    assert found["mean_average_precision"] == pytest.approx(sk.average_precision_score(labels, p, average="macro"))
    assert found["macro_roc_auc"] == pytest.approx(sk.roc_auc_score(labels, p, average="macro"))
    assert found["micro_f1"] == pytest.approx(sk.f1_score(labels, answer, average="micro"))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, answer, average="macro"))
    columns = zip(*sk.precision_recall_fscore_support(labels, answer), strict=True)
    tables = sk.multilabel_confusion_matrix(labels, answer)
    for i, (row, expected, table) in enumerate(zip(found["per_class"].values(), columns, tables, strict=True)):
        assert [row[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx(expected)
        assert (row["false_positives"], row["false_negatives"]) == (table[0, 1], table[1, 0])
        assert row["average_precision"] == pytest.approx(average_precision(labels[:, i], p[:, i]))


def average_precision(truth: np.ndarray, p: np.ndarray) -> float:
    """Precision at every threshold, weighted by how much recall it adds."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(p), reverse=True):
        chosen = p >= threshold
        now = truth[chosen].sum() / truth.sum()
        area, recall = area + (now - recall) * truth[chosen].mean(), now
    return area


@given(st.integers(1, 5000), st.data())
@settings(max_examples=50, deadline=None)
def test_wilson_s_interval_by_its_formula(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    share, z2 = right / n, CONFIDENT**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = CONFIDENT / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    assert wilson(right, n) == pytest.approx([centre - half, centre + half], abs=1e-12)


def test_intervals_are_of_images() -> None:
    p = np.eye(3)[[0, 1, 2, 0]]
    assert scores(p, dataset(np.array([0, 1, 2, 2]), 3))["accuracy_ci95"] == wilson(3, 4)
    several = scores(p, dataset(np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], np.uint8), 3))
    assert several["exact_match"] == 0.5
    assert several["exact_match_ci95"] == wilson(2, 4)


def test_a_class_without_images_has_no_scores_and_no_part_in_the_means() -> None:
    # "class 1" has no image, but one of class 2 is taken for it; nobody guesses class 3.
    p = np.eye(4)[[0, 0, 1, 2, 2]]
    found = scores(p, dataset(np.array([0, 0, 2, 2, 3]), 4))
    assert found["per_class"]["class 1"] == {"precision": 0.0, "recall": None, "f1": None, "support": 0}
    assert found["per_class"]["class 3"] == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1}
    assert found["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["macro_f1"] == pytest.approx((1 + 1 / 2 + 0) / 3)

    several = scores(np.array([[0.9, 0.8], [0.1, 0.2]]), dataset(np.array([[1, 0], [0, 0]], np.uint8), 2))
    assert several["per_class"]["class 1"]["average_precision"] is None
    assert several["mean_average_precision"] == several["macro_roc_auc"] == several["macro_f1"] == 1.0
    assert several["micro_f1"] == pytest.approx(2 / 3)


@given(st.integers(1, 6), st.integers(1, 8), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_part_gives_strict_json(n: int, classes: int, several: bool, seed: int) -> None:
    """However few images, whichever classes they lack, however certain the network: no warning and no NaN."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, classes), dtype=np.uint8) if several else rng.integers(0, classes, n)
    p = rng.random((n, classes)).round() if several else np.eye(classes)[rng.integers(0, classes, n)]
    found = scores(p.astype(np.float32), dataset(labels, classes))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_probabilities_of_other_data_or_no_numbers_are_refused() -> None:
    three = dataset(np.arange(3), 3)
    with pytest.raises(UsageError, match=r"shape \(3, 4\) do not fit made up: its 3 images of 3 classes"):
        scores(np.full((3, 4), 0.25), three)
    p = np.eye(3)
    p[1] = np.nan
    with pytest.raises(DenselyError, match="1 of the 3 images of made up is not a number"):
        scores(p, three)


def test_only_the_test_part_is_calibrated_and_only_by_validation() -> None:
    model = build("densenet-bc-16-8", input_shape=(4, 4, 1), classes=3)
    val, test = dataset(np.array([0, 1, 2, 2]), 3), dataset(np.array([0, 1, 1]), 3)
    unit = Preprocessing.fit(val.images, "unit")
    both = evaluate_held_out(model, unit, val=val, test=test)
    assert both["test"]["calibration"]["fitted_on"] == "val"
    low, high = both["test"]["calibration"]["temperature_ci95"]
    assert low <= both["test"]["calibration"]["temperature"] <= high
    assert both["test"]["calibration"]["loss_before"] == both["test"]["loss"]
    assert both["test"]["calibration"]["ece_before"] == both["test"]["ece"]
    assert "calibration" not in both["val"]
    alone = evaluate_held_out(model, unit, val=None, test=test)
    assert list(alone) == ["test"]
    assert "calibration" not in alone["test"]
    assert list(evaluate_held_out(model, unit, val=val, test=None)) == ["val"]


def run_metrics(accuracy: float, **more: Any) -> dict[str, Any]:
    return {"weights": "final", "test": {"n": 10, "accuracy": accuracy, "per_class": {}, **more}}


def test_several_runs_in_one() -> None:
    values = [0.9, 0.7, 0.86]
    runs = [run_metrics(values[0], micro_f1=None), *(run_metrics(v, micro_f1=v / 2) for v in values[1:])]
    found = summarise(runs)
    assert set(found) == {"accuracy", "micro_f1"}
    assert found["accuracy"] == {
        "mean": pytest.approx(statistics.mean(values)),
        "std": pytest.approx(statistics.stdev(values)),
        "n": 3,
        "min": 0.7,
        "max": 0.9,
    }
    assert found["micro_f1"]["n"] == 2
    assert summarise(runs[:1])["accuracy"]["std"] is None


def test_runs_without_the_part_are_named() -> None:
    with pytest.raises(UsageError, match="no runs"):
        summarise([])
    with pytest.raises(UsageError, match="Run 2 of 2 has no test scores"):
        summarise([run_metrics(0.5), {"val": {"accuracy": 0.5}}])
