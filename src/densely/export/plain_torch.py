"""A folded network as ordinary PyTorch operators: what `torch.export` and the ONNX exporter are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from densely.export.folding import Affine, Array, Convolution, Folded, Grow, Halve, MaxPool, Relu, Step


class PlainDenseNet(nn.Module):
    """A DenseNet for inference: images `(N, H, W, C)` to probabilities `(N, classes)`.

    Images are uint8, 0 to 255, where the preprocessing is a part of the network; else float32, preprocessed.

    Args:
        folded: the network.
        maps: give class activation maps `(N, h, w, classes)` as well; the mean of one is its logit.
    """

    def __init__(self, folded: Folded, maps: bool = False) -> None:
        super().__init__()
        self.maps = maps
        self.activation = folded.activation
        self.prepare = nn.Identity() if folded.prepare is None else _module(folded.prepare)
        self.features = _chain(folded.steps)
        self.classifier = _module(folded.classifier)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Classify images."""
        x = self.prepare(image.permute(0, 3, 1, 2).to(torch.float32))
        maps = self.classifier(self.features(x))
        p = maps.mean((2, 3))
        if self.activation == "softmax":
            p = torch.softmax(p, dim=1)
        elif self.activation == "sigmoid":
            p = torch.sigmoid(p)
        return (p, maps.permute(0, 2, 3, 1)) if self.maps else p


def example(folded: Folded, batch: int | str) -> Tensor:
    """Images such as a network takes, for tracing; of a free batch two, because PyTorch takes one for a constant."""
    kind = torch.float32 if folded.prepare is None else torch.uint8
    return torch.zeros((2 if isinstance(batch, str) else batch, *folded.input_shape), dtype=kind)


def shapes(batch: int | str) -> dict[str, Any] | None:
    """What of the shape of `image` is left open when a network is traced: of a free batch the number of images."""
    return {"image": {0: torch.export.Dim("batch")}} if isinstance(batch, str) else None


def _chain(steps: Sequence[Step]) -> nn.Module:
    return nn.Sequential(*(_module(step) for step in steps))


def _module(step: Step) -> nn.Module:
    match step:
        case Affine():
            return _Affine(step)
        case Convolution():
            return _Convolution(step)
        case Relu():
            return nn.ReLU()
        case Halve():
            return nn.AvgPool2d(2)
        case MaxPool():
            return nn.MaxPool2d(step.side, stride=2, padding=1 if step.side == 3 else 0)
        case Grow():
            return _Grow(step)


class _Affine(nn.Module):
    scale: Tensor
    shift: Tensor

    def __init__(self, step: Affine) -> None:
        super().__init__()
        self.register_buffer("scale", _tensor(step.scale).reshape(1, -1, 1, 1))
        self.register_buffer("shift", _tensor(step.shift).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class _Convolution(nn.Module):
    weight: Tensor
    bias: Tensor

    def __init__(self, step: Convolution) -> None:
        super().__init__()
        self.stride = step.stride
        self.padding = step.padding
        self.register_buffer("weight", _tensor(step.kernel.transpose(3, 2, 0, 1)))
        self.register_buffer("bias", _tensor(step.bias))

    def forward(self, x: Tensor) -> Tensor:
        if self.padding != "same":
            return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        # Keras puts the odd pixel below and to the right.
        pads: list[int] = []
        for length, side in zip(x.shape[:1:-1], self.weight.shape[:1:-1], strict=True):
            lacking = max(0, (-(-length // self.stride) - 1) * self.stride + side - length)
            pads += [lacking // 2, lacking - lacking // 2]
        x = functional.pad(x, pads) if any(pads) else x
        return functional.conv2d(x, self.weight, self.bias, self.stride)


class _Grow(nn.Module):
    def __init__(self, step: Grow) -> None:
        super().__init__()
        self.new = _chain(step.steps)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], dim=1)


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
