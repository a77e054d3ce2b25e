"""`densely explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densely.commands.options import Trained, WeightsOption, which_weights, writable
from densely.commands.terminal import out
from densely.console import tell


def explain(
    trained: Trained,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, JPEG, WebP or BMP file.")],
    of: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Explain this class.", show_default="likeliest")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to explain.")] = 3,
    layer: Annotated[
        str, typer.Option(help="final_relu: the exact map; dense_block_1, …: Grad-CAM of that layer.")
    ] = "final_relu",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The picture, a PNG file.", show_default="IMAGE-explained.png")
    ] = None,
    weights: WeightsOption = "final",
) -> None:
    """Show where in an image the network sees its likeliest classes (class activation maps)."""
    from densely.files import write_whole
    from densely.model_file import open_trained

    target = Path(f"{image.stem}-explained.png") if out_file is None else out_file
    writable(target, ".png")
    opened = open_trained(trained)
    chosen = which_weights(weights)
    from densely import explain as explaining

    found = explaining.explain(opened, image, of=of, layer=layer, top=top, weights=chosen)
    write_whole(target, lambda aside: explaining.draw(found).save(aside, "PNG"))
    for label, probability in zip(found.classes, found.probabilities, strict=True):
        tell(out, f"{100 * probability:6.2f} %  {label}")
    tell(out, f"Picture        {target}")
