"""The command line: parses, calls, prints. Everything it does can be done in Python too.

A command is a file of `commands/`; here they are put together, and here every failure ends.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

import densely
from densely.commands.compare import compare
from densely.commands.convert import convert
from densely.commands.evaluate import evaluate
from densely.commands.explain import explain
from densely.commands.export import export
from densely.commands.find_lr import find_lr
from densely.commands.lists import models, recipes, summary
from densely.commands.predict import predict
from densely.commands.report import report
from densely.commands.serve import serve
from densely.commands.show import show
from densely.commands.sweep import sweep
from densely.commands.terminal import Told, err, out
from densely.commands.train import train
from densely.console import tell
from densely.errors import DenselyError
from densely.interruption import StopSignals

app = typer.Typer(
    help="DenseNets trained from scratch, where labelled images are scarce.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"densely {densely.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


# In the order of `densely --help`.
for command in (
    train,
    sweep,
    find_lr,
    evaluate,
    predict,
    explain,
    report,
    compare,
    export,
    show,
    serve,
    convert,
    models,
    recipes,
    summary,
):
    app.command()(command)


def main() -> None:
    """Run the command line; every failure ends as one sentence and an exit code, never as a traceback."""
    try:
        with StopSignals([signal.SIGINT], loaders="densely.commands."):
            app(standalone_mode=True)
    except DenselyError as error:
        if _told_elsewhere(error):
            sys.exit(error.exit_code)
        _end(str(error), error.exit_code)
    except Told:
        raise
    except SystemExit as end:
        if end.code == 128 + signal.SIGINT:  # what typer makes of Ctrl-C
            err.print("densely: interrupted.")
        raise
    except KeyboardInterrupt:  # before typer has begun
        _end("interrupted.", 128 + signal.SIGINT)
    except Exception as error:
        from densely.training.out_of_memory import ran_out

        if ran_out(error):
            trains = sys.argv[1:2] in (["train"], ["find-lr"])
            remedy = "try a smaller --batch-size or network" if trains else "close other programs"
            _end(f"Out of memory: {remedy}.", 1)
        if os.environ.get("DENSELY_DEBUG"):
            raise
        if isinstance(error, OSError) and isinstance(error.filename, str | bytes) and error.strerror:
            _end(f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}.", 1)
        _end(
            f"Unexpected {type(error).__name__}: {(str(error).splitlines() or [''])[0]} "
            "(this is a fault of Densely; set DENSELY_DEBUG=1 to see where).",
            1,
        )


def _told_elsewhere(error: DenselyError) -> bool:
    """Whether another process of the same training tells what happened."""
    world = sys.modules.get("densely.training.distributed.peers")
    return world is not None and isinstance(error, world.ElsewhereError)


def _end(message: str, code: int) -> None:
    err.print("densely:", style="bold red", end=" ")
    tell(err, message)
    sys.exit(code)
