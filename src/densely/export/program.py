"""A `.pt2` file: a program of `torch.export`, which PyTorch opens without Densely."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densely.export.checking import Answers
from densely.export.description import FILE, Description
from densely.export.folding import Folded


def write(folded: Folded, description: Description, path: Path) -> None:
    """Write a network as a program of PyTorch: from images to probabilities, its description inside."""
    import torch

    from densely.export.plain_torch import PlainDenseNet, example, shapes

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's about itself
        program = torch.export.export(
            PlainDenseNet(folded),
            (example(folded, description.batch),),
            dynamic_shapes=shapes(description.batch),
        )
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # the lines of this program that made it, with this machine's paths
        torch.export.save(program, path, extra_files={FILE: description.model_dump_json()})


def reopened(path: Path) -> Answers:
    """A `.pt2` file in PyTorch: from images to probabilities."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()

    def probabilities(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(module(torch.tensor(images)).numpy())

    return probabilities
