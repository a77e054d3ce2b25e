"""`--live`: a page on this machine that follows a training while it runs.

The training writes what it has reached into one dict a few times a second (`follower`); a thread of its own hands it to
whoever asks on loopback (`page`), and `page.html` draws it. Nothing here may end a training.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from densely.console import tell
from densely.errors import DenselyError, reason
from densely.runs import Run
from densely.training.live.page import LivePage


@contextmanager
def followed(run: Run, live: bool, console: Console) -> Iterator[LivePage | None]:
    """A live page for a run, until the block ends in whatever way; its last state is how.

    Args:
        run: what is trained; scored when the block has ended.
        live: whether there is to be a page.
        console: told the page's address, or why there is none.

    Yields:
        The page; None where there is to be none, or where it cannot be: a training goes on without.
    """
    if not live:
        yield None
        return
    try:
        page = LivePage(_beginning(run))
    except (OSError, RuntimeError, DenselyError) as error:
        tell(console, f"No live page: {reason(error)}. The training goes on without it.")
        yield None
        return
    tell(console, f"Live page      {page.address}")
    try:
        yield page
        page.tell(phase="finished", part=run.config.scored, score=run.accuracy)
    except BaseException as error:
        page.tell(phase="stopped", said=reason(error))
        raise
    finally:
        page.close()


def _beginning(run: Run) -> dict[str, Any]:
    """What is known before the first step."""
    config, trained = run.config, (run.folder / "final.weights.h5").is_file()
    return {
        "run": str(run.folder),
        "data": config.data,
        "network": config.model,
        "recipe": config.recipe.name,
        "epochs": config.recipe.epochs,
        "seed": config.seed,
        "watched": config.watched,
        "phase": "scoring" if trained else "starting",
        "history": run.history if trained else [],
    }
