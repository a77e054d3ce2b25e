"""`densely show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densely.commands.options import Channels, DataDir, ImageSize, RecipeOption, SkipBad, image_size, known, writable
from densely.commands.terminal import out
from densely.console import tell


def show(
    source: Annotated[str, typer.Argument(metavar="DATA", help="As `densely train` takes it.", show_default=False)],
    recipe: RecipeOption = "auto",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The picture, a PNG file.", show_default="DATA-RECIPE.png")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    size: ImageSize = None,
    channels: Channels = None,
    skip_bad: SkipBad = None,
    data_dir: DataDir = None,
) -> None:
    """Draw what a recipe's augmentation makes of the images, before you train."""
    known(recipe)
    target = Path(f"{Path(source).resolve().name}-{recipe}.png") if out_file is None else out_file
    writable(target, ".png")
    from densely.files import write_whole
    from densely.show import preview

    picture = preview(
        source, recipe, seed=seed, data_dir=data_dir, size=image_size(size), channels=channels, skip_bad=bool(skip_bad)
    )
    write_whole(target, picture.save)
    tell(out, target)
