"""The report of a run: `report.html`, one page that tells its story, and its figures as PNG and SVG beside it.

What is told is gathered once (`gathering`, with `suspects` for doubtful labels and twins), drawn (`figures`, `images`)
and laid out (`page`). Nothing here trains, and nothing it finds changes a score.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from densely.files import remove_asides, write_whole

if TYPE_CHECKING:
    from densely.data import Parts
    from densely.runs import Run


def write(run: Run, parts: Parts | None = None, *, data_dir: str | Path | None = None, out: Path | None = None) -> Path:
    """Write a run's report: what `densely report RUN` does, and every training at its end.

    Args:
        run: a finished run.
        parts: those it was trained and scored on; by default read again from its source.
        data_dir: where built-in data lie.
        out: the page; by default `report.html` in the run folder, with its figures in `figures/`. Those of a page
            NAME.html of yours go into `NAME-figures/` beside it.

    Returns:
        The page's path.

    Raises:
        UsageError: if the training did not finish, or its data came from Python and are not given.
        DataError: if the data have changed since, or the page cannot be written.
    """
    from densely.report import figures, gathering, page

    target = run.folder / "report.html" if out is None else out
    findings = gathering.gather(run, parts, data_dir)
    drawn = page.draw_all(findings)
    folder = run.folder / "figures" if out is None else out.with_name(f"{out.stem}-figures")
    for name, one in drawn.items():
        figures.write(one, folder, name)
    remove_asides(folder)
    text = page.page(findings, drawn)
    write_whole(target, lambda aside: aside.write_text(text, encoding="utf-8"))
    return target
