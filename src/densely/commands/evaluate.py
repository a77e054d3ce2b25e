"""`densely evaluate`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from densely.commands.options import DataDir, RunFolder, WeightsOption, choice, which_weights
from densely.commands.terminal import out
from densely.console import tell
from densely.errors import UsageError


def evaluate(
    run_folder: RunFolder,
    part: Annotated[str, typer.Option(metavar="test|val|train", help="Which part to score.")] = "test",
    weights: WeightsOption = "final",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Score a trained network again, on the parts its training recorded."""
    from densely.runs import Run

    part = choice("--part", part, ("test", "val", "train"))
    run = Run.open(run_folder)
    chosen = which_weights(weights)
    from densely import evaluation
    from densely.evaluation import scorecard
    from densely.training.parts import parts_of

    parts = parts_of(run, data_dir)
    dataset = getattr(parts, part)
    if dataset is None:
        there = ", ".join(name for name in ("train", "val", "test") if getattr(parts, name) is not None)
        raise UsageError(f"{run_folder} has no {part} part; there are: {there}.")
    model, views = run.model(chosen), run.config.recipe.views
    if part == "test":
        found = evaluation.evaluate_held_out(model, run.preprocessing, val=parts.val, test=dataset, views=views)["test"]
    else:
        found = evaluation.evaluate(model, dataset, run.preprocessing, views=views)
    if as_json:
        print(json.dumps({"part": part, "weights": chosen, **found}))
        return
    tell(out, f"{run_folder}, {part} part, {chosen} weights")
    scorecard.show(found, out)
