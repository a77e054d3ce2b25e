"""`densely predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from densely.commands.options import Trained, WeightsOption, which_weights
from densely.commands.terminal import ended, out
from densely.console import counted, tell
from densely.errors import UsageError
from densely.interruption import Interrupted


def predict(
    trained: Trained,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER…", help="PNG, JPEG, WebP or BMP files, or folders of them.")
    ],
    top: Annotated[int | None, typer.Option(help="How many classes to name.", show_default="5")] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a table, of any number of images.", show_default="none"),
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="In the table, a column of probabilities for each class.")
    ] = False,
    weights: WeightsOption = "final",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name the likeliest classes of images.

    A folder is looked through to any depth. With --csv a file that cannot be read is a row that says why.
    """
    from densely.model_file import open_trained

    opened = open_trained(trained)
    chosen = which_weights(weights)
    if table is not None:
        if top is not None or as_json:
            raise UsageError("--csv does not go with --top or --json: the table has the likeliest, or --all-classes.")
        _predict_to_csv(opened, images, table, chosen, all_classes)
        return
    if all_classes:
        raise UsageError("--all-classes is for a table: name one with --csv FILE.csv.")
    from densely.bulk import few
    from densely.prediction import predict as guess

    files = few(images)
    guesses = guess(opened, list(files), top=5 if top is None else top, weights=chosen)
    if as_json:
        rows = [
            {"image": str(image), "top": [{"class": g.label, "probability": round(g.probability, 6)} for g in found]}
            for image, found in zip(files, guesses, strict=True)
        ]
        # A file's name may be no UTF-8: JSON has an escape for that.
        print(json.dumps(rows, indent=2, ensure_ascii=False).encode(errors="backslashreplace").decode())
        return
    for image, found in zip(files, guesses, strict=True):
        tell(out, image, style="bold")
        shown = Table("class", "probability", "", box=None)
        for g in found:
            shown.add_row(escape(g.label), f"{100 * g.probability:.2f} %", "█" * round(30 * g.probability))
        out.print(shown)


def _predict_to_csv(trained: Any, images: list[Path], table: Path, weights: Any, all_classes: bool) -> None:
    from densely.bulk import check_table, predict_to_csv

    check_table(table)
    try:
        tally = predict_to_csv(trained, images, table, weights=weights, all_classes=all_classes, console=out)
    except Interrupted as stop:
        raise ended(stop) from None
    lines = [f"Table          {table}, {counted(tally.predicted, 'image')}"]
    if tally.bad:
        lines.append(f"not read       {tally.bad:,}; the column error says why")
    if tally.others:
        lines.append(f"left out       {counted(tally.others, 'other file')}, by their names no images")
    tell(out, "\n".join(lines))
