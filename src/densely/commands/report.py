"""`densely report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densely.commands.options import DataDir, RunFolder, writable
from densely.commands.terminal import out
from densely.console import tell


def report(
    run_folder: RunFolder,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The page; its figures go beside it.", show_default="RUN/report.html")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a run's report again: one page with its story, its mistakes and what it looks at."""
    from densely.runs import Run

    if out_file is not None:
        writable(out_file, ".html")
    run = Run.open(run_folder)
    from densely import report as reporting

    page = reporting.write(run, data_dir=data_dir, out=out_file)
    tell(out, f"Report         {page}")
