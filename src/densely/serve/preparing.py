"""From what was trained to what is served: an ONNX file, and samples from the run's test part.

In a process of its own, which ends: the server then has neither Keras nor PyTorch in memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from densely.errors import DenselyError, UsageError
from densely.runs import Run, Weights
from densely.serve import samples

MODEL, SAMPLES = "model.onnx", "samples"
"""What is written into the folder."""


def prepare(
    source: Path,
    folder: Path,
    weights: Weights = "final",
    data_dir: Path | None = None,
    with_samples: bool = True,
) -> None:
    """Write `model.onnx`, and samples where there are any, from a run folder or a `.safetensors` file.

    Args:
        source: of them.
        folder: to write to.
        weights: of a run: `"final"` or `"best"`.
        data_dir: where the run's data lie.
        with_samples: whether to write samples at all.

    Raises:
        UsageError: if the source is neither.
        DenselyError: if it is damaged.
    """
    asked = {
        "source": str(source),
        "folder": str(folder),
        "weights": weights,
        "data_dir": data_dir and str(data_dir),
        "with_samples": with_samples,
    }
    command = [sys.executable, "-m", __name__, json.dumps(asked)]
    # Not in the foreground group: Ctrl-C is this process's to tell of, and `run` then ends the other.
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        sentence = said[-1] if said else f"The export of {source} was ended by signal {-done.returncode}."
        raise (UsageError if done.returncode == UsageError.exit_code else DenselyError)(sentence)


def _prepare(source: str, folder: str, weights: Weights, data_dir: str | None, with_samples: bool) -> None:
    """The same, in the other process."""
    from densely.model_file import open_trained

    trained = open_trained(source)  # before anything large is loaded: a wrong path is told at once
    from densely.data import is_here
    from densely.export import onnx_file

    onnx_file(trained, Path(folder) / MODEL, weights)
    # A server asks nobody for anything: what would have to be downloaded is left out.
    if with_samples and isinstance(trained, Run) and is_here(trained.config.data, data_dir):
        from densely.training.parts import parts_of

        with suppress(DenselyError):  # data that have changed or gone: a page without samples
            test = parts_of(trained, data_dir).test
            if test is not None:
                samples.write(Path(folder) / SAMPLES, samples.of_dataset(test))


def main() -> None:
    """What `prepare` runs."""
    try:
        _prepare(**json.loads(sys.argv[1]))
    except DenselyError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
