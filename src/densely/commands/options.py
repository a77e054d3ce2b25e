"""What several commands take, and how it is read from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from densely.errors import UsageError

RecipeOption = Annotated[str, typer.Option(help="How to train; `densely recipes` lists them.")]
ModelOption = Annotated[
    str | None, typer.Option(help="A network's name; `densely models` lists them.", show_default="recipe")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/digits-1.")]
WeightsOption = Annotated[
    str, typer.Option(metavar="final|best", help="The last epoch's weights, or those best on the validation part.")
]
Trained = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|MODEL", help="A run folder, a .safetensors file, or cifar10, which comes with Densely."
    ),
]
StartOption = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Start from trained weights: a run folder, a .safetensors file, or cifar10.",
        show_default="none",
        rich_help_panel="Fine-tuning",
    ),
]
FreezeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        help="Keep the layers up to this one as they are: dense_block_1, transition_1, …",
        show_default="none",
        rich_help_panel="Fine-tuning",
    ),
]
RatesOption = Annotated[
    float | None,
    typer.Option(
        help="Each stage learns at so many times the rate of the next, above 0 to 1 (SGD, Muon).",
        show_default="1",
        rich_help_panel="Fine-tuning",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Where built-in data lie.", envvar="DENSELY_DATA", show_default="~/.cache/densely/data"),
]
Limit = Annotated[int | None, typer.Option(help="Use at most this many images of each part.", show_default="all")]
SkipBad = Annotated[
    bool | None,
    typer.Option("--skip-bad/--no-skip-bad", help="Leave out files that cannot be read as images.", show_default="no"),
]
ImageSize = Annotated[
    str | None, typer.Option(metavar="N|HxW", help="Bring your own images to this size.", show_default="by data")
]
Channels = Annotated[
    int | None, typer.Option(help="Bring your own images to grey (1) or colour (3).", show_default="by data")
]
ReportOption = Annotated[
    bool | None,
    typer.Option(
        "--report/--no-report", help="Write report.html at the end.", envvar="DENSELY_REPORT", show_default="yes"
    ),
]


def numbers(option: str, text: str, counts: tuple[int, ...], example: str) -> tuple[int, ...]:
    """Whole numbers with `x` between them.

    Raises:
        UsageError: for anything else, or another count of them.
    """
    words = text.lower().replace("×", "x").split("x")
    if len(words) not in counts or not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(f"{option} must look like {example}, not {text!r}.")
    return tuple(map(int, words))


def image_size(text: str | None) -> tuple[int, int] | None:
    """Height and width as `--size` has them."""
    if text is None:
        return None
    found = numbers("--size", text, (1, 2), "64 or 48x64")
    return found[0], found[-1]


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    """The value of an option, told where it is none of the choices."""
    if value not in choices:
        raise UsageError(f"{option} must be one of {', '.join(choices)}, not {value!r}.")
    return value


def writable(target: Path, ending: str) -> None:
    """Told before anything is computed: a file that could not be written."""
    if target.suffix.lower() != ending:
        raise UsageError(f"--out must end in {ending}, not {target.name!r}.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write {target.name} in: make it first.")


def which_weights(value: str) -> Any:
    """The value of `--weights`, told where it is neither."""
    return choice("--weights", value, ("final", "best"))


def known(recipe: str, model: str | None = None) -> None:
    """Told of a mistyped name before data are read and the engine is loaded."""
    from densely.architecture import spec
    from densely.recipes import named

    if model is not None:
        spec(model)
    named(recipe)
