"""The figures of a sweep's page, as Matplotlib draws them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densely.report.figures import AFTER, LINE, MARK, VALIDATE, one_axes, ruled, shortened, styled

if TYPE_CHECKING:
    from densely.report.sweep_page import Axis, Trial

ACROSS = 4
"""Small pictures side by side."""


@styled
def history(trials: Sequence[Trial], score: str) -> Figure:
    """The score of each trial in its turn, and the best so far."""
    figure, axes = _axes(5.0, 3.2)
    done = [trial for trial in trials if trial.value is not None]
    early = [trial for trial in trials if trial.state == "ended early" and trial.curve]
    axes.scatter([t.number for t in done], [100 * t.value for t in done], s=22, color=MARK, label="done")  # type: ignore[operator]
    if early:
        reached = [100 * max(value for _, value in t.curve) for t in early]
        axes.scatter([t.number for t in early], reached, s=22, color=VALIDATE, marker="x", lw=1.2, label="ended early")
    best = np.maximum.accumulate([100 * t.value for t in done])  # type: ignore[operator]
    axes.step([t.number for t in done], best, where="post", color=AFTER, lw=1.6, label="best so far")
    axes.set(xlabel="trial", ylabel=f"{score} (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


@styled
def curves(trials: Sequence[Trial]) -> Figure:
    """Accuracy on the held-out images over the epochs, a line a trial; a cross where one was ended."""
    figure, axes = _axes(5.0, 3.2)
    best = max((t for t in trials if t.value is not None), key=lambda t: (t.value or 0.0, -t.number))
    for trial in (*(t for t in trials if t is not best), best):
        if not trial.curve:
            continue
        x, y = [epoch for epoch, _ in trial.curve], [100 * value for _, value in trial.curve]
        early = trial.state != "done"
        colour = AFTER if trial is best else VALIDATE if early else MARK
        marker = "o" if len(x) == 1 and not early else ""
        label = f"the best, trial {trial.number}" if trial is best else None
        axes.plot(
            x,
            y,
            color=colour,
            lw=2.2 if trial is best else 1,
            alpha=1 if trial is best else 0.6,
            marker=marker,
            label=label,
        )
        if early:
            axes.plot(x[-1:], y[-1:], color=colour, marker="x", ls="")
    axes.set(xlabel="epoch", ylabel="held-out accuracy (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


@styled
def importances(shares: Mapping[str, float]) -> Figure:
    """A bar a setting: the share of the scores' variance that it explains."""
    figure, axes = _axes(5.0, 0.75 + 0.28 * len(shares))
    axes.grid(visible=False)
    names, values = list(shares), [100 * value for value in shares.values()]
    axes.barh(range(len(names)), values, color=MARK, height=0.7)
    for y, value in enumerate(values):
        axes.text(value + 1, y, f"{value:.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlim=(0, 112), xticks=[0, 25, 50, 75, 100], ylim=(len(names) - 0.4, -0.6), xlabel="share of the variance (%)"
    )
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def slices(trials: Sequence[Trial], searched: Sequence[Axis], score: str) -> Figure:
    """The score against each setting, a small picture each; later trials are darker."""
    rows = -(-len(searched) // ACROSS)
    across = min(ACROSS, len(searched))
    figure = Figure(figsize=(max(4.6, 2.5 * across), 2.4 * rows))
    grid = figure.subplots(rows, across, sharey=True, squeeze=False).ravel()
    done = [trial for trial in trials if trial.value is not None]
    strength = [0.25 + 0.75 * trial.number / max(1, trials[-1].number) for trial in done]
    for place, axis in zip(grid, searched, strict=False):
        ruled(place)
        x = [_place(axis, trial.settings[axis.name]) for trial in done]
        place.scatter(x, [100 * t.value for t in done], s=20, color=MARK, alpha=strength, lw=0)  # type: ignore[operator]
        place.set_xlabel(axis.name)
        if axis.choices is not None:
            names = [shortened(_word(choice), 14) for choice in axis.choices]
            place.set_xticks(range(len(names)), names)
            place.set_xlim(-0.5, len(names) - 0.5)
        elif axis.log:
            place.set_xscale("log")
            # Within a decade Matplotlib names every tenth, one over the other.
            ticks = sorted({float(f"{tick:.2g}") for tick in np.geomspace(min(x), max(x), 3)})
            place.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            place.minorticks_off()
    for place in grid[len(searched) :]:
        place.set_visible(False)
    for row in range(rows):
        grid[row * across].set_ylabel(f"{score} (%)")
    return figure


@styled
def parallel(trials: Sequence[Trial], searched: Sequence[Axis], score: str) -> Figure:
    """A line a trial through its settings to its score: the better, the stronger."""
    figure, axes = _axes(max(4.6, 1.9 * (len(searched) + 1)), 3.4)
    axes.grid(visible=False)
    done = sorted((t for t in trials if t.value is not None), key=lambda t: (t.value or 0.0, -t.number))
    columns = [[_scaled(axis, t.settings[axis.name]) for t in done] for axis in searched]
    values = [100 * t.value for t in done]  # type: ignore[operator]
    low, high = min(values), max(values)
    ends = [_ends(column) for column in columns]
    heights = [_between(column, *end) for column, end in zip(columns, ends, strict=True)]
    heights.append(_between(values, low, high))
    for rank, trial in enumerate(done):
        best = trial is done[-1]
        alpha = 1.0 if best else 0.12 + 0.6 * rank / len(done)
        line = [column[rank] for column in heights]
        axes.plot(range(len(line)), line, color=AFTER if best else MARK, alpha=alpha, lw=2.4 if best else 1.3)
    for number, (axis, end) in enumerate(zip(searched, ends, strict=True)):
        axes.axvline(number, color=LINE, lw=1)
        if axis.choices is not None:
            used = sorted({trial.settings[axis.name] for trial in done}, key=axis.choices.index)
            marks = [(_between([axis.choices.index(choice)], *end)[0], _word(choice)) for choice in used]
        else:
            marks = [(float(i), _number(axis, e)) for i, e in enumerate(end)]
        for y, word in marks:
            _mark(axes, number, y, shortened(word, 12))
    axes.axvline(len(searched), color=LINE, lw=1)
    for value in {low, high}:
        _mark(axes, len(searched), _between([value], low, high)[0], f"{value:.1f} %")
    names = [*(axis.name for axis in searched), score]
    axes.set_xticks(range(len(names)), [re.sub("[ _]", "\n", name) for name in names])
    axes.set_yticks([])
    axes.set(xlim=(-0.1, len(searched) + 0.45), ylim=(-0.1, 1.1))
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _axes(width: float, height: float) -> tuple[Figure, Any]:
    figure, axes = one_axes(width, height)
    ruled(axes)
    return figure, axes


def _mark(axes: Any, x: float, y: float, word: str) -> None:
    """A word at a place on an upright axis: beyond its ends, so that no line runs through it."""
    below, above = y < 0.02, y > 0.98
    axes.text(
        x if below or above else x + 0.04,
        y + (0.03 if above else -0.03 if below else 0),
        word,
        fontsize=7.5,
        va="bottom" if above else "top" if below else "center",
        ha="center" if below or above else "left",
    )


def _place(axis: Axis, value: Any) -> float:
    """Where a value stands on its axis: a choice by its turn, a number as it is."""
    return float(axis.choices.index(value) if axis.choices is not None else value)


def _scaled(axis: Axis, value: Any) -> float:
    place = _place(axis, value)
    return float(np.log10(place)) if axis.log else place


def _number(axis: Axis, scaled: float) -> str:
    return f"{10**scaled if axis.log else scaled:.3g}"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _between(values: Sequence[float], low: float, high: float) -> list[float]:
    """From 0 to 1; in the middle where all are the same."""
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _word(choice: Any) -> str:
    if isinstance(choice, bool):
        return "yes" if choice else "no"
    return str(choice)
