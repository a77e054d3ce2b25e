"""An ONNX file whose kernels are 8-bit integers: a quarter of their space, and some of the accuracy lost."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densely.export.description import Description
from densely.export.folding import Folded
from densely.export.onnx import quiet
from densely.export.onnx import write as write_float32
from densely.model_file import KEY

CALIBRATION = 256
"""Training images that the ranges of the maps are taken from."""


def write(folded: Folded, description: Description, path: Path, images: NDArray[Any]) -> None:
    """Write a network as ONNX, its convolutions in int8: weights channel by channel, maps by ranges seen on images.

    Only the convolutions: what lies between two of them, a scale and a shift a channel, would lose the most.

    Args:
        folded: the network.
        description: of it, to travel inside.
        path: of the file.
        images: training images, as the model takes them.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    size = 32 if description.batch == "dynamic" else description.batch

    class Images(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            # A fixed batch must be whole: the last images are taken again to fill it.
            self.batches = iter([images[np.arange(i, i + size) % len(images)] for i in range(0, len(images), size)])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
        write_float32(folded, description, whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Processors without VNNI add pairs of products in 16 bits, which 7-bit weights cannot overflow.
            reduce_range=True,
        )
    model = onnx.load(path)
    model.producer_name, model.producer_version = "densely", description.densely
    onnx.helper.set_model_props(model, {KEY: description.model_dump_json()})
    onnx.save(model, path)
