"""`densely export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from densely.commands.options import DataDir, Trained, WeightsOption, numbers, which_weights
from densely.commands.terminal import out
from densely.console import tell


def export(
    trained: Trained,
    format: Annotated[
        str, typer.Option(metavar="onnx|keras|torch|safetensors", help="safetensors: weights, for densely.build.")
    ] = "onnx",
    batch: Annotated[str, typer.Option(metavar="dynamic|N", help="Images that it takes at a time.")] = "dynamic",
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="Convolutions in 8-bit integers (ONNX).", show_default="no")
    ] = None,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Take uint8 pixels, 0 to 255, as they come from a file.")
    ] = False,
    images: Annotated[str, typer.Option(metavar="N|all", help="Test images that it is compared on.")] = "1000",
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The folder for the model and its card.",
            show_default="RUN/export/FORMAT; of a model file NAME-FORMAT",
        ),
    ] = None,
    weights: WeightsOption = "final",
    data_dir: DataDir = None,
) -> None:
    """Write the network for another program, compared with itself on test images first, and its model card."""
    size = batch if batch == "dynamic" else numbers("--batch", batch, (1,), "dynamic or 16")[0]
    compared = None if images == "all" else numbers("--images", images, (1,), "all or 1000")[0]
    from densely.model_file import open_trained

    opened = open_trained(trained)
    chosen = which_weights(weights)
    from densely import export as exporting

    exported = exporting.export(
        opened,
        format,  # type: ignore[arg-type]
        out=out_folder,
        batch=size,  # type: ignore[arg-type]
        quantize=quantize,  # type: ignore[arg-type]
        with_preprocessing=with_preprocessing,
        weights=chosen,
        images=compared,
        data_dir=data_dir,
    )
    tell(out, f"Checked        {exported.checked.told()}")
    if quantize and exported.checked.accuracy is not None:
        before, after = exported.checked.accuracy
        lost = f"{100 * (before - after):.2f} points of accuracy" if after < before else "no accuracy"
        tell(out, f"Lost by int8   {lost}")
    tell(out, f"Model          {exported.path}")
    tell(out, f"Card           {exported.card}")
