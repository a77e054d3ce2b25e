"""Figures by themselves: what they show, whatever names and sizes they meet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rc_context

from densely.architecture import NETWORKS
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


def test_on_the_page_it_has_the_page_s_colours_and_its_words(digits: Run) -> None:
    text = figures.inline(figures.finished("loss", figures.loss(digits), 'a "quoted" <alt>'))
    assert text.startswith("<svg viewBox=")
    assert "a &#34;quoted&#34; &lt;alt&gt;" in text
    assert figures.INK not in text and "currentColor" in text and "var(--line)" in text


def test_the_network_is_drawn_stage_by_stage(digits: Run) -> None:
    for name in ("densenet-bc-100-12", "densenet-40-12", "densenet-121", "densenet-fast"):
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
