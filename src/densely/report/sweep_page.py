"""A sweep on one page: how it went, what mattered, and every trial with its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from densely.console import clock, counted
from densely.files import remove_asides, write_whole
from densely.report import figures, page, sweep_figures


class Axis(NamedTuple):
    """A setting that was searched.

    Attributes:
        name: of the setting.
        log: whether its numbers are seen in the logarithm.
        choices: in their order, where it takes no range.
    """

    name: str
    log: bool = False
    choices: tuple[Any, ...] | None = None


@dataclass(frozen=True)
class Trial:
    """One trial, as it stands.

    Attributes:
        number: from 0.
        state: `"done"`, `"ended early"`, `"failed"` or `"running"`.
        value: the score of its held-out images, 0 to 1, once it is done.
        settings: those that were searched.
        curve: (epoch, accuracy on the held-out images), epoch by epoch.
        epochs: that it was to have; `None` before its first.
        seconds: of its epochs.
        reason: why it failed.
    """

    number: int
    state: str
    value: float | None
    settings: Mapping[str, Any]
    curve: Sequence[tuple[int, float]]
    epochs: int | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"trial-{self.number:04d}"

    @property
    def progress(self) -> str:
        """How many epochs it had."""
        reached = len(self.curve)
        return f"{reached} of {self.epochs}" if self.state == "ended early" else str(reached)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The best first; then those that were ended early, by their last epoch; then those that failed."""

    def rank(trial: Trial) -> tuple[bool, float, int]:
        last = trial.curve[-1][1] if trial.curve else -1.0
        return trial.value is None, -(trial.value if trial.value is not None else last), trial.number

    return sorted(trials, key=lambda trial: (trial.state in ("failed", "running"), *rank(trial)))


def told(value: Any) -> str:
    """A setting's value in few letters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write(
    folder: Path,
    trials: Sequence[Trial],
    axes: Sequence[Axis],
    *,
    data: str,
    score: str,
    importances: Mapping[str, float],
    fixed: Mapping[str, Any],
    command: str,
) -> Path:
    """Write `sweep.html` into a sweep's folder, and its figures into `figures/`.

    Args:
        folder: of the sweep, with the trials' run folders in it.
        trials: at least one of them done.
        axes: what was searched.
        data: what it was trained on, in words.
        score: what the trials' values are.
        importances: of each setting, as shares; may be empty.
        fixed: settings that were the same in every trial.
        command: that trains the best one in full.

    Raises:
        DataError: if it cannot be written.
    """
    order = ranked(trials)
    drawn = {
        name: figures.finished(name, figure, alt)
        for name, figure, alt in (
            (
                "history",
                sweep_figures.history(trials, score),
                f"{score} of each trial in its turn, and the best so far",
            ),
            ("curves", sweep_figures.curves(trials), "accuracy on the held-out images over the epochs, a line a trial"),
            *(
                [("importances", sweep_figures.importances(importances), "a bar for each setting, the longest first")]
                if importances
                else []
            ),
            (
                "parallel",
                sweep_figures.parallel(trials, axes, score),
                f"a line a trial through its settings to its {score}",
            ),
            ("slices", sweep_figures.slices(trials, axes, score), f"{score} against each setting"),
        )
    }
    counts = {state: sum(trial.state == state for trial in trials) for state in ("done", "ended early", "failed")}
    text = page.render(
        "sweep.html.j2",
        title=f"{counted(len(trials), 'trial')} on {data}",
        best=order[0],
        score=score,
        counts={state: count for state, count in counts.items() if count},
        time=clock(sum(trial.seconds for trial in trials)),
        trials=order,
        names=[axis.name for axis in axes],
        told=told,
        clock=clock,
        fixed=fixed,
        importances=importances,
        links={trial.number for trial in trials if (folder / trial.name / "report.html").is_file()},
        command=command,
        figures=page.inlined(drawn),
    )
    for name, one in drawn.items():
        figures.write(one, folder / "figures", name)
    remove_asides(folder / "figures")
    target = folder / "sweep.html"
    write_whole(target, lambda aside: aside.write_text(text, encoding="utf-8"))
    return target
