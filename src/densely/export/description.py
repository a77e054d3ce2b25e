"""What travels inside every exported model: what its images and its answers mean."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from densely.model_file import ModelFile
from densely.runs import Run
from densely.version import __version__

FILE = "densely.json"
"""What it is called where metadata are files."""


class Description(BaseModel):
    """What an exported model is, in its own metadata.

    Attributes:
        format: of this description.
        name: of the network.
        class_names: in the order of the probabilities.
        multi_label: whether each class has a probability of its own, in place of all adding up to 1.
        input_shape: (H, W, C) of its images, channels last.
        with_preprocessing: whether it takes uint8 images, 0 to 255; else it takes float32 that were preprocessed.
        preprocessing: what was, or has to be, done to the pixels: `(pixel / 255 − mean) / std`, channel by channel.
        batch: how many images it takes at a time, or `"dynamic"`.
        numbers: what its weights are in.
        densely: the version that wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    name: str
    class_names: tuple[str, ...]
    multi_label: bool
    input_shape: tuple[int, int, int]
    with_preprocessing: bool
    preprocessing: dict[str, Any]
    batch: int | Literal["dynamic"] = "dynamic"
    numbers: Literal["float32", "int8"] = "float32"
    densely: str = __version__


def describe(trained: Run | ModelFile, with_preprocessing: bool, **more: Any) -> Description:
    """The description of a trained network; `more` are further fields."""
    inputs = trained.inputs
    return Description(
        name=trained.name,
        class_names=inputs.class_names,
        multi_label=inputs.multi_label,
        input_shape=inputs.input_shape,
        with_preprocessing=with_preprocessing,
        preprocessing=inputs.preprocessing,
        **more,
    )
