"""`densely sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape
from rich.table import Table

from densely.commands.options import Channels, DataDir, ImageSize, Limit, ReportOption, SkipBad, image_size
from densely.commands.terminal import broken_off, out, wide
from densely.console import tell

if TYPE_CHECKING:
    from densely.sweeps.study import Pruner
    from densely.training.resume.claim import Resume

SHOWN = 10
"""So many of the best trials are printed; the page has all."""


def sweep(
    space: Annotated[
        Path, typer.Argument(metavar="SPACE.toml", help="Settings with their ranges, choices or values: docs/sweep.md.")
    ],
    source: Annotated[str, typer.Argument(metavar="DATA", help="As for `densely train`.", show_default=False)],
    trials: Annotated[int, typer.Option(help="How many in all, with those of a sweep that goes on.")],
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Trials at a time, each with its share of the threads.", show_default="1; --ray: a machine each"
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Spread them over a Ray cluster: auto, HOST:PORT, or local to start one.",
            show_default="no",
        ),
    ] = None,
    pruner: Annotated[
        str, typer.Option(metavar="median|hyperband|none", help="Which trials are ended early.")
    ] = "median",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of what is drawn, and of every trial.")] = 0,
    limit: Limit = None,
    size: ImageSize = None,
    channels: Channels = None,
    skip_bad: SkipBad = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The sweep's folder.", show_default="runs/DATA-sweep-N")
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="auto|never", help="Go on with this very sweep where it was broken off.")
    ] = "auto",
    report: ReportOption = None,
    data_dir: DataDir = None,
) -> None:
    """Try settings on held-out training images, and tell the best.

    Every setting of a training stands in SPACE.toml, those that stay as they are too (epochs = 5). The same
    command again goes on where a sweep was broken off. The test part is not looked at.
    """
    from densely.interruption import Interrupted
    from densely.report.sweep_page import told
    from densely.sweeps.sweep import sweep as try_all

    try:
        done = try_all(
            space,
            source,
            trials=trials,
            jobs=jobs,
            ray=ray,
            pruner=cast("Pruner", pruner),
            seed=seed,
            out=out_folder,
            limit=limit,
            size=image_size(size),
            channels=channels,
            skip_bad=skip_bad,
            data_dir=data_dir,
            resume=cast("Resume", resume),
            report=report,
            console=out,
        )
    except Interrupted as stop:
        raise broken_off(stop) from None
    names = list(done.trials[0].settings)
    table = Table("trial", done.score, *names, "epochs", "", box=None)
    for trial in done.trials[:SHOWN]:
        value = "" if trial.value is None else f"{100 * trial.value:.2f} %"
        settings = (escape(told(trial.settings[name])) if name in trial.settings else "" for name in names)
        state = "" if trial.state == "done" else trial.state
        table.add_row(str(trial.number), value, *settings, trial.progress, state)
    wide(table)
    for line in (f"Page           {done.folder / 'sweep.html'}", f"Train the best with:  {done.command}"):
        tell(out, line)
