"""Several runs on one page."""

from math import comb
from pathlib import Path

import numpy as np
import pytest
from browser import PHONE, browsers_end, fits, opened  # noqa: F401

from densely.data import Parts
from densely.errors import UsageError
from densely.report import comparison
from densely.runs import Run


def test_the_page_has_scores_curves_differences_and_settings(digits: Run, other_digits: Run, tmp_path: Path) -> None:
    page_file = comparison.write([digits, other_digits], tmp_path / "both.html")
    with opened(page_file, PHONE) as page:
        assert fits(page)
        text = page.inner_text("main")
        for run in (digits, other_digits):
            assert f"{100 * run.accuracy:.2f} %" in text
        assert "recipe.learning_rate" in text and "recipe.epochs" in text and "seed" in text
        assert page.locator("svg").count() == 4
        assert "scored on different images" not in text
    assert {path.name for path in (tmp_path / "both-figures").iterdir()} == {
        f"{name}.{kind}" for name in ("loss", "val_loss", "accuracy", "val_accuracy") for kind in ("png", "svg")
    }


def test_the_difference_is_mc_nemar_s_exact_test(digits: Run, other_digits: Run) -> None:
    (found,) = comparison.differences([digits, other_digits], ["a", "b"])
    right = [run.predictions["test"].argmax(axis=1) == run.predictions["test_labels"] for run in (digits, other_digits)]
    a, b = int(np.sum(right[0] & ~right[1])), int(np.sum(~right[0] & right[1]))
    assert (found.only_one, found.only_other) == (a, b)
    tail = sum(comb(a + b, i) for i in range(min(a, b) + 1)) / 2 ** (a + b)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-6)


def test_runs_on_different_images_are_told_apart(digits: Run, several: tuple[Run, Parts], tmp_path: Path) -> None:
    page_file = comparison.write([digits, several[0]], tmp_path / "c.html")
    assert "scored on different images" in page_file.read_text()
    assert comparison.differences([digits, several[0]], ["a", "b"]) == []


def test_names_are_as_long_as_it_takes() -> None:
    assert comparison.labels([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert comparison.labels([Path("one/seed-0"), Path("two/seed-0")]) == ["one/seed-0", "two/seed-0"]
    with pytest.raises(UsageError, match="given twice"):
        comparison.labels([Path("runs/a"), Path("runs/../runs/a")])


def test_one_run_is_no_comparison(digits: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes 2 to 12 runs, not 1"):
        comparison.write([digits], tmp_path / "c.html")
