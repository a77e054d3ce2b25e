"""ONNX: written by PyTorch's exporter, read by ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densely.errors import UsageError
from densely.export.checking import Answers
from densely.export.description import Description
from densely.export.folding import Folded
from densely.model_file import KEY

PROBABILITIES, MAPS = "probabilities", "activation_maps"
"""The outputs: `(N, classes)`, and `(N, h, w, classes)` whose means over h and w are the logits."""


def check() -> None:
    """Told before anything is computed: that the libraries for it are not installed.

    Raises:
        UsageError: if they are not.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise UsageError(
            f"ONNX needs the package {error.name}, which is not installed: pip install 'densely[export]'."
        ) from None
    del onnx, onnxruntime, onnxscript


def write(folded: Folded, description: Description, path: Path) -> None:
    """Write a network as ONNX: input `image`, outputs `probabilities` and `activation_maps`, description inside."""
    import torch

    from densely.export.plain_torch import PlainDenseNet, example, shapes

    network = PlainDenseNet(folded, maps=True)
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")  # of PyTorch's about itself
        program: Any = torch.onnx.export(
            network,
            (example(folded, description.batch),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=[PROBABILITIES, MAPS],
            dynamic_shapes=shapes(description.batch),
        )
    model = program.model
    for part in (model.graph, *model.graph, *model.graph.inputs, *model.graph.outputs):
        part.metadata_props.clear()  # the lines of this program that made each node, with the paths of this machine
    for value in (value for node in model.graph for value in node.outputs):
        value.metadata_props.clear()
    model.producer_name, model.producer_version = "densely", description.densely
    model.metadata_props[KEY] = description.model_dump_json()
    program.save(path, external_data=False)


def reopened(path: Path) -> Answers:
    """An ONNX file in ONNX Runtime: from images to probabilities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def probabilities(images: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(session.run([PROBABILITIES], {"image": images})[0])

    return probabilities


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence for PyTorch's exporter, which tells every user what it did and did not find."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
