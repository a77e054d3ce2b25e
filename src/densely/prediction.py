"""What a trained network says of single images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from densely.data import read_image
from densely.errors import UsageError
from densely.evaluation import probabilities
from densely.model_file import ModelFile
from densely.runs import Run, Weights


class Guess(NamedTuple):
    """A class and how likely the network holds it to be (0 to 1)."""

    label: str
    probability: float


def predict(
    run: Run | ModelFile, images: list[str | Path], *, top: int = 5, weights: Weights = "final"
) -> list[list[Guess]]:
    """The likeliest classes of image files, brought to the network's size as its training images were.

    For more images than fit into memory there is `densely.bulk.predict_to_csv`.

    Args:
        run: a trained network: an opened run, or a model file.
        images: paths of PNG, JPEG, WebP or BMP files.
        top: how many classes an image, likeliest first.
        weights: `"final"` or `"best"`.

    Raises:
        UsageError: if a file does not exist, or `top` is below 1.
        DataError: if a file is not an image.
    """
    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}.")
    height, width, channels = run.inputs.input_shape
    # Every image is read before the network is built: a wrong path is told at once.
    batch = np.stack([read_image(path, (height, width), channels) for path in images])
    p = probabilities(run.model(weights), batch, run.preprocessing, views=run.views)
    names = run.inputs.class_names
    return [[Guess(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]] for row in p]
