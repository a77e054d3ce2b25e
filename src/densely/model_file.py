"""A trained network in one file: `MODEL.safetensors`, which `build(weights=…)`, `predict`, `serve` and `export` open.

The arrays bear the names of the network's Keras variables (`dense_block_1/layer_1/norm/gamma`, …), in float32 or
float16. The header holds what they mean, as JSON under the key `densely`: network, class names, input shape,
preprocessing. There is nothing in such a file that could be executed.
"""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from densely import pretrained
from densely.architecture import NetworkSpec, build
from densely.cost import parameters
from densely.data import Preprocessing
from densely.data.images import MAX_PIXELS
from densely.errors import DataError, DenselyError, UsageError
from densely.evaluation.views import ONE_VIEW, Views
from densely.files import write_whole
from densely.runs import Inputs, Run, Weights, reading

if TYPE_CHECKING:
    import keras

ENDING = ".safetensors"
KEY = "densely"
_FLOATS = ("F16", "F32")
"""The kinds of numbers that weights may be in."""


class Header(BaseModel):
    """What a file of weights says of them.

    Attributes:
        format: of the header.
        name: of the network, e.g. `densenet-fast`.
        network: the network itself.
        inputs: class names, input shape and preprocessing.
        views: at what of each image the scores of `origin` looked.
        origin: where the weights are from, in a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[\w.+ -]{1,100}$")
    network: NetworkSpec
    inputs: Inputs
    views: Views = ONE_VIEW
    origin: str = Field(default="", max_length=10_000)

    @model_validator(mode="after")
    def _belong_together(self) -> Header:
        """What is not true of any network that Densely wrote, and would fail later, far from its cause."""
        names, (height, width, channels) = self.inputs.class_names, self.inputs.input_shape
        if min(height, width) < 1 or height * width > MAX_PIXELS or channels != self.network.input_shape[2]:
            raise ValueError(f"images of {height}x{width}x{channels} are not those of the network")
        if len(names) != self.network.classes or len(set(names)) < len(names):
            raise ValueError(f"the network has {self.network.classes} classes, with {len(set(names))} different names")
        if any(unicodedata.category(sign) == "Cc" and sign not in "\t\n" for name in names for sign in name):
            raise ValueError("a class name has signs in it that control a terminal")
        if self.network.activation != "none" and self.inputs.multi_label != (self.network.activation == "sigmoid"):
            raise ValueError(f"{self.network.activation} does not go with multi_label={self.inputs.multi_label}")
        if not 0 <= self.views.shift < min(height, width):
            raise ValueError(f"images of {height}x{width} cannot be moved by {self.views.shift} pixels")
        try:
            fitted = Preprocessing.from_dict(self.inputs.preprocessing)
        except DenselyError as error:
            raise ValueError(str(error)) from None
        if len(fitted.mean) != channels:
            raise ValueError(f"the preprocessing is for {len(fitted.mean)} channels, not for {channels}")
        return self


class ModelFile:
    """A trained network in a `.safetensors` file, opened.

    Attributes:
        path: where it is.
        header: what it says of its weights.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.header = header

    @classmethod
    def open(cls, path: str | Path) -> ModelFile:
        """Open a model file; its weights are read by `model`.

        Raises:
            UsageError: if there is no such file.
            DataError: if it is damaged, or not one of Densely's.
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"There is no model file {path}: give a .safetensors file that Densely wrote.")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is damaged, or no safetensors file: {error}") from None
        if KEY not in metadata:
            raise DataError(f"{path} does not say which network its weights are of: Densely did not write it.")
        with reading(path):
            header = Header(**json.loads(metadata[KEY]))
        return cls(path, header)

    @property
    def name(self) -> str:
        """Of the network."""
        return self.header.name

    @property
    def network(self) -> NetworkSpec:
        """What the weights are of."""
        return self.header.network

    @property
    def inputs(self) -> Inputs:
        """Class names, input shape and preprocessing."""
        return self.header.inputs

    @property
    def views(self) -> Views:
        """At what of each image its scores looked."""
        return self.header.views

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns uint8 images into the network's input; the header has been checked to hold one."""
        return Preprocessing.from_dict(self.inputs.preprocessing)

    def model(self, weights: Weights = "final") -> keras.Model:
        """The network, built from the header and then given its weights, in float32.

        Args:
            weights: there are only `"final"` ones in a file.

        Raises:
            UsageError: for other weights.
            DataError: if the file is damaged, or its weights are not those of its network.
        """
        if weights != "final":
            raise UsageError(f"{self.path} holds one set of weights: leave --weights out.")
        count, size = parameters(self.network), self.path.stat().st_size
        if 2 * count > size:  # before memory is given to it
            raise DataError(f"{self.path} is damaged: it has {size:,} bytes for a network of {count:,} weights.")
        model = build(self.network)
        assign(model, self.path)
        return model


def assign(model: keras.Model, path: Path) -> None:
    """Give a network the weights of a model file, all of them or none.

    Args:
        model: the network.
        path: the file.

    Raises:
        DataError: if the file is damaged, or has other weights than the network.
    """
    wanted = {v.path: v for v in model.weights}
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            odd = sorted(wanted.keys() ^ names)
            if odd:
                holds = "has" if odd[0] in names else "lacks"
                raise DataError(f"{path} belongs to another network: it {holds} {odd[0]} ({len(odd)} such weights).")
            arrays = {}
            for name, variable in wanted.items():
                part = file.get_slice(name)
                shape, kind = tuple(part.get_shape()), part.get_dtype()
                if shape != tuple(variable.shape) or kind not in _FLOATS:
                    raise DataError(
                        f"{path} belongs to another network: {name} is {kind} {shape}, not F32 {tuple(variable.shape)}."
                    )
                arrays[name] = file.get_tensor(name).astype(np.float32)
                if not np.isfinite(arrays[name]).all():
                    raise DataError(f"{path} is damaged: {name} holds numbers that are not finite.")
                if name.endswith("moving_variance") and arrays[name].min() < 0:
                    raise DataError(f"{path} is damaged: {name} holds variances below zero.")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged, or no safetensors file: {error}") from None
    for name, variable in wanted.items():
        variable.assign(arrays[name])


def write(path: Path, model: keras.Model, header: Header, kind: Literal["float32", "float16"] = "float32") -> None:
    """Write a network into a model file, whole.

    Args:
        path: must end in `.safetensors`.
        model: one of Densely's networks, that of the header.
        header: what the weights mean.
        kind: numbers in which they are kept; float16 takes half the space and rounds to 11 bits.

    Raises:
        DataError: if it cannot be written, or a weight does not fit into the numbers.
    """
    import keras

    arrays = {
        v.path: np.ascontiguousarray(keras.ops.convert_to_numpy(v.value), dtype=np.float32) for v in model.weights
    }
    kept = {name: values.astype(kind) for name, values in arrays.items()}
    for name, values in kept.items():
        if not np.isfinite(values).all():
            raise DataError(f"The weights {name} do not fit into {kind}.")

    content = save(kept, {KEY: header.model_dump_json()})  # `save_file` would let nobody else read it
    write_whole(path, lambda aside: aside.write_bytes(content))


def open_trained(path: str | Path) -> Run | ModelFile:
    """A trained network, from wherever it is: a run folder, a `.safetensors` file, or what comes with Densely.

    All have `name`, `network`, `inputs`, `preprocessing`, `views` and `model()`.

    Args:
        path: a path, or a name in `densely.pretrained.SHIPPED`; a run folder of that name goes first.

    Raises:
        UsageError: if there is none.
        DataError: if it is damaged.
    """
    if pretrained.comes_along(path):
        return ModelFile.open(pretrained.path_of(str(path)))
    path = Path(path)
    if path.suffix.lower() == ENDING:
        return ModelFile.open(path)
    if path.suffix.lower() == ".keras" and path.is_file():
        raise UsageError(
            f"{path} is a Keras file, not a run folder or a {ENDING} file: open it in Python after `import "
            "densely.layers`, by keras.saving.load_model, and use that model's own predict, or its export for ONNX."
        )
    if not os.path.isdir(path):
        raise UsageError(
            f"There is no run folder {path}: give the folder that a training printed, a {ENDING} file, or the name of "
            f"weights that come with Densely ({', '.join(pretrained.SHIPPED)})."
        )
    return Run.open(path)
