"""A `.keras` file of Keras's own layers, which Keras opens without Densely."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densely.export.checking import Answers
from densely.export.description import FILE, Description
from densely.export.folding import Folded


def write(folded: Folded, description: Description, path: Path) -> None:
    """Write a network for Keras: from images to probabilities, its description inside."""
    from densely.export.plain_keras import plain_model

    batch = None if description.batch == "dynamic" else description.batch
    plain_model(folded, description.name.replace("-", "_"), batch).save(path)
    with zipfile.ZipFile(path, "a") as file:  # Keras leaves alone what it does not know
        file.writestr(FILE, description.model_dump_json())


def reopened(path: Path) -> Answers:
    """A `.keras` file in Keras: from images to probabilities."""
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)

    def probabilities(images: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(model.predict_on_batch(images))

    return probabilities
