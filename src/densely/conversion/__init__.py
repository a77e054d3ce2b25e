"""Weights that other programs saved, into a model file of Densely: `densely convert`.

`keras2.py` and `torchvision.py` read files into layers in order (`layers.py`), `structure.py` recognises the network
from their shapes, and here it is built, given its weights, and written.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densely import architecture
from densely.architecture import NETWORKS, NetworkSpec
from densely.console import counted
from densely.conversion import keras2, torchvision
from densely.conversion.structure import Structure, recognise
from densely.data import Preprocessing
from densely.data.cifar import CIFAR10_NAMES
from densely.errors import DataError, UsageError
from densely.model_file import ENDING, Header, ModelFile, write
from densely.runs import Inputs

#: In torchvision and in the authors' repository, but not in the paper: growth rate 48.
DENSENET_161 = architecture.spec(NETWORKS["densenet-121"], layers=(6, 12, 36, 24), growth_rate=48, stem_filters=96)
TORCH_ENDINGS = (".pth", ".pt", ENDING)


def convert(
    weights: str | Path,
    out: str | Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> ModelFile:
    """Make a model file of weights that Keras 2 or torchvision saved.

    The network is recognised from the shapes in the file. Keras 2's files hold a DenseNet as the old notebook's
    `create_dense_net` built it, of any size; torchvision's a DenseNet-121, 161, 169 or 201, or another with its parts.

    Args:
        weights: HDF5 of `model.save_weights` or `model.save` in Keras 2; or a state dict as `.pth`, `.pt` or
            `.safetensors`. Nothing in it is run.
        out: the model file, ending in `.safetensors`; default: in the current folder, with the name of `weights`.
        classes: their names in the order of the network's outputs. Default: CIFAR-10's for a network of Keras 2 with
            ten classes of colour images, else `class 0`, `class 1`, …
        size: (height, width) that images are brought to. Default: 32×32 for Keras 2 or what its file says, 224×224
            for torchvision.

    Returns:
        The model file, opened.

    Raises:
        UsageError: if there is no such file, it is of another kind, `out` exists, or `classes` or `size` do not fit.
        DataError: if the file is damaged, or holds no such DenseNet; the first place where they part is told.
    """
    path = Path(weights)
    if not os.path.isfile(path):  # which says no to a name that is too long, too
        raise UsageError(f"There is no file of weights {path}: check the path.")
    target = _target(path, out)
    if _is_hdf5(path):
        header, structure = _from_keras2(path, size)
    elif path.suffix.lower() in TORCH_ENDINGS:
        header, structure = _from_torchvision(path, size)
    else:
        raise UsageError(
            f"{path} is no file of weights that can be converted: give HDF5 that Keras 2 saved, or a state dict of "
            f"torchvision's that ends in {', '.join(TORCH_ENDINGS)}."
        )
    if classes is not None:
        names = check_classes(classes, header.network.classes)
        header = header.model_copy(update={"inputs": header.inputs.model_copy(update={"class_names": names})})
    model = architecture.build(header.network)
    # The spec was made from these arrays, so they fit: one that did not would be a fault of ours.
    for variable in model.weights:
        variable.assign(structure.arrays.pop(variable.path))
    write(target, model, header)
    return ModelFile.open(target)


def check_classes(classes: Sequence[str], count: int) -> tuple[str, ...]:
    """Names of classes, if they fit a network.

    Raises:
        UsageError: if they are not `count` different names.
    """
    names = tuple(classes)
    if len(names) != count:
        raise UsageError(f"The network has {counted(count, 'class')}, and {len(names)} names were given.")
    for i, name in enumerate(names):
        if not name.strip() or any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name):
            raise UsageError(f"Class name {i + 1}, {name!r}, is empty or cannot be printed: give it another.")
        if name in names[:i]:
            raise UsageError(f"Two classes are called {name!r}: give each a name of its own.")
    return names


def read_classes(text: str) -> tuple[str, ...]:
    """Names of classes from what was typed: a file with one a line, or names with commas between them.

    Raises:
        UsageError: if it names a file that is not there, or cannot be read as text.
    """
    path = Path(text)
    if "," in text and not path.is_file():
        return tuple(name.strip() for name in text.split(","))
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = file.read(10_000_000).splitlines()
    except (OSError, ValueError):
        raise UsageError(
            f"There is no file {text} with a class name a line, as UTF-8 text: check the path, or give the names with "
            "commas between them."
        ) from None
    return tuple(line.strip() for line in lines if line.strip())


def _target(path: Path, out: str | Path | None) -> Path:
    """Where the model file goes; told before anything is read."""
    target = Path(f"{path.stem}{ENDING}") if out is None else Path(out)
    if out is None and target.resolve() == path.resolve():
        raise UsageError(f"{path} has the model file's name already: name another with --out.")
    if target.suffix != ENDING:
        raise UsageError(f"The model file must end in {ENDING}, not {target.name!r}.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write {target.name} in: make it first.")
    if target.exists():
        raise UsageError(f"{target} exists already: remove it, or write to another file with --out.")
    return target


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(keras2.SIGNATURE)) == keras2.SIGNATURE


def _from_keras2(path: Path, size: tuple[int, int] | None) -> tuple[Header, Structure]:
    layers, said = keras2.read(path)
    structure = _recognised(path, layers)
    if structure.fields["stem"] != "cifar":
        raise DataError(f"{path} begins with a 7×7 convolution: the notebook's network begins with a 3×3.")
    activation = said.activation or "softmax"
    notebook, epsilon = NETWORKS["notebook"], said.epsilon
    changes = {"activation": activation, **({} if epsilon is None else {"norm_epsilon": epsilon})}
    network = _network(path, notebook, structure, size or said.size or (32, 32), **changes)
    channels, count = structure.channels, network.classes
    names = CIFAR10_NAMES if (count, channels) == (10, 3) else _numbered(count)
    unit = Preprocessing("unit", (0.0,) * channels, (1.0,) * channels)
    name = "notebook" if _same(network, notebook) else "custom"
    return _header(path, name, network, names, unit, "weights that Keras 2 saved"), structure


def _from_torchvision(path: Path, size: tuple[int, int] | None) -> tuple[Header, Structure]:
    structure = _recognised(path, torchvision.read(path))
    if structure.channels != 3 or structure.fields["stem"] != "imagenet":
        raise DataError(
            f"{path} begins otherwise than torchvision's DenseNets, with a 7×7 convolution of colour images."
        )
    network = _network(path, NETWORKS["densenet-121"], structure, size or (224, 224))
    named = {**NETWORKS, "densenet-161": DENSENET_161}
    name = next((name for name, other in named.items() if _same(network, other)), "custom")
    standardise = Preprocessing("standardise", torchvision.MEAN, torchvision.STD)
    names = _numbered(network.classes)
    return _header(path, name, network, names, standardise, "weights of torchvision"), structure


def _recognised(path: Path, layers: Sequence[Any]) -> Structure:
    try:
        return recognise(layers)
    except ValueError as error:
        raise DataError(f"{path} does not hold a DenseNet of this kind: {error}.") from None


def _network(path: Path, base: NetworkSpec, structure: Structure, size: tuple[int, int], **changes: Any) -> NetworkSpec:
    fields = {**structure.fields, **changes}
    try:
        network = architecture.spec(base, **fields, input_shape=(None, None, structure.channels))
    except UsageError as error:
        raise DataError(f"{path} does not hold a DenseNet of this kind: {error}") from None
    if base.layers is None and len(set(network.block_layers)) == 1:
        # Written by its depth, as the paper and the notebook name such networks.
        each = network.block_layers[0] * (2 if network.bottleneck else 1)
        blocks = len(network.block_layers)
        network = architecture.spec(network, depth=4 + each * blocks, blocks=None if blocks == 3 else blocks)
    return architecture.spec(network, input_shape=(*size, structure.channels))


def _same(one: NetworkSpec, other: NetworkSpec) -> bool:
    """Whether two networks differ at most in their classes and the size of their images."""

    def parts(network: NetworkSpec) -> tuple[Any, ...]:
        own = {"input_shape", "classes", "activation", "depth", "blocks", "layers", "stem_filters"}
        return network.model_dump(exclude=own), network.block_layers, network.stem_width

    return parts(one) == parts(other)


def _header(
    path: Path, name: str, network: NetworkSpec, names: tuple[str, ...], preprocessing: Preprocessing, what: str
) -> Header:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file's name can hold bytes that are no text.
    called = path.name.encode("utf-8", "backslashreplace").decode("utf-8")
    height, width, channels = network.input_shape
    assert height is not None and width is not None
    inputs = Inputs(
        class_names=names,
        multi_label=network.activation == "sigmoid",
        input_shape=(height, width, channels),
        preprocessing=preprocessing.as_dict(),
    )
    origin = f"Converted from {called}, {what} (SHA-256 {digest})."
    return Header(name=name, network=network, inputs=inputs, origin=origin)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {i}" for i in range(count))
