"""Weights of torchvision's DenseNets: a state dict, as `.pth` or `.pt`, or the same names in `.safetensors`.

The file is not trusted. `torch.load` runs with `weights_only=True`; before it does, the pickle inside is looked through
for anything but tensors, and a zip for members that would unpack to more than the file has.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from densely.conversion.damage import told
from densely.conversion.layers import Array, Layer, layer
from densely.errors import UsageError
from densely.model_file import KEY

if TYPE_CHECKING:
    import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1], which these networks were trained on."""

HEAD = 16 * 2**20
"""Bytes of an old file in which its pickles must end: those of a DenseNet take less than one mebibyte."""

_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Float|Half|BFloat16|Double|Long)Storage"
)
"""All that a state dict needs; `torch.load` itself admits more, as what reserves memory by its word."""

_OLD = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
"""Names in the published files are older than the code: `denselayer1.norm.1.weight` is `denselayer1.norm1.weight`."""

_N = r"([1-9]\d{0,3})"
_ORDER = (
    (r"features\.(conv)0", r"features\.(norm)0"),
    (
        rf"features\.denseblock{_N}\.denselayer{_N}\.(norm1|conv1|norm2|conv2)",
        rf"features\.transition{_N}\.(norm|conv)",
    ),
    (r"features\.(norm)5", r"(classifier)"),
)
_WITHIN = ("norm1", "conv1", "norm2", "conv2")


def read(path: Path) -> list[Layer]:
    """The layers, in the network's order.

    Raises:
        UsageError: if it is a model file of Densely already.
        DataError: if the file is damaged, or holds what no DenseNet of torchvision has.
    """
    with told(path):
        tensors = _safetensors(path) if path.suffix.lower() == ".safetensors" else _state_dict(path)
        return list(_layers(tensors, path.stat().st_size))


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            if KEY in (file.metadata() or {}):
                raise UsageError(f"{path} is a model file of Densely already: use it as it is.")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"it is damaged, or no safetensors file: {error}") from None


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    import torch

    _look_through(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    # Trainings write more than the weights, and name what holds them so.
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError("it holds no state dict")
    return found


def _look_through(path: Path) -> None:
    """Before `torch.load`: that pickles name nothing but tensors, and that nothing is packed."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"  # as `torch.load` decides
    if is_zip != zipfile.is_zipfile(path):
        raise ValueError("it is one kind of file at its beginning and another at its end")
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > path.stat().st_size:
                raise ValueError("it claims more than it holds, or is compressed, as torch.save leaves nothing")
            pickles = [member for member in members if member.filename.endswith("data.pkl")]
            if len(pickles) != 1:
                raise ValueError("it is a zip archive, but not one of torch.save")
            _check_pickle(io.BytesIO(archive.read(pickles[0])))
        return
    with path.open("rb") as file:
        head = io.BytesIO(file.read(HEAD))
    for _ in range(4):  # a number, a version, the machine, the weights; then plain bytes
        _check_pickle(head)


def _check_pickle(stream: io.BytesIO) -> None:
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "STACK_GLOBAL" or operation.name in ("INST", "EXT1", "EXT2", "EXT4"):
            raise ValueError("its pickle names things as torch.save does not")
        if operation.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            raise ValueError(f"its pickle asks for {argument}, more than a state dict of weights needs")


def _layers(tensors: dict[str, Any], room: int) -> Iterator[Layer]:
    import torch

    modules: dict[str, dict[str, torch.Tensor]] = {}
    for full, tensor in tensors.items():
        name = _OLD.sub(r"\1\2.", full.removeprefix("module."))
        module, _, part = name.rpartition(".")
        if part == "num_batches_tracked":
            continue
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            raise ValueError(f"{full} is no plain tensor")
        # A view can repeat one number without end.
        room -= tensor.numel() * tensor.element_size()
        if room < 0:
            raise ValueError(f"its tensors up to {full} claim more bytes than the file has")
        if part in modules.setdefault(module, {}):
            raise ValueError(f"it has {name} twice, by an old and a new name")
        modules[module][part] = tensor
    for module in sorted(modules, key=_place):
        yield layer(module, _arrays(module, modules[module]))


def _place(module: str) -> tuple[int, ...]:
    """Where a module stands in the network, by its name."""
    for part, patterns in enumerate(_ORDER):
        for kind, pattern in enumerate(patterns):
            if (match := re.fullmatch(pattern, module)) is None:
                continue
            *numbers, word = match.groups()
            if part != 1:
                return part, kind
            block, at = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0
            return part, block, kind, at, _WITHIN.index(word) if word in _WITHIN else int(word == "conv")
    raise ValueError(f"it has weights of {module!r}, which no DenseNet of torchvision has")


def _arrays(module: str, parts: dict[str, torch.Tensor]) -> list[Array]:
    """As Keras orders them and lays them out."""
    import torch

    if {"running_mean", "running_var"} & parts.keys():
        order: tuple[str, ...] = ("weight", "bias", "running_mean", "running_var")
    else:
        order = ("weight", "bias") if "bias" in parts else ("weight",)
    if odd := sorted(parts.keys() ^ set(order)):
        raise ValueError(f"{module} {'has' if odd[0] in parts else 'lacks'} {odd[0]}")
    arrays = []
    for name in order:
        if parts[name].dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"{module}.{name} is {parts[name].dtype}, not float32")
        array = parts[name].detach().to(torch.float32).numpy()
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
        arrays.append(np.ascontiguousarray(array.transpose(axes)))
    return arrays
