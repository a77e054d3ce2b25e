"""The old notebook's network from plain Keras layers, and its weights in a file as Keras 2 laid it out."""

from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers


def network(
    *,
    depth: int = 100,
    blocks: int = 3,
    growth_rate: int = 12,
    filters: int = 16,
    bottleneck: bool = True,
    compression: float = 0.5,
    classes: int = 10,
    channels: int = 3,
    size: int = 32,
    bias: bool = True,
    activation: str = "softmax",
    epsilon: float = 1e-3,
) -> keras.Model:
    """Layer by layer, as the notebook wrote it; nothing of Densely is used."""

    def conv(x: Any, maps: int, side: int) -> Any:
        return layers.Conv2D(maps, side, padding="same", use_bias=bias)(x)

    def relu_bn(x: Any) -> Any:
        return layers.Activation("relu")(layers.BatchNormalization(epsilon=epsilon)(x))

    inputs = keras.Input((size, size, channels))
    x, maps = conv(inputs, filters, 3), filters
    each = (depth - 4) // blocks // (2 if bottleneck else 1)
    for block in range(blocks):
        for _ in range(each):
            new = conv(relu_bn(x), 4 * growth_rate, 1) if bottleneck else x
            new = layers.Dropout(0.2)(conv(relu_bn(new), growth_rate, 3))
            x = layers.Concatenate()([x, new])
        maps += each * growth_rate
        if block < blocks - 1:
            maps = int(maps * compression)
            x = layers.AveragePooling2D(2)(conv(relu_bn(x), maps, 1))
    x = layers.GlobalAveragePooling2D()(relu_bn(x))
    return keras.Model(inputs, layers.Dense(classes, activation=activation)(x))


def trained(model: keras.Model, seed: int = 0) -> keras.Model:
    """With random weights and moving statistics, as after a training: no two arrays alike, no variance below 0."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.path.endswith("kernel"):
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        elif variable.path.endswith(("gamma", "moving_variance")):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 0.3, shape)
        variable.assign(values.astype("float32"))
    return model


def save(
    model: keras.Model, path: Path, *, whole: str | None = None, chunked: bool = False, h5py3: bool = False
) -> Path:
    """What `model.save_weights` of Keras 2 wrote, or with `whole`, the model's config, `model.save`.

    Args:
        model: whose weights.
        path: where to.
        whole: JSON of the model, as Keras 2 put it beside the weights.
        chunked: the names of the layers cut into two attributes, as of very deep networks.
        h5py3: names of variable length, as Keras 2 wrote through h5py 3; before, they were of fixed length.
    """

    def listed(names: list[bytes]) -> Any:
        return names if h5py3 and names else np.array(names)

    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights") if whole else file
        if whole:
            file.attrs["model_config"] = whole.encode()
            file.create_group("optimizer_weights")["iterations"] = np.int64(5)
        names = [f"layer_{i}_of_whatever_name".encode() for i in range(len(model.layers))]
        if chunked:
            group.attrs["layer_names0"], group.attrs["layer_names1"] = listed(names[:7]), listed(names[7:])
        else:
            group.attrs["layer_names"] = listed(names)
        group.attrs["backend"] = b"tensorflow"
        group.attrs["keras_version"] = b"2.0.4"
        for name, layer in zip(names, model.layers, strict=True):
            inside = group.create_group(name.decode())
            paths = [f"{name.decode()}/{v.path.split('/')[-1]}:0".encode() for v in layer.weights]
            inside.attrs["weight_names"] = listed(paths)
            for at, variable in zip(paths, layer.weights, strict=True):
                inside.create_dataset(at.decode(), data=keras.ops.convert_to_numpy(variable.value))
    return path
