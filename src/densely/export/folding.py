"""A trained network in few kinds of steps, its batch normalisations folded: what every export is made from.

In a DenseNet a normalisation stands before its convolution, and what it reads is read by other layers too. So

- what normalises the output of a bottleneck convolution (or of the ImageNet stem) goes into that convolution:
  s·(W·x + b) + t = (s·W)·x + (s·b + t);
- any other becomes one scale and one shift a channel, with s = γ/√(variance + ε) and t = β − mean·s;
- a transition takes its 2×2 means before its 1×1 convolution: both are linear, and it is a quarter of the work.

The global mean and the classifier change places too (see `densely.explain`): class activation maps are then on the way
to the logits, and cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from densely.architecture import NetworkSpec
from densely.data import Preprocessing

if TYPE_CHECKING:
    import keras

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """s·x + t, channel by channel."""

    scale: Array
    shift: Array


@dataclass(frozen=True)
class Convolution:
    """A kernel `(h, w, in, out)`, a bias `(out,)`; padded by so many pixels, or as Keras's "same" is."""

    kernel: Array
    bias: Array
    stride: int = 1
    padding: int | Literal["same"] = "same"


@dataclass(frozen=True)
class Relu:
    """What is below zero becomes zero."""


@dataclass(frozen=True)
class Halve:
    """Means of 2×2 pixels."""


@dataclass(frozen=True)
class MaxPool:
    """The greatest of 2×2 pixels, or of 3×3 at every second one.

    The latter is behind a ReLU, so that a border of zeros, one pixel wide, changes nothing.
    """

    side: Literal[2, 3]


@dataclass(frozen=True)
class Grow:
    """All that came before, and beside it what these steps make of it."""

    steps: tuple[Step, ...]


Step = Affine | Convolution | Relu | Halve | MaxPool | Grow


@dataclass(frozen=True)
class Folded:
    """A network for inference.

    Attributes:
        input_shape: (H, W, C) of its images.
        prepare: from pixels 0 to 255 to what the first step wants, or None where that is somebody else's.
        steps: from images to the last maps.
        classifier: 1×1, from the last maps to the class activation maps, whose means are the logits.
        activation: from logits to probabilities.
    """

    input_shape: tuple[int, int, int]
    prepare: Affine | None
    steps: tuple[Step, ...]
    classifier: Convolution
    activation: Literal["softmax", "sigmoid", "none"]


def fold(
    model: keras.Model,
    network: NetworkSpec,
    input_shape: tuple[int, int, int],
    preprocessing: Preprocessing | None = None,
) -> Folded:
    """Fold a trained network.

    Args:
        model: one of Densely's networks, with its weights.
        network: what it is.
        input_shape: (H, W, C) of the images it will see.
        preprocessing: to be made a part of it; None leaves it out.
    """
    steps = list(_stem(model, network))
    for i in range(1, len(network.block_layers) + 1):
        if i > 1:
            unit = model.get_layer(f"transition_{i - 1}").unit
            steps += [_affine(unit.norm), Relu(), Halve(), _convolution(unit.conv)]
        steps += _block(model.get_layer(f"dense_block_{i}"))
    steps += [_affine(model.get_layer("final_norm")), Relu()]
    dense = model.get_layer("logits")
    classifier = Convolution(_numpy(dense.kernel)[None, None], _numpy(dense.bias))
    prepare = None if preprocessing is None else _preparation(preprocessing)
    return Folded(input_shape, prepare, tuple(steps), classifier, network.activation)


def _stem(model: keras.Model, network: NetworkSpec) -> Iterator[Step]:
    convolution = _convolution(model.get_layer("stem_conv"))
    if network.stem == "imagenet":
        yield _folded(convolution, _affine(model.get_layer("stem_norm")), stride=2, padding=3)
        yield Relu()
        yield MaxPool(3)
    elif network.stem in ("whitened", "pooled"):
        yield _convolution(model.get_layer("whitening"))
        yield Relu()
        if network.stem == "pooled":
            yield convolution
            yield MaxPool(2)
        else:
            yield Convolution(convolution.kernel, convolution.bias, stride=2)
    else:
        yield convolution


def _block(block: Any) -> list[Step]:
    """The layers of a Keras `DenseBlock`."""
    if not block.bottleneck:
        return [Grow((_affine(unit.norm), Relu(), _convolution(unit.conv))) for unit in block.convs]
    layers: list[Step] = []
    for narrow, wide in zip(block.bottlenecks, block.convs, strict=True):
        bottleneck = _folded(_convolution(narrow.conv), _affine(wide.norm))
        layers.append(Grow((_affine(narrow.norm), Relu(), bottleneck, Relu(), _convolution(wide.conv))))
    return layers


def _affine(norm: Any) -> Affine:
    """A Keras batch normalisation at inference."""
    scale = _numpy(norm.gamma) / np.sqrt(_numpy(norm.moving_variance) + norm.epsilon)
    return Affine(scale, _numpy(norm.beta) - _numpy(norm.moving_mean) * scale)


def _convolution(layer: Any) -> Convolution:
    kernel = _numpy(layer.kernel)
    return Convolution(kernel, _numpy(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1]))


def _folded(
    convolution: Convolution, affine: Affine, stride: int = 1, padding: int | Literal["same"] = "same"
) -> Convolution:
    """One convolution in place of a convolution and the normalisation of its output."""
    bias = convolution.bias * affine.scale + affine.shift
    return Convolution(convolution.kernel * affine.scale, bias, stride, padding)


def _preparation(preprocessing: Preprocessing) -> Affine:
    mean, std = np.asarray(preprocessing.mean), np.asarray(preprocessing.std)
    return Affine(1 / (255 * std), -mean / std)


def _numpy(variable: Any) -> Array:
    """A Keras variable in float64, in which the folding rounds nothing that float32 would see."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(variable), dtype=np.float64)
