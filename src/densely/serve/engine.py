"""The exported network: an ONNX file whose graph takes raw pixels, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from densely.console import counted
from densely.errors import DataError, UsageError, reason
from densely.export.description import Description
from densely.export.onnx import MAPS, PROBABILITIES
from densely.machine import cores
from densely.model_file import KEY
from densely.runs import reading

ENDING = ".onnx"


class Found(NamedTuple):
    """What a network says of a batch.

    Attributes:
        probabilities: float32 `(N, classes)`.
        maps: class activation maps, float32 `(N, h, w, classes)`; None where they were not asked for.
    """

    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32] | None


class Engine:
    """An ONNX file, opened and tried.

    Args:
        path: of the file.
        threads: that one batch is computed with; default one a core that this process may use.

    Attributes:
        meaning: what the file says of itself.

    Raises:
        UsageError: there is no such file, or it takes preprocessed pixels, or a fixed number of images.
        DataError: it is damaged, or none that `densely export` wrote.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not path.is_file():
            raise UsageError(f"There is no model file {path}: give a run folder, or a file that densely export wrote.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.inter_op_num_threads = 1
        # Threads that spin while they wait would take the cores from those that decode and answer.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # ONNX Runtime's own errors have no common parent
            raise DataError(f"{path} is damaged, or no ONNX file: {reason(error)}") from None
        if KEY not in metadata:
            raise DataError(
                f"{path} does not say what its numbers mean: densely export did not write it; ask it with ONNX Runtime."
            )
        with reading(path):
            self.meaning = Description.model_validate_json(metadata[KEY])
        if not self.meaning.with_preprocessing:
            raise UsageError(f"{path} takes preprocessed pixels: export it again --with-preprocessing.")
        if self.meaning.batch != "dynamic":
            raise UsageError(
                f"{path} takes exactly {counted(int(self.meaning.batch), 'image')} at a time: export it again without "
                "--batch."
            )
        self._check(path)

    def _check(self, path: Path) -> None:
        """One black image through the network: what it takes and gives must be what it says."""
        shape, classes = self.meaning.input_shape, len(self.meaning.class_names)
        inputs = {found.name: (found.type, list(found.shape)[1:]) for found in self._session.get_inputs()}
        if inputs != {"image": ("tensor(uint8)", list(shape))}:
            raise DataError(f"{path} takes {inputs}, not images of {shape} as uint8: export it again.")
        try:
            found = self.run(np.zeros((2, *shape), dtype=np.uint8), maps=True)
        except Exception as error:  # ONNX Runtime's own errors have no common parent
            raise DataError(f"{path} fails on a black image: {reason(error)}") from None
        p, maps = found.probabilities, found.maps
        if p.shape != (2, classes) or maps is None or maps.ndim != 4 or maps.shape[3] != classes:
            raise DataError(f"{path} gives {p.shape} probabilities for 2 images of {classes} classes: export it again.")

    def run(self, images: NDArray[np.uint8], maps: bool = False) -> Found:
        """Ask the network.

        Args:
            images: uint8 `(N, H, W, C)`, raw.
            maps: whether class activation maps are wanted.
        """
        names = [PROBABILITIES, MAPS] if maps else [PROBABILITIES]
        found: list[Any] = self._session.run(names, {"image": images})
        return Found(found[0], found[1] if maps else None)
