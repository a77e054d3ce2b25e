"""The networks: what a DenseNet is made of, the paper's named ones, and `build`, which makes a Keras model.

Read it beside the paper (Huang, Liu, van der Maaten, Weinberger, *Densely Connected Convolutional Networks*,
CVPR 2017, arXiv:1608.06993): a stem, dense blocks with a transition between each two, global average pooling and
one linear classifier. `NetworkSpec` writes that down; nothing here trains, reads or saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from densely.console import counted
from densely.errors import from_validation, unknown

if TYPE_CHECKING:
    import keras

#: More layers, or maps a layer, than anybody trains: a config that asks for more is a mistake, or worse.
MOST = 10_000

Initializer = Literal["fan_out_normal", "he_normal", "he_uniform", "glorot_uniform", "glorot_normal"]


class NetworkSpec(BaseModel):
    """Everything that defines a DenseNet; frozen, checked, and written into every run.

    Attributes:
        depth: L, the layers with weights (paper, Section 3): `(depth - 4)` divides by `blocks`, and a bottleneck
            layer counts as two. Leave it out when `layers` is given.
        blocks: number of dense blocks. Leave it out when `layers` is given.
        layers: layers of each block, e.g. `(6, 12, 24, 16)`, in place of `depth` and `blocks`.
        growth_rate: k, the maps that each layer adds.
        growth_factor: what k is multiplied by from one block to the next: 1 in the paper, 2 in CondenseNet (Huang
            et al. 2018).
        stem_filters: maps after the first convolution; by default the paper's: 16, or 2k with bottleneck and
            compression.
        bottleneck: 1×1 convolutions to 4k maps before each 3×3 (DenseNet-B).
        compression: θ, the share of maps that a transition keeps (DenseNet-C).
        dropout: share of each convolution's outputs set to zero in training, but for the stem (paper: 0.2
            without augmentation).
        weight_decay: λ of `l2(λ)` on every kernel, in Keras's meaning (the notebook's: gradient 2λw). The
            paper's decay on all parameters belongs to the optimizer instead, see `densely.recipes`.
        activation: of the classifier: `"softmax"`, `"sigmoid"` (several labels an image) or `"none"` (logits).
        use_bias: whether convolutions have a bias (the paper's have none).
        initializer: of the convolutions; `"fan_out_normal"` is the paper's.
        stem: `"cifar"`, one 3×3 convolution; `"imagenet"`, 7×7/2 and 3×3/2 max-pooling; `"whitened"`, a fixed 2×2
            convolution that a training sets from its images (`densely.whitening`), ReLU, 3×3/2; `"pooled"`, the same
            but a 3×3 on all pixels, and 2×2 max-pooling.
        norm_momentum, norm_epsilon: of batch normalisation, in Keras's meaning (defaults: the paper's Torch).
        input_shape: (height, width, channels); height and width may be `None` (any size).
        classes: number of classes.

    Raises:
        pydantic.ValidationError: for values that do not fit; `spec` and `build` turn it into a `UsageError`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: int | None = Field(default=None, le=MOST)
    blocks: int | None = Field(default=None, ge=1, le=100)
    layers: tuple[Annotated[int, Field(le=MOST)], ...] | None = Field(default=None, max_length=100)
    growth_rate: int = Field(default=12, ge=1, le=MOST)
    growth_factor: int = Field(default=1, ge=1, le=100)
    stem_filters: int | None = Field(default=None, ge=1, le=MOST)
    bottleneck: bool = False
    compression: float = Field(default=1.0, gt=0, le=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    use_bias: bool = False
    initializer: Initializer = "fan_out_normal"
    stem: Literal["cifar", "imagenet", "whitened", "pooled"] = "cifar"
    norm_momentum: float = Field(default=0.9, ge=0, lt=1)
    norm_epsilon: float = Field(default=1e-5, gt=0)
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3)
    classes: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> NetworkSpec:
        if self.layers is not None:
            if self.depth is not None or self.blocks is not None:
                raise ValueError(
                    f"layers={self.layers} already says how deep each block is: leave depth and blocks out."
                )
            if not self.layers or min(self.layers) < 1:
                raise ValueError(f"layers={self.layers}: every block needs at least one layer.")
        else:
            self._check_depth(40 if self.depth is None else self.depth, self.blocks or 3)
        height, width, channels = self.input_shape
        if channels < 1:
            raise ValueError(f"input_shape={self.input_shape} needs at least one channel.")
        halvings = len(self.block_layers) - 1 + {"cifar": 0, "whitened": 1, "pooled": 1, "imagenet": 2}[self.stem]
        for side in (height, width):
            if side is not None and side < 2**halvings:
                raise ValueError(
                    f"input_shape={self.input_shape} is too small: {halvings} poolings each halve the map, so "
                    f"height and width must be at least {2**halvings}."
                )
        return self

    def _check_depth(self, depth: int, blocks: int) -> None:
        step = blocks * (2 if self.bottleneck else 1)
        if depth >= 4 + step and (depth - 4) % step == 0:
            return
        below = 4 + (depth - 4) // step * step
        fits = [d for d in (below, below + step) if d >= 4 + step] or [4 + step]
        halved = ", and halved by the bottleneck" if self.bottleneck else ""
        raise ValueError(
            f"depth {depth} does not fit {counted(blocks, 'block')}: (depth - 4) must be shared out evenly "
            f"between the blocks{halved}; the nearest that fit: {', '.join(map(str, fits))}."
        )

    @property
    def block_layers(self) -> tuple[int, ...]:
        """How many layers each dense block has, a bottleneck layer counting once."""
        if self.layers is not None:
            return self.layers
        blocks = self.blocks or 3
        each = ((40 if self.depth is None else self.depth) - 4) // blocks
        return (each // 2 if self.bottleneck else each,) * blocks

    @property
    def growth_rates(self) -> tuple[int, ...]:
        """k of each dense block."""
        return tuple(self.growth_rate * self.growth_factor**i for i in range(len(self.block_layers)))

    @property
    def stem_width(self) -> int:
        """Maps after the stem: `stem_filters`, or the paper's default."""
        if self.stem_filters is not None:
            return self.stem_filters
        return 2 * self.growth_rate if self.bottleneck and self.compression < 1 else 16


def _bc(depth: int, growth_rate: int, **more: Any) -> NetworkSpec:
    return NetworkSpec(depth=depth, growth_rate=growth_rate, bottleneck=True, compression=0.5, **more)


def _imagenet(layers: tuple[int, ...]) -> NetworkSpec:
    return NetworkSpec(
        layers=layers,
        growth_rate=32,
        stem_filters=64,
        bottleneck=True,
        compression=0.5,
        stem="imagenet",
        input_shape=(224, 224, 3),
        classes=1000,
    )


#: The named networks. The first nine stand in the paper or its authors' repository; `notebook` is the teaching
#: notebook's; 121 to 264 are the ImageNet ones; the next three are for small images and short
#: trainings; the last two are shallow and widen, on maps that the stem has halved already: the first is the recipe
#: `few-shot`'s, the second, whose stem sees every pixel, `fast`'s.
NETWORKS: Mapping[str, NetworkSpec] = {
    "densenet-40-12": NetworkSpec(depth=40, growth_rate=12),
    "densenet-100-12": NetworkSpec(depth=100, growth_rate=12),
    "densenet-100-24": NetworkSpec(depth=100, growth_rate=24),
    "densenet-bc-100-12": _bc(100, 12),
    "densenet-bc-250-24": _bc(250, 24),
    "densenet-bc-190-40": _bc(190, 40),
    "densenet-bc-40-36": _bc(40, 36),
    "densenet-bc-40-48": _bc(40, 48),
    "densenet-bc-40-60": _bc(40, 60),
    "notebook": _bc(
        100,
        12,
        stem_filters=16,
        use_bias=True,
        initializer="he_uniform",
        dropout=0.2,
        weight_decay=1e-4,
        norm_momentum=0.99,
        norm_epsilon=1e-3,
    ),
    "densenet-121": _imagenet((6, 12, 24, 16)),
    "densenet-169": _imagenet((6, 12, 32, 32)),
    "densenet-201": _imagenet((6, 12, 48, 32)),
    "densenet-264": _imagenet((6, 12, 64, 48)),
    "densenet-bc-16-8": _bc(16, 8),
    "densenet-bc-22-12": _bc(22, 12),
    "densenet-bc-40-12": _bc(40, 12),
    "densenet-fast": NetworkSpec(
        layers=(3, 3, 3), growth_rate=32, growth_factor=2, stem_filters=64, compression=0.8, stem="whitened"
    ),
    "densenet-fast-pooled": NetworkSpec(
        layers=(3, 3, 3), growth_rate=32, growth_factor=2, stem_filters=64, compression=0.8, stem="pooled"
    ),
}


#: Test errors in % that the paper reports (CIFAR-10 and -100, + with flip and shift, and SVHN); the wide ones from
#: the authors' repository, `notebook` from the notebook's own run.
PAPER_ERRORS: Mapping[str, Mapping[str, float]] = {
    "densenet-40-12": {"C10": 7.00, "C10+": 5.24, "C100": 27.55, "C100+": 24.42, "SVHN": 1.79},
    "densenet-100-12": {"C10": 5.77, "C10+": 4.10, "C100": 23.79, "C100+": 20.20, "SVHN": 1.67},
    "densenet-100-24": {"C10": 5.83, "C10+": 3.74, "C100": 23.42, "C100+": 19.25, "SVHN": 1.59},
    "densenet-bc-100-12": {"C10": 5.92, "C10+": 4.51, "C100": 24.15, "C100+": 22.27, "SVHN": 1.76},
    "densenet-bc-250-24": {"C10": 5.19, "C10+": 3.62, "C100": 19.64, "C100+": 17.60, "SVHN": 1.74},
    "densenet-bc-190-40": {"C10+": 3.46, "C100+": 17.18},
    "densenet-bc-40-36": {"C10+": 4.58, "C100+": 22.30},
    "densenet-bc-40-48": {"C10+": 3.99, "C100+": 20.29},
    "densenet-bc-40-60": {"C10+": 4.01, "C100+": 19.99},
    "notebook": {"C10": 6.76},
}


def spec(network: NetworkSpec | str, **changes: Any) -> NetworkSpec:
    """A `NetworkSpec` from a name or another spec, with some of its fields changed.

    Args:
        network: a name in `NETWORKS` (letter case does not matter) or a spec.
        **changes: fields of `NetworkSpec` and their new values. `depth` takes the place of `layers`, over as many
            blocks, and `layers` that of `depth` and `blocks`.

    Raises:
        UsageError: for an unknown name or field, or values that do not go together; the message says which.
    """
    if isinstance(network, str):
        if network.lower() not in NETWORKS:
            raise unknown("network", network, NETWORKS)
        base = NETWORKS[network.lower()]
    else:
        base = network
    for field in changes:
        if field not in NetworkSpec.model_fields:
            raise unknown("network setting", field, NetworkSpec.model_fields)
    before = base.model_dump()
    if changes.get("layers") is not None:
        before |= {"depth": None, "blocks": None}
    elif changes.get("depth") is not None and base.layers is not None:
        before |= {"layers": None, "blocks": len(base.layers)}
    try:
        return NetworkSpec(**{**before, **changes})
    except ValidationError as error:
        raise from_validation("network", error) from None


def build(
    network: NetworkSpec | str = "densenet-bc-100-12",
    *,
    fused: bool | None = None,
    name: str | None = None,
    **changes: Any,
) -> keras.Model:
    """Build a DenseNet with fresh weights: a functional `keras.Model` from `(N, *input_shape)` to `(N, classes)`.

    `densely.build` is this, and starts from trained weights too (`densely.building`).

    Args:
        network: a name in `NETWORKS` or a `NetworkSpec`.
        fused: `False` to run the dense blocks by the reference path; see `DenseBlock`. No part of the network: the
            weights are the same.
        name: of the model; by default the network's, or `densenet`.
        **changes: fields of `NetworkSpec` to change, e.g. `input_shape=(64, 64, 1), classes=3, dropout=0.2`.

    Returns:
        An uncompiled model with fresh weights, drawn from Keras's global seed (`keras.utils.set_random_seed`).

    Raises:
        UsageError: for an unknown name or field, or values that do not go together.

    Example:
        >>> model = build("densenet-bc-100-12", input_shape=(32, 32, 3), classes=10)
        >>> model.output_shape
        (None, 10)
    """
    import keras

    resolved = spec(network, **changes)
    inputs = keras.Input(resolved.input_shape, name="image")
    name = name or (network if isinstance(network, str) else "densenet")
    return keras.Model(inputs, connect(resolved, inputs, fused=fused), name=name.lower().replace("-", "_"))


def connect(network: NetworkSpec, inputs: Any, *, fused: bool | None = None) -> Any:
    """Connect a DenseNet to a Keras tensor.

    Args:
        network: what to build; its `input_shape` is not looked at.
        inputs: `(N, H, W, C)`.
        fused: as in `build`.

    Returns:
        `(N, classes)`: probabilities, or logits for `activation="none"`.
    """
    import keras
    from keras import layers

    from densely.layers import BatchNorm, Conv, DenseBlock, MaxPool, Transition, fresh_initializer
    from densely.whitening import Whitening

    regularizer = keras.regularizers.L2(network.weight_decay) if network.weight_decay else None
    conv: dict[str, Any] = {
        "use_bias": network.use_bias,
        "kernel_initializer": network.initializer,
        "kernel_regularizer": regularizer,
    }
    norm: dict[str, Any] = {"momentum": network.norm_momentum, "epsilon": network.norm_epsilon}
    # Keras's own layers follow a global setting; the blocks are channels last whatever it says.
    last: dict[str, Any] = {"data_format": "channels_last"}
    stem_conv = {**conv, **last, "kernel_initializer": fresh_initializer(network.initializer), "name": "stem_conv"}

    if network.stem == "imagenet":
        x = layers.ZeroPadding2D(3, name="stem_pad", **last)(inputs)
        x = Conv(network.stem_width, 7, strides=2, **stem_conv)(x)
        x = BatchNorm(**norm, fused=fused, name="stem_norm")(x)
        x = layers.ReLU(name="stem_relu")(x)
        x = layers.ZeroPadding2D(1, name="stem_pool_pad", **last)(x)
        x = MaxPool(3, strides=2, name="stem_pool", **last)(x)
    elif network.stem in ("whitened", "pooled"):
        pooled = network.stem == "pooled"
        x = Whitening(**last, name="whitening")(inputs)
        x = layers.ReLU(name="stem_relu")(x)
        x = Conv(network.stem_width, 3, strides=1 if pooled else 2, padding="same", **stem_conv)(x)
        if pooled:
            x = MaxPool(2, name="stem_pool", **last)(x)
    else:
        x = Conv(network.stem_width, 3, padding="same", **stem_conv)(inputs)

    blocks = zip(network.block_layers, network.growth_rates, strict=True)
    for i, (num_layers, growth_rate) in enumerate(blocks, start=1):
        if i > 1:
            x = Transition(
                network.compression, dropout=network.dropout, fused=fused, **conv, **norm, name=f"transition_{i - 1}"
            )(x)
        x = DenseBlock(
            num_layers,
            growth_rate,
            bottleneck=network.bottleneck,
            dropout=network.dropout,
            fused=fused,
            **conv,
            **norm,
            name=f"dense_block_{i}",
        )(x)

    x = BatchNorm(**norm, fused=fused, name="final_norm")(x)
    x = layers.ReLU(name="final_relu")(x)
    x = layers.GlobalAveragePooling2D(name="global_pool", **last)(x)
    # Torch's default for a linear layer, U(±1/√fan_in) with the bias at zero, is what the paper's code ran with;
    # any other initialiser goes with Keras's own default for Dense, as in the notebook.
    if network.initializer == "fan_out_normal":
        dense = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    else:
        dense = keras.initializers.GlorotUniform()
    # Under a mixed-precision policy the head stays in full precision: logits are small numbers that differ little.
    full = keras.config.floatx()
    x = layers.Dense(
        network.classes, kernel_initializer=dense, kernel_regularizer=regularizer, dtype=full, name="logits"
    )(x)
    if network.activation != "none":
        x = layers.Activation(network.activation, dtype=full, name="probabilities")(x)
    return x
