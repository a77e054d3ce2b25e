"""Where the commands print, and how an interrupted one ends."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from densely.console import tell

if TYPE_CHECKING:
    from densely.interruption import Interrupted

out = Console()
err = Console(stderr=True)


def wide(table: Table) -> None:
    """Print a table whole where the output is no terminal: a pipe has no width to wrap to."""
    (out if out.is_terminal else Console(width=160)).print(table)


class Told(SystemExit):
    """The end of the process after its reason has been printed."""


def ended(stop: Interrupted) -> Told:
    """Tell how far a command came before a signal ended it; its end, to be raised."""
    tell(err, f"densely: {str(stop)[0].lower()}{str(stop)[1:]}")
    return Told(stop.exit_code)


def broken_off(stop: Interrupted) -> Told:
    """The same for a command that goes on when it is given again, and tells so."""
    from densely.training.distributed.place import LAUNCHER

    end = ended(stop)
    if stop.folder is not None:
        again = re.sub(r" --resume[ =]never\b", "", shlex.join(["densely", *sys.argv[1:]]))
        if "RANK" in os.environ and LAUNCHER not in os.environ:
            again = "the same command, with any number of processes"  # what started this one is not known here
        tell(err, f"Go on with:  {again}")
    return end
