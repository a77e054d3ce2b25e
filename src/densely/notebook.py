"""The old teaching notebook's own words, over today's layers: its cells run with only the imports changed.

    from densely.notebook import create_dense_net
    img_input = keras.Input((32, 32, 3))
    x = create_dense_net(10, img_input, depth=100, nb_filter=16, compression=0.5, bottleneck=True, p=0.2, wd=1e-4)
    model = keras.Model(img_input, x)

Everything here keeps the notebook's choices: a bias in every convolution, He-uniform kernels, Keras's defaults for
batch normalisation (momentum 0.99, epsilon 1e-3) and `l2(wd)` on kernels. All functions take and return Keras
tensors `(N, H, W, C)`.
"""

from typing import Any

import keras

from densely import architecture
from densely.errors import UsageError
from densely.layers import DenseBlock, NormReluConv, Transition

_NORM = {"momentum": 0.99, "epsilon": 1e-3}


def _conv_options(p: float | None, wd: float) -> dict[str, Any]:
    return {
        "dropout": p or 0.0,
        "use_bias": True,
        "kernel_initializer": "he_uniform",
        "kernel_regularizer": keras.regularizers.L2(wd) if wd else None,
        **_NORM,
    }


def relu(x: Any) -> Any:
    """Rectify."""
    return keras.layers.ReLU()(x)


def dropout(x: Any, p: float | None) -> Any:
    """Set a share `p` of the values to zero in training; nothing when `p` is `None` or 0."""
    return keras.layers.Dropout(p)(x) if p else x


def bn(x: Any) -> Any:
    """Batch normalisation with Keras's defaults."""
    return keras.layers.BatchNormalization(**_NORM)(x)


def relu_bn(x: Any) -> Any:
    """Batch normalisation, then ReLU (the order is the paper's, the name the notebook's)."""
    return relu(bn(x))


def conv(x: Any, nf: int, sz: int, wd: float = 0, p: float | None = None) -> Any:
    """A convolution to `nf` maps with side `sz` that keeps the size, `l2(wd)` on its kernel, then dropout `p`."""
    x = keras.layers.Conv2D(
        nf,
        sz,
        padding="same",
        data_format="channels_last",
        kernel_initializer="he_uniform",
        kernel_regularizer=keras.regularizers.L2(wd) if wd else None,
    )(x)
    return dropout(x, p)


def conv_block(x: Any, nf: int, bottleneck: bool = False, p: float | None = None, wd: float = 0) -> Any:
    """One layer of a dense block: its `nf` new maps, through a 1×1 bottleneck to `4·nf` if asked for."""
    options = _conv_options(p, wd)
    if bottleneck:
        x = NormReluConv(nf * 4, 1, **options)(x)
    return NormReluConv(nf, 3, **options)(x)


def dense_block(
    x: Any, nb_layers: int, growth_rate: int, bottleneck: bool = False, p: float | None = None, wd: float = 0
) -> Any:
    """A dense block; `nb_layers` is halved with a bottleneck, because each of its layers has two convolutions."""
    return DenseBlock(
        nb_layers // 2 if bottleneck else nb_layers, growth_rate, bottleneck=bottleneck, **_conv_options(p, wd)
    )(x)


def transition_block(x: Any, compression: float = 1.0, p: float | None = None, wd: float = 0) -> Any:
    """Shrink to half the size and `compression` of the maps."""
    return Transition(compression, **_conv_options(p, wd))(x)


def create_dense_net(
    nb_classes: int,
    img_input: Any,
    depth: int = 40,
    nb_block: int = 3,
    growth_rate: int = 12,
    nb_filter: int = 16,
    bottleneck: bool = False,
    compression: float = 1.0,
    p: float | None = None,
    wd: float = 0,
    activation: str = "softmax",
) -> Any:
    """The whole network, as the notebook built it.

    Args:
        nb_classes: number of classes.
        img_input: Keras tensor `(N, H, W, C)`.
        depth: layers with weights; `depth - 4` must divide by `nb_block`.
        nb_block: dense blocks.
        growth_rate: maps that each layer adds.
        nb_filter: maps after the first convolution.
        bottleneck: 1×1 convolutions before each 3×3; halves the layers of a block.
        compression: share of maps that a transition keeps.
        p: dropout.
        wd: λ of `l2(λ)` on kernels.
        activation: `"softmax"` or `"sigmoid"`.

    Returns:
        Keras tensor `(N, nb_classes)` of probabilities.

    Raises:
        UsageError: if the depth does not fit the blocks, or for another activation.
    """
    if activation not in ("softmax", "sigmoid"):
        raise UsageError(f"The activation must be softmax or sigmoid, not {activation!r}.")
    if nb_block < 1 or (depth - 4) % nb_block or depth - 4 < nb_block * (2 if bottleneck else 1):
        raise UsageError(
            f"depth {depth} does not fit {nb_block} blocks: (depth - 4) must divide by {nb_block} and leave every "
            "block at least one layer."
        )
    nb_layers = (depth - 4) // nb_block
    network = architecture.spec(
        architecture.NETWORKS["notebook"],
        layers=(nb_layers // 2 if bottleneck else nb_layers,) * nb_block,
        growth_rate=growth_rate,
        stem_filters=nb_filter,
        bottleneck=bottleneck,
        compression=compression,
        dropout=p or 0.0,
        weight_decay=wd,
        activation=activation,
        input_shape=tuple(img_input.shape[1:]),
        classes=nb_classes,
    )
    return architecture.connect(network, img_input)
