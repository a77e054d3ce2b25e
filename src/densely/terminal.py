"""What the commands share: where they print, options that several of them take, how an interrupted one ends."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from densely.errors import UsageError

if TYPE_CHECKING:
    from densely.training.resume.interruption import Interrupted

out = Console()
err = Console(stderr=True)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where built-in data lie.", envvar="DENSELY_DATA", show_default="~/.cache/densely/data"),
]
SkipBad = Annotated[
    bool | None,
    typer.Option("--skip-bad/--no-skip-bad", help="Leave out files that cannot be read as images.", show_default="no"),
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="N|HxW", help="Bring your own images to this size.", show_default="by data")
]
Channels = Annotated[
    int | None, typer.Option(help="Bring your own images to grey (1) or colour (3).", show_default="by data")
]
ReportOption = Annotated[
    bool | None,
    typer.Option(
        "--report/--no-report", help="Write report.html at the end.", envvar="DENSELY_REPORT", show_default="yes"
    ),
]


def wide(table: Table) -> None:
    """Print a table whole where the output is no terminal: a pipe has no width to wrap to."""
    (out if out.is_terminal else Console(width=160)).print(table)


class Told(SystemExit):
    """The end of the process after its reason has been printed."""


def numbers(option: str, text: str, counts: tuple[int, ...], example: str) -> tuple[int, ...]:
    """Whole numbers with `x` between them.

    Raises:
        UsageError: for anything else, or another count of them.
    """
    words = text.lower().replace("×", "x").split("x")
    if len(words) not in counts or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{option} must look like {example}, not {text!r}.")
    return tuple(map(int, words))


def image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width as `--size` has them."""
    if text is None:
        return None
    found = numbers("--size", text, (1, 2), "64 or 48x64")
    return found[0], found[-1]


def ended(stop: Interrupted) -> Told:
    """Tell how far a command came before a signal ended it; its end, to be raised."""
    err.print("densely:", str(stop)[0].lower() + str(stop)[1:], markup=False, highlight=False, soft_wrap=True)
    return Told(stop.exit_code)


def broken_off(stop: Interrupted) -> Told:
    """The same for a command that goes on when it is given again, and tells so."""
    from densely.training.distributed.place import LAUNCHER

    end = ended(stop)
    if stop.folder is not None:
        again = re.sub(r" --resume[ =]never\b", "", shlex.join(["densely", *sys.argv[1:]]))
        if "RANK" in os.environ and LAUNCHER not in os.environ:
            again = "the same command, with any number of processes"  # what started this one is not known here
        err.print(f"Go on with:  {again}", markup=False, highlight=False, soft_wrap=True)
    return end
