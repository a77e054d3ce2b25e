"""Calibration against textbook loops, and temperatures that were known beforehand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax

from densely.data import Dataset
from densely.evaluation.calibration import (
    HIGHEST,
    LOWEST,
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability,
    temperature_interval,
    with_temperature,
)


def dataset(labels: np.ndarray, classes: int) -> Dataset:
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    return Dataset(images, labels, tuple(f"class {i}" for i in range(classes)), "made up")


def drawn(n: int, classes: int, temperature: float, seed: int) -> tuple[np.ndarray, Dataset]:
    """A network's probabilities, and labels drawn from what they should have been."""
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, classes))
    true = softmax(logits / temperature, axis=1)
    labels = np.array([rng.choice(classes, p=row) for row in true])
    return softmax(logits, axis=1), dataset(labels, classes)


def drawn_answers(n: int, classes: int, temperature: float, seed: int) -> tuple[np.ndarray, Dataset]:
    rng = np.random.default_rng(seed)
    logits = 4 * rng.normal(size=(n, classes))
    labels = (rng.random((n, classes)) < expit(logits / temperature)).astype(np.uint8)
    return expit(logits), dataset(labels, classes)


def test_the_bins_by_a_loop() -> None:
    p, data = drawn(300, 4, temperature=2.0, seed=0)
    error = 0.0
    for i, found in enumerate(reliability(p, data)):
        inside = [(max(row), row.argmax() == y) for row, y in zip(p, data.labels, strict=True)
                  if i / 15 < max(row) <= (i + 1) / 15]  # fmt: skip
        assert found["count"] == len(inside)
        if not inside:
            assert found["confidence"] is found["accuracy"] is None
            continue
        confidence, right = (float(np.mean(column)) for column in zip(*inside, strict=True))
        assert (found["confidence"], found["accuracy"]) == pytest.approx((confidence, right))
        error += len(inside) / 300 * abs(confidence - right)
    assert expected_calibration_error(p, data) == pytest.approx(error)


def test_several_labels_an_image_count_each_answer_s_own_confidence() -> None:
    p = np.array([[0.9, 0.2], [0.4, 0.9]])  # sure of yes 90 %, no 80 %, no 60 %, yes 90 %
    data = dataset(np.array([[1, 0], [1, 0]], np.uint8), 2)  # right, right, wrong, wrong
    filled = {i: row for i, row in enumerate(reliability(p, data)) if row["count"]}
    assert [(i, row["count"], row["accuracy"]) for i, row in filled.items()] == [(8, 1, 0), (11, 1, 1), (13, 2, 0.5)]
    assert expected_calibration_error(p, data) == pytest.approx((0.6 + 0.2 + 2 * 0.4) / 4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("draw", [drawn, drawn_answers])
def test_the_temperature_that_labels_were_drawn_with_is_found(draw, temperature: float) -> None:
    p, data = draw(4000, 5, temperature, seed=1)
    found = fit_temperature(p, data)
    assert found == pytest.approx(temperature, rel=0.1)
    # It is fitted on one part and mends another.
    p, data = draw(4000, 5, temperature, seed=2)
    result = with_temperature(p, data, found)
    assert result["temperature"] == found
    assert result["ece_after"] < 0.02
    if temperature != 1.0:
        assert result["ece_after"] < result["ece_before"] / 2
        assert result["loss_after"] < result["loss_before"]


def test_with_many_images_it_is_the_maximum_of_likelihood() -> None:
    p, data = drawn(3000, 5, temperature=2.0, seed=3)
    grid = np.geomspace(1.5, 2.6, 400)
    losses = [-np.mean(np.log(softmax(np.log(p) / t, axis=1)[np.arange(3000), data.labels])) for t in grid]
    assert fit_temperature(p, data) == pytest.approx(grid[np.argmin(losses)], rel=0.02)


def test_a_part_without_mistakes_makes_it_no_surer_than_so_few_images_can_show() -> None:
    """Of N right answers out of N, the next is right with probability (N + 1) / (N + 2): Laplace's rule."""
    p = np.tile([0.9, 0.1], (50, 1))
    data = dataset(np.zeros(50, int), 2)
    found = fit_temperature(p, data)
    assert found == pytest.approx(np.log(9) / np.log(51), rel=1e-3)
    np.testing.assert_allclose(apply_temperature(p, found, multi_label=False)[:, 0], 51 / 52, rtol=1e-3)
    certain = fit_temperature(np.tile([1.0, 0.0], (50, 1)), data)
    assert 1 < certain < HIGHEST


def test_worse_than_chance_stops_at_the_bound() -> None:
    p = np.tile([0.9, 0.1], (50, 1))
    assert fit_temperature(p, dataset(np.ones(50, int), 2)) == pytest.approx(HIGHEST, rel=1e-3)


@pytest.mark.parametrize("n", [12, 60, 300])
@pytest.mark.parametrize("temperature", [0.8, 1.0, 1.6])
def test_nineteen_of_twenty_intervals_hold_the_temperature_that_labels_were_drawn_with(
    n: int, temperature: float
) -> None:
    held, trials = 0, 200
    for seed in range(trials):
        p, data = drawn(n, 3, temperature, seed)
        low, high = temperature_interval(p, data, fit_temperature(p, data))
        held += low <= temperature <= high
    assert 0.9 * trials <= held  # 190 are expected, give or take 3


def test_an_interval_is_as_wide_as_other_samples_of_the_same_size_spread() -> None:
    found = [fit_temperature(*drawn(400, 4, 1.5, seed)) for seed in range(100)]
    widths = [np.diff(np.log(temperature_interval(*part, fit_temperature(*part))))[0]
              for part in (drawn(400, 4, 1.5, seed) for seed in range(100, 105))]  # fmt: skip
    assert widths == pytest.approx([2 * 1.96 * np.std(np.log(found))] * 5, rel=0.25)


def test_answers_that_say_the_same_of_an_image_are_no_more_evidence_than_one() -> None:
    p, data = drawn_answers(200, 1, 1.7, seed=2)
    tripled = dataset(np.repeat(data.labels, 3, axis=1), 3)
    one = temperature_interval(p, data, fit_temperature(p, data))
    three = temperature_interval(np.repeat(p, 3, axis=1), tripled, fit_temperature(p, data))
    assert np.diff(three) == pytest.approx(np.diff(one), rel=0.15)


def test_a_part_without_mistakes_bounds_the_temperature_on_one_side() -> None:
    """Below, nothing speaks against being ever surer; above, all N right answers have 1.92 nats to spare."""
    p, n = np.tile([0.9, 0.1], (50, 1)), 50
    data = dataset(np.zeros(n, int), 2)
    low, high = temperature_interval(p, data, fit_temperature(p, data))
    assert low == pytest.approx(LOWEST)
    assert -n * np.log(1 / (1 + np.exp(-np.log(9) / high))) == pytest.approx(1.92, rel=1e-3)
    certain = np.tile([1.0, 0.0], (50, 1))
    fitted = fit_temperature(certain, data)
    assert temperature_interval(certain, data, fitted)[1] >= fitted > 1  # smoothing alone has moved it


@given(st.integers(1, 6), st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_part_gives_a_temperature_that_changes_no_answer(n: int, classes: int, several: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random((n, classes)) if several else rng.dirichlet(np.ones(classes), size=n)
    sure = rng.random(n) < 0.5
    p[sure] = p[sure].round() if several else np.eye(classes)[p[sure].argmax(axis=1)]
    labels = rng.integers(0, 2, (n, classes), dtype=np.uint8) if several else rng.integers(0, classes, n)
    temperature = fit_temperature(p.astype(np.float32), dataset(labels, classes))
    low, high = temperature_interval(p.astype(np.float32), dataset(labels, classes), temperature)
    assert LOWEST <= low <= temperature <= high <= HIGHEST
    scaled = apply_temperature(p, temperature, multi_label=several)
    assert np.isfinite(scaled).all()
    if several:
        np.testing.assert_array_equal(scaled >= 0.5, p >= 0.5)
    else:
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
        np.testing.assert_array_equal(scaled.argmax(axis=1), p.argmax(axis=1))


@pytest.mark.parametrize("several", [False, True])
def test_temperature_one_changes_nothing(several: bool) -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(apply_temperature(p, 1.0, multi_label=several), p, atol=1e-11)
