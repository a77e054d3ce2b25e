"""Weights that Keras 2 saved, as the old notebook did: HDF5, the layers in the network's order ("topological").

    /                    layer_names = [b"conv2d_1", b"batch_normalization_1", …]      or all of it in /model_weights
    /conv2d_1            weight_names = [b"conv2d_1/kernel:0", b"conv2d_1/bias:0"]
    /conv2d_1/conv2d_1/kernel:0        the array

The file is not trusted: only what it names is read, through no link, and only arrays of plain numbers that take as many
bytes in the file as they claim. Keras compresses nothing, so compressed arrays are refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from densely.conversion.damage import told
from densely.conversion.layers import Array, Layer, layer
from densely.errors import DataError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
KINDS = frozenset(
    (
        *("InputLayer", "Conv2D", "Convolution2D", "BatchNormalization", "Activation", "ReLU", "Dropout"),
        *("Concatenate", "Merge", "AveragePooling2D", "GlobalAveragePooling2D", "Dense"),
    )
)
"""Layers that a DenseNet is made of, where a file tells what it was made of."""

TEXTS = 2**28
"""Bytes that reading texts may take. Each says its own length, up to four gibibytes; many may be one and the same."""


class Said(NamedTuple):
    """What a file that holds the whole model says of it; each `None` where it does not.

    Attributes:
        epsilon: of its batch normalisations.
        activation: of its classifier.
        size: (height, width) of its images.
    """

    epsilon: float | None = None
    activation: str | None = None
    size: tuple[int, int] | None = None


def read(path: Path) -> tuple[list[Layer], Said]:
    """The layers with weights, in the network's order, and what the file says besides.

    Raises:
        DataError: if the file is damaged, is not one of Keras 2's, or holds what no DenseNet has.
    """
    import h5py

    with told(path), h5py.File(path, "r") as file:
        group = _inside(file, "model_weights") if "model_weights" in file else file
        reader = _Reader(room=path.stat().st_size)
        names = reader.names(group, "layer_names")
        if names is None:
            hint = (
                "Keras 3 wrote it, whose own load_weights opens it" if "layers" in file else "something else wrote it"
            )
            raise DataError(f"{path} is no file of Keras 2's weights, because it has no layer_names: {hint}.")
        layers = []
        for name in names:
            inside = _inside(group, name)
            arrays = [reader.array(inside, weight) for weight in reader.names(inside, "weight_names") or []]
            if arrays:
                layers.append(layer(f"layer {name}", arrays))
        return layers, _said(file)


class _Reader:
    """Reads names and arrays, as long as all of them together claim no more bytes than the file has.

    Attributes:
        room: bytes that are left.
    """

    def __init__(self, room: int) -> None:
        self.room = room

    def names(self, group: Any, attribute: str) -> list[str] | None:
        """A list of names; Keras 2 cuts one that HDF5 finds too long into `attribute0`, `attribute1`, …"""
        if attribute in group.attrs:
            return self._names(group, attribute)
        found: list[str] = []
        for number in itertools.count():
            part = f"{attribute}{number}"
            if part not in group.attrs:
                return found if number else None
            found += self._names(group, part)
        raise AssertionError  # numbers do not end

    def _names(self, group: Any, attribute: str) -> list[str]:
        import h5py

        held = group.attrs.get_id(attribute)
        if held.shape == (0,):
            return []
        # As h5py 2 wrote it, of fixed length; or as h5py 3 does, of any.
        if len(held.shape) != 1 or not (held.dtype.kind == "S" or h5py.check_string_dtype(held.dtype)):
            raise ValueError(f"its {attribute} is no list of names")
        with _bounded(attribute):
            names = group.attrs[attribute].tolist()
        found = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
        self._take(sum(map(len, found)), attribute)
        return found

    def array(self, group: Any, name: str) -> Array:
        """The array of a weight."""
        import h5py

        found = _inside(group, name)
        if not isinstance(found, h5py.Dataset) or found.dtype.kind != "f" or found.dtype.itemsize > 8:
            raise ValueError(f"{name} is no array of numbers")
        created = found.id.get_create_plist()
        if found.is_virtual or created.get_external_count() or created.get_nfilters():
            raise ValueError(f"{name} lies in another file, or is compressed, as Keras leaves none")
        self._take(found.nbytes, name)
        with np.errstate(over="ignore"):  # what does not fit into float32 becomes infinite, and is refused as that
            return np.asarray(found[()], dtype=np.float32)

    def _take(self, size: int, name: str) -> None:
        self.room -= size
        if self.room < 0:
            raise ValueError(f"what it holds up to {name} claims more bytes than the file has")


@contextlib.contextmanager
def _bounded(attribute: str) -> Iterator[None]:
    """Inside, the process may grow by `TEXTS` and no more; HDF5 has no other way of being told. On Linux only."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    wanted = now + TEXTS
    resource.setrlimit(
        resource.RLIMIT_AS, (wanted if before[0] == resource.RLIM_INFINITY else min(wanted, before[0]), before[1])
    )
    try:
        yield
    except MemoryError:
        raise ValueError(f"its {attribute} claims more than {TEXTS:,} bytes of text") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _inside(group: Any, name: str) -> Any:
    """What lies below a group, step by step, so that no link leads anywhere else."""
    import h5py

    for step in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(step, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is not in it, or is a link")
        group = group[step]
    return group


def _said(file: Any) -> Said:
    """From `model_config`, which `model.save` writes and `save_weights` does not."""
    if "model_config" not in file.attrs or file.attrs.get_id("model_config").shape != ():
        return Said()
    with _bounded("model_config"):
        text = file.attrs["model_config"]
    config = json.loads(text if isinstance(text, str | bytes) else bytes(text))["config"]
    layers = [
        (str(item["class_name"]), item["config"]) for item in (config if isinstance(config, list) else config["layers"])
    ]
    if odd := sorted({kind for kind, _ in layers} - KINDS):
        raise ValueError(f"its model has a layer {odd[0]}, which the notebook's DenseNet has not")
    epsilons = {float(item["epsilon"]) for kind, item in layers if kind == "BatchNormalization" and "epsilon" in item}
    if len(epsilons) > 1:
        raise ValueError(f"its batch normalisations have several epsilons, {min(epsilons)} and {max(epsilons)}")
    pools = [(kind, item.get("pool_size")) for kind, item in layers if kind == "AveragePooling2D"]
    if odd_pools := [size for _, size in pools if size is not None and list(size) != [2, 2]]:
        raise ValueError(f"its poolings are over {odd_pools[0]}, not 2×2")
    # Of the classifier, or of a layer of its own behind it.
    ends = [str(item.get("activation")) for kind, item in layers if kind in ("Dense", "Activation")]
    activation = ends[-1] if any(kind == "Dense" for kind, _ in layers) else None
    if activation not in (None, "softmax", "sigmoid"):
        raise ValueError(f"its classifier ends in {activation}, not in softmax or sigmoid")
    shape = next((item["batch_input_shape"] for _, item in layers if "batch_input_shape" in item), None)
    size = None
    if shape is not None and len(shape) == 4:
        first = any(item.get("data_format") == "channels_first" for _, item in layers)
        height, width = shape[2:] if first else shape[1:3]
        size = (int(height), int(width)) if height and width else None
    return Said(next(iter(epsilons), None), activation, size)
