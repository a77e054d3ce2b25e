"""`densely find-lr`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densely.commands.options import (
    Channels,
    DataDir,
    FreezeOption,
    ImageSize,
    ModelOption,
    RatesOption,
    SkipBad,
    StartOption,
    given,
    image_size,
    known,
)
from densely.commands.terminal import out
from densely.console import tell
from densely.errors import UsageError


def find_lr(
    source: Annotated[str, typer.Argument(metavar="DATA", help="As for `densely train`.")],
    recipe: Annotated[str, typer.Option(help="Its batch size, optimizer and augmentation count.")] = "auto",
    model: ModelOption = None,
    weights: StartOption = None,
    freeze: FreezeOption = None,
    stage_rates: RatesOption = None,
    lowest: Annotated[float, typer.Option(help="Where the rate begins.")] = 1e-4,
    highest: Annotated[float, typer.Option(help="Where it would end.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Batches at most.")] = 100,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.", show_default="recipe")] = None,
    picture: Annotated[Path, typer.Option("--out", help="The curve, PNG or SVG.")] = Path("find-lr.png"),
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Use at most this many images.", show_default="all")] = None,
    size: ImageSize = None,
    channels: Channels = None,
    skip_bad: SkipBad = None,
    data_dir: DataDir = None,
) -> None:
    """Suggest a learning rate: a short training whose rate rises, and where its loss falls fastest."""
    known(recipe, model)
    if not picture.parent.is_dir():
        raise UsageError(f"There is no folder {picture.parent} for the picture: make it, or choose another --out.")
    from densely.training import finder

    finder.check_ending(picture)
    found = finder.find_learning_rate(
        source,
        recipe=recipe,
        model=model,
        weights=weights,
        freeze=freeze,
        stage_rates=stage_rates,
        lowest=lowest,
        highest=highest,
        steps=steps,
        seed=seed,
        limit=limit,
        size=image_size(size),
        channels=channels,
        skip_bad=skip_bad,
        data_dir=data_dir,
        console=out,
        **given({"batch_size": batch_size}),
    )
    finder.draw(found, picture, f"{source}, recipe {recipe}")
    out.print(f"Loss falls fastest at a learning rate of {found.suggestion:.2g}", highlight=False)
    tell(out, f"Curve          {picture}")
