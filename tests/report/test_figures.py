"""Figures by themselves: what they show, whatever names and sizes they meet."""

from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context

from densely.architecture import NETWORKS
from densely.errors import DataError
from densely.report import figures, gathering
from densely.runs import Run


@given(st.integers(3, 25), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_an_order_of_classes_has_each_once_and_groups_together(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, classes)
    counts = 0.01 * rng.random((classes, classes)) + 10.0 * (group[:, None] == group) + 50.0 * np.eye(classes)
    order = figures.together(counts)
    assert sorted(order) == list(range(classes))
    assert np.count_nonzero(np.diff(group[order])) <= 1


@pytest.mark.parametrize("text", ["a", "two words", "line\nbreak", "x" * 60, "$\\frac{", "<b>&", "日本"])
def test_any_name_can_stand_in_a_figure(text: str) -> None:
    short = figures.shortened(text, 20)
    assert "\n" not in short
    assert len(short.replace("\\$", "$")) <= 20


def test_a_figure_is_the_same_text_twice_whatever_the_user_has_set(digits: Run) -> None:
    one = figures.finished("loss", figures.loss(digits), "alt").svg
    with rc_context({"font.size": 30, "axes.grid": True, "text.usetex": False}):
        assert figures.finished("loss", figures.loss(digits), "alt").svg == one


def test_the_user_s_own_backend_stays(digits: Run) -> None:
    before = matplotlib.get_backend()
    try:
        matplotlib.use("svg")
        figures.write(figures.finished("loss", figures.loss(digits), "alt"), digits.folder / "again", "loss")
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)


def test_names_in_other_scripts_are_drawn_without_a_warning(digits: Run, tmp_path: Path) -> None:
    names = ("日本語", "_hidden", *digits.inputs.class_names[2:])
    inputs = digits.inputs.model_copy(update={"class_names": names})
    found = gathering.gather(digits)
    scores = {**found.scores, "per_class": dict(zip(names, found.scores["per_class"].values(), strict=True))}
    renamed = replace(found, run=Run(digits.folder, digits.config, inputs), scores=scores)
    drawn = figures.finished("confusion", figures.confusion(renamed), "alt")
    figures.write(drawn, tmp_path, "confusion")
    assert "日本語" in drawn.svg
    figures.write(figures.finished("per_class", figures.per_class(renamed), "alt"), tmp_path, "per_class")


def test_runs_named_with_an_underscore_stand_in_the_legend(digits: Run) -> None:
    drawn = figures.overlaid([digits, digits], ["_a", "b"], "loss", "loss", 1.0)
    assert len(drawn.axes[0].get_legend().get_texts()) == 2


def test_a_folder_that_cannot_be_made_is_told(digits: Run, tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("in the way")
    with pytest.raises(DataError, match="figures cannot be made"):
        figures.write(figures.finished("loss", figures.loss(digits), "alt"), tmp_path / "figures", "loss")


def test_on_the_page_it_has_the_page_s_colours_and_its_words(digits: Run) -> None:
    text = figures.inline(figures.finished("loss", figures.loss(digits), 'a "quoted" <alt>'))
    assert text.startswith("<svg viewBox=")
    assert "a &#34;quoted&#34; &lt;alt&gt;" in text
    assert figures.INK not in text and "currentColor" in text and "var(--line)" in text


def test_the_network_is_drawn_stage_by_stage(digits: Run) -> None:
    for name in ("densenet-bc-100-12", "densenet-40-12", "densenet-121", "densenet-fast", "densenet-fast-pooled"):
        config = digits.config.model_copy(update={"network": NETWORKS[name], "model": name})
        drawn = figures.network(Run(digits.folder, config, digits.inputs))
        words = {text.get_text() for text in drawn.axes[0].texts}
        blocks = len(NETWORKS[name].block_layers)
        assert {f"dense block {i + 1}" for i in range(blocks)} | {
            f"transition {i + 1}" for i in range(blocks - 1)
        } <= words


def test_the_confusion_matrix_counts(digits: Run) -> None:
    found = gathering.gather(digits)
    drawn = figures.confusion(found)
    told = {tuple(map(int, text.get_position()))[::-1]: int(text.get_text()) for text in drawn.axes[0].texts}
    matrix = np.array(found.scores["confusion_matrix"])
    assert told == {(r, c): matrix[r, c] for r, c in np.argwhere(matrix > 0)}
