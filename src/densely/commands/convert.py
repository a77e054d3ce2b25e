"""`densely convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densely.commands.options import image_size
from densely.commands.terminal import out
from densely.console import counted, tell


def convert(
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="HDF5 that Keras 2 saved; or torchvision's .pth, .pt, .safetensors."),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The model file, a new one.", show_default="WEIGHTS.safetensors, in this folder"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|FILE",
            help="Names of the classes, with commas between them; or a file with one a line.",
            show_default="CIFAR-10's for 10 classes of Keras 2, else numbers",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Bring images to this size.", show_default="32; torchvision: 224"),
    ] = None,
) -> None:
    """Make a model file of a DenseNet that Keras 2 (the old notebook) or torchvision saved."""
    from densely.conversion import convert as converting
    from densely.conversion import read_classes

    names = None if classes is None else read_classes(classes)
    made = converting(weights, out_file, classes=names, size=image_size(size))
    from densely import cost

    height, width, channels = made.inputs.input_shape
    count = cost.parameters(made.network)
    text = f"{made.name}: {count:,} parameters; {counted(made.network.classes, 'class')}, {height}×{width}×{channels}"
    tell(out, text)
    tell(out, f"Model          {made.path}")
