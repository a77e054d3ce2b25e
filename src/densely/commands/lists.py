"""`densely models`, `recipes` and `summary`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from densely.commands.options import given, numbers
from densely.commands.terminal import out, wide
from densely.console import tell


def models() -> None:
    """List the networks: size, cost, and the errors the paper reports."""
    from densely import cost
    from densely.architecture import NETWORKS, PAPER_ERRORS

    columns = ("C10", "C10+", "C100", "C100+", "SVHN")
    table = Table(
        "network",
        "input",
        "parameters",
        "multiply-adds",
        *columns,
        caption="Test error in %, as published; + with flip and shift. Parameters: trainable, 10 classes "
        "(ImageNet: 1,000). Multiply-adds: one image, forward.",
        caption_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, network in NETWORKS.items():
        errors = PAPER_ERRORS.get(name, {})
        height, width, channels = network.input_shape
        table.add_row(
            name,
            f"{height}×{width}×{channels}",
            f"{cost.parameters(network):,}",
            f"{cost.multiply_adds(network) / 1e6:,.0f} M",
            *(f"{errors[c]:.2f}" if c in errors else "" for c in columns),
        )
    wide(table)


def recipes() -> None:
    """List the recipes: where each comes from, what it does, what it reached."""
    import inspect

    from densely.recipes import RECIPES

    for name, recipe in RECIPES.items():
        out.print(name, style="bold", highlight=False)
        for line in inspect.getdoc(recipe).splitlines():  # type: ignore[union-attr]
            tell(out, f"  {line}")
        out.print()


def summary(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network's name.")],
    input_shape: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Size and channels of the images.", show_default="network")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", show_default="network")] = None,
    depth: Annotated[int | None, typer.Option(help="L: layers that have weights.", show_default="network")] = None,
    growth_rate: Annotated[
        int | None, typer.Option(help="k: maps that each layer adds.", show_default="network")
    ] = None,
) -> None:
    """Show a network stage by stage, like Table 1 of the paper."""
    from densely import architecture, cost

    shape = None if input_shape is None else numbers("--input-shape", input_shape, (3,), "32x32x3")
    network = architecture.spec(
        model, **given({"input_shape": shape, "classes": classes, "depth": depth, "growth_rate": growth_rate})
    )
    found = cost.stages(network)
    dropout = f", dropout {network.dropout}" if network.dropout else ""
    table = Table(
        "stage", "output", "layers", "parameters", "multiply-adds", title=f"{model}{dropout}", title_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    layers = iter(network.block_layers)
    for stage in found:
        table.add_row(
            stage.name,
            "×".join(map(str, stage.shape)),
            str(next(layers)) if stage.name.startswith("dense_block") else "",
            f"{stage.parameters:,}",
            f"{stage.multiply_adds / 1e6:,.2f} M",
        )
    table.add_section()
    total = sum(s.multiply_adds for s in found)
    table.add_row("total", "", "", f"{sum(s.parameters for s in found):,}", f"{total / 1e6:,.2f} M")
    wide(table)
