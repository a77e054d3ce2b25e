"""A folded network as Keras's own layers, so that a `.keras` file opens where Densely is not installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from densely.export.folding import Affine, Convolution, Folded, Grow, Halve, MaxPool, Relu, Step

if TYPE_CHECKING:
    import keras

_LAST: dict[str, Any] = {"data_format": "channels_last", "dtype": "float32"}


def plain_model(folded: Folded, name: str, batch: int | None = None) -> keras.Model:
    """A DenseNet for inference: images `(N, H, W, C)` to probabilities `(N, classes)`.

    Images are uint8, 0 to 255, where the preprocessing is a part of the network; else float32, preprocessed.

    Args:
        folded: the network.
        name: what it is to be called.
        batch: how many images it takes at a time; None (default) for any number.
    """
    import keras
    from keras import layers

    kind = "float32" if folded.prepare is None else "uint8"
    image = keras.Input(folded.input_shape, batch_size=batch, name="image", dtype=kind)
    x = image if folded.prepare is None else _apply(folded.prepare, image)
    for step in folded.steps:
        x = _apply(step, x)
    x = layers.GlobalAveragePooling2D(**_LAST)(x)
    kernel, bias = folded.classifier.kernel, folded.classifier.bias
    x = _with(layers.Dense(kernel.shape[-1], dtype="float32", name="logits"), x, kernel[0, 0], bias)
    if folded.activation != "none":
        x = layers.Activation(folded.activation, dtype="float32", name="probabilities")(x)
    return keras.Model(image, x, name=name)


def _apply(step: Step, x: Any) -> Any:
    from keras import layers

    match step:
        case Affine():
            scale, shift = (values.astype(np.float32) for values in (step.scale, step.shift))
            return layers.Rescaling(scale, shift, dtype="float32")(x)
        case Convolution():
            padding = "same" if step.padding == "same" else "valid"
            if step.padding not in ("same", 0):
                x = layers.ZeroPadding2D(step.padding, **_LAST)(x)
            height, width, _, filters = step.kernel.shape
            layer = layers.Conv2D(filters, (height, width), step.stride, padding, **_LAST)
            return _with(layer, x, step.kernel, step.bias)
        case Relu():
            return layers.ReLU(dtype="float32")(x)
        case Halve():
            return layers.AveragePooling2D(2, **_LAST)(x)
        case MaxPool():
            x = layers.ZeroPadding2D(1, **_LAST)(x) if step.side == 3 else x
            return layers.MaxPooling2D(step.side, 2, **_LAST)(x)
        case Grow():
            new = x
            for inner in step.steps:
                new = _apply(inner, new)
            return layers.Concatenate(axis=-1, dtype="float32")([x, new])


def _with(layer: Any, x: Any, *weights: Any) -> Any:
    """A layer connected, with these weights."""
    y = layer(x)
    layer.set_weights([values.astype(np.float32) for values in weights])
    return y
