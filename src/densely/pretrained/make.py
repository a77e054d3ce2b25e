"""Make a file of weights to ship from a run folder: `python -m densely.pretrained.make RUN OUT.safetensors`.

The same run gives the same bytes, whatever the machine and wherever the folder lies.
"""

from __future__ import annotations

import sys
from pathlib import Path

from densely import model_file
from densely.errors import DenselyError, UsageError
from densely.runs import Run


def make(run: Run, out: Path) -> None:
    """Write the final weights of a finished run, in float16.

    Args:
        run: with a scored test part.
        out: must end in `.safetensors`.

    Raises:
        UsageError: if the run did not finish, or `out` ends otherwise.
        DataError: if the run is damaged, or the file cannot be written.
    """
    if out.suffix != model_file.ENDING:
        raise UsageError(f"The file must end in {model_file.ENDING}, not {out.name!r}.")
    header = model_file.Header(
        name=run.name, network=run.network, inputs=run.inputs, views=run.views, origin=origin(run)
    )
    model_file.write(out, run.model(), header, "float16")


def origin(run: Run) -> str:
    """Where the weights of a run are from, in a sentence without a path."""
    config = run.config
    [(name, accuracy, of)] = run.scored()
    return (
        f"densely train {config.data_name} --recipe {config.recipe.name}, seed {config.seed}, "
        f"{config.recipe.epochs} epochs; {name.lower()} {accuracy} ({of}) as scored in float32."
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("python -m densely.pretrained.make RUN OUT.safetensors")
    try:
        make(Run.open(sys.argv[1]), Path(sys.argv[2]))
    except DenselyError as error:
        sys.exit(str(error))
