"""The formats of an export: what each is called, and who writes and opens it."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

Format = Literal["onnx", "keras", "torch", "safetensors"]


class FileFormat(NamedTuple):
    """A format.

    Attributes:
        ending: of its files.
        library: that opens it, as model hubs call it.
        module: of this package, with `write` and `reopened`; empty for weights without a program.
    """

    ending: str
    library: str
    module: str


FORMATS: Mapping[Format, FileFormat] = {
    "onnx": FileFormat(".onnx", "onnx", "onnx"),
    "keras": FileFormat(".keras", "keras", "keras_file"),
    "torch": FileFormat(".pt2", "pytorch", "program"),
    "safetensors": FileFormat(".safetensors", "keras", ""),
}
