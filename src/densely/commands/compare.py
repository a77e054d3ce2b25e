"""`densely compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from densely.commands.options import writable
from densely.commands.terminal import out
from densely.console import tell


def compare(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Run folders, two or more.")],
    out_file: Annotated[Path, typer.Option("--out", help="The page.")] = Path("compare.html"),
) -> None:
    """Compare runs on one page: scores, curves, settings, and whether they really differ."""
    from densely.runs import Run

    writable(out_file, ".html")
    opened = [Run.open(folder) for folder in run_folders]
    from densely.report import comparison

    page = comparison.write(opened, out_file)
    table = Table("run", "score", "", box=None)
    for row in comparison.rows(opened):
        interval = "" if row["low"] is None else f"95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f} %"
        score = "–" if row["score"] is None else f"{100 * row['score']:.2f} %"
        table.add_row(escape(row["name"]), score, interval)
    out.print(table)
    tell(out, f"Page           {page}")
