"""The parts of a DenseNet as Keras layers, in the words of the paper (Huang et al. 2017, Section 3).

`NormReluConv` is the composite function H (batch normalisation, ReLU, convolution, dropout), `DenseBlock` chains
such functions with dense connections, `Transition` shrinks maps and channels between two blocks. All of them are
channels last and run on any Keras engine; the maths below is the reference that every faster path is held to.

A `.keras` file with these layers in it opens with `keras.models.load_model` once this module has been imported.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from densely import fused

#: Of a batch of maps, (N, H, W, C); all but C may be open (`None`).
Shape = tuple[Any, ...]


@keras.saving.register_keras_serializable(package="densely")
class FanOutNormal(keras.initializers.VarianceScaling):
    """The paper's initialiser: N(0, √(2 / (k²·filters))), He et al. (2015) with the fan-out.

    Args:
        seed: an integer to draw the same values each time; by default Keras's global seed decides.
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(scale=2.0, mode="fan_out", distribution="untruncated_normal", seed=seed)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this initialiser again."""
        return {"seed": super().get_config()["seed"]}


def freeze_inside(layer: keras.layers.Layer) -> None:
    """Freeze the inner layers of a layer that was frozen before it had any, or read from a frozen one's config."""
    if not layer.trainable:
        layer.trainable = False  # the setter walks through all inner layers, the constructor's argument does not


def serialized(options: dict[str, Any]) -> dict[str, Any]:
    """The options that all convolutions of a layer share, as `get_config` wants them."""
    return {
        **options,
        "kernel_initializer": keras.initializers.serialize(fresh_initializer(options["kernel_initializer"])),
        "kernel_regularizer": keras.regularizers.serialize(options["kernel_regularizer"]),
    }


def fresh_initializer(identifier: Any) -> Any:
    """A new initialiser from a Keras identifier, so that two convolutions do not draw the same numbers by accident.

    A Keras initialiser object is bound to one draw: calling it twice gives equal tensors. One with a seed of its own
    keeps it.
    """
    initializer = keras.initializers.get("densely>FanOutNormal" if identifier == "fan_out_normal" else identifier)
    return initializer.clone() if isinstance(initializer, keras.initializers.Initializer) else initializer


@keras.saving.register_keras_serializable(package="densely")
class BatchNorm(keras.layers.BatchNormalization):
    """Keras's batch normalisation of maps `(N, H, W, C)`, over C; in training as one operation where that can be.

    Keras writes it as a dozen operations, each a pass over the maps there and most of them one more back.

    Args:
        fused: `None` (default) or `True` for one operation in training where the engine can (PyTorch), `False` for
            Keras's operations everywhere.
        **kwargs: as in `keras.layers.BatchNormalization`, but the axis is the last.
    """

    def __init__(self, *, fused: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fused = fused

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise `inputs`: in training by their own statistics, which also move the moving ones."""
        if self.fused is not False and training and mask is None and fused.normalises(self, inputs):
            return fused.normalised(self, inputs)
        return super().call(inputs, training=training, mask=mask)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {**super().get_config(), "fused": self.fused}


def _without_copies(operation: Callable[..., Any], maps: Any, data_format: str, **options: Any) -> Any:
    """One of Keras's operations on maps, which on PyTorch copies them to channels first in memory, and back.

    Told that they are channels first it copies nothing; PyTorch sees how they lie, and computes the same numbers.
    """
    if keras.backend.backend() != "torch" or data_format != "channels_last":
        return operation(maps, data_format=data_format, **options)
    found = operation(ops.transpose(maps, (0, 3, 1, 2)), data_format="channels_first", **options)
    return ops.transpose(found, (0, 2, 3, 1))


@keras.saving.register_keras_serializable(package="densely")
class Conv(keras.layers.Conv2D):
    """Keras's convolution of maps `(N, H, W, C)`, without the copies that it makes of them on PyTorch.

    There Keras 3.15 lays maps out channels first before a convolution and channels last again for it.

    Args:
        *args, **kwargs: as in `keras.layers.Conv2D`.
    """

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """The convolution alone, without bias and activation."""
        return _without_copies(
            ops.conv,
            inputs,
            self.data_format,
            kernel=kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )


@keras.saving.register_keras_serializable(package="densely")
class MaxPool(keras.layers.MaxPooling2D):
    """Keras's max-pooling of maps `(N, H, W, C)`, without the copies that it makes of them on PyTorch (see `Conv`).

    Args:
        *args, **kwargs: as in `keras.layers.MaxPooling2D`.
    """

    def call(self, inputs: Any) -> Any:
        """The greatest of each window."""
        return _without_copies(
            ops.max_pool,
            inputs,
            self.data_format,
            pool_size=self.pool_size,
            strides=self.strides,
            padding=self.padding,
        )


@keras.saving.register_keras_serializable(package="densely")
class NormReluConv(keras.layers.Layer):
    """Batch normalisation, ReLU, convolution and dropout: the paper's composite function H (Section 3).

    Maps `(N, H, W, C)` to `(N, H, W, filters)`; the convolution keeps the size of the map.

    Args:
        filters: output channels.
        kernel_size: side of the convolution, 1 or 3 in the paper.
        dropout: share of the convolution's outputs set to zero in training (0 to below 1; default 0).
        use_bias: whether the convolution adds a bias (default `False`, as in the paper).
        kernel_initializer: a Keras initialiser, or `"fan_out_normal"`, the paper's (default).
        kernel_regularizer: a Keras regulariser for the kernel (default none).
        momentum, epsilon: of the normalisation, in Keras's meaning (defaults 0.9 and 1e-5, Torch's).
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        dropout: float = 0.0,
        use_bias: bool = False,
        kernel_initializer: Any = "fan_out_normal",
        kernel_regularizer: Any = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= dropout < 1:
            raise ValueError(f"The dropout must be at least 0 and below 1, not {dropout}.")
        self.norm = keras.layers.BatchNormalization(
            momentum=momentum, epsilon=epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.conv = keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            use_bias=use_bias,
            kernel_initializer=fresh_initializer(kernel_initializer),
            kernel_regularizer=kernel_regularizer,
            data_format="channels_last",
            dtype=self.dtype_policy,
            name="conv",
        )
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: Shape) -> None:
        """Create the weights for maps of `input_shape` = `(N, H, W, C)`."""
        self.norm.build(input_shape)
        self.conv.build(input_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Apply H to `inputs`."""
        x = ops.relu(self.norm(inputs, training=training))
        return self.drop(self.conv(x), training=training)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(N, H, W, filters)`."""
        return (*input_shape[:-1], self.conv.filters)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "filters": self.conv.filters,
            "kernel_size": self.conv.kernel_size[0],
            "dropout": self.drop.rate,
            "use_bias": self.conv.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.conv.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.conv.kernel_regularizer),
            "momentum": self.norm.momentum,
            "epsilon": self.norm.epsilon,
        }


@keras.saving.register_keras_serializable(package="densely")
class DenseBlock(keras.layers.Layer):
    """A dense block: every layer reads the concatenation of all maps before it (paper, Section 3, Equation 2).

    Maps `(N, H, W, C)` to `(N, H, W, C + num_layers · growth_rate)`: the input first, then each layer's new maps.

    Args:
        num_layers: how many layers, each adding `growth_rate` maps; a bottleneck layer counts once.
        growth_rate: k, the number of maps that a layer adds.
        bottleneck: put a 1×1 convolution to `bottleneck_width · growth_rate` maps before each 3×3 (DenseNet-B).
        bottleneck_width: the paper's 4.
        dropout, use_bias, kernel_initializer, kernel_regularizer, momentum, epsilon: as in `NormReluConv`, for
            every convolution of the block.
        fused: run the whole block as one operation (`densely.kernels`), with memory that grows linearly with depth:
            `None` (default) or `True` where the engine can (PyTorch on CPU and CUDA), `False` never. The weights are
            the same either way. Not fused are symbolic and stateless calls, tracing, export and LoRA.

    Example:
        >>> block = DenseBlock(num_layers=4, growth_rate=12, bottleneck=True)
        >>> block(keras.ops.ones((1, 8, 8, 24))).shape[-1]
        72
    """

    def __init__(
        self,
        num_layers: int,
        growth_rate: int,
        *,
        bottleneck: bool = False,
        bottleneck_width: int = 4,
        dropout: float = 0.0,
        use_bias: bool = False,
        kernel_initializer: Any = "fan_out_normal",
        kernel_regularizer: Any = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        fused: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_layers < 1 or growth_rate < 1:
            raise ValueError(
                f"A dense block needs at least one layer and growth rate 1, not num_layers={num_layers} "
                f"and growth_rate={growth_rate}."
            )
        self.num_layers = num_layers
        self.growth_rate = growth_rate
        self.bottleneck = bottleneck
        self.bottleneck_width = bottleneck_width
        self.conv_options: dict[str, Any] = {
            "dropout": dropout,
            "use_bias": use_bias,
            "kernel_initializer": kernel_initializer,
            "kernel_regularizer": keras.regularizers.get(kernel_regularizer),
            "momentum": momentum,
            "epsilon": epsilon,
        }
        self.fused = fused
        self.replicas: Any = None  # `densely.kernels.replicas.Replicas`, of a training on several devices
        self.seed_generator = keras.random.SeedGenerator() if dropout else None
        self.bottlenecks: list[NormReluConv] = []
        self.convs: list[NormReluConv] = []
        for i in range(1, num_layers + 1):
            options = {**self.conv_options, "dtype": self.dtype_policy}
            if bottleneck:
                width = bottleneck_width * growth_rate
                self.bottlenecks.append(NormReluConv(width, 1, name=f"layer_{i}_bottleneck", **options))
            self.convs.append(NormReluConv(growth_rate, 3, name=f"layer_{i}", **options))

    def build(self, input_shape: Shape) -> None:
        """Create the weights for maps of `input_shape` = `(N, H, W, C)`."""
        *space, channels = input_shape
        for i, conv in enumerate(self.convs):
            if self.bottleneck:
                self.bottlenecks[i].build((*space, channels))
                conv.build((*space, self.bottleneck_width * self.growth_rate))
            else:
                conv.build((*space, channels))
            channels += self.growth_rate
        self.built = True
        freeze_inside(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Grow `inputs` by `num_layers · growth_rate` maps."""
        if self.fused is not False and fused.possible(inputs, [*self.bottlenecks, *self.convs]):
            return self._call_fused(inputs, bool(training))
        x = inputs
        for i, conv in enumerate(self.convs):
            new = self.bottlenecks[i](x, training=training) if self.bottleneck else x
            x = ops.concatenate([x, conv(new, training=training)], axis=-1)
        return x

    def _call_fused(self, inputs: Any, training: bool) -> Any:
        from densely import kernels

        units = [fused.tensors(*pair) for pair in zip(*filter(None, (self.bottlenecks, self.convs)), strict=True)]
        layers, statistics = zip(*units, strict=True)
        return kernels.dense_block(
            inputs,
            layers,
            statistics,
            **fused.options(inputs, self.conv_options, training, self.seed_generator, self.replicas),
        )

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(N, H, W, C + num_layers · growth_rate)`."""
        *space, channels = input_shape
        return (*space, channels + self.num_layers * self.growth_rate)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "growth_rate": self.growth_rate,
            "bottleneck": self.bottleneck,
            "bottleneck_width": self.bottleneck_width,
            "fused": self.fused,
            **serialized(self.conv_options),
        }


@keras.saving.register_keras_serializable(package="densely")
class Transition(keras.layers.Layer):
    """Between two dense blocks: normalise, 1×1 convolution to ⌊θ·C⌋ maps, 2×2 average pooling (paper, Section 3).

    Maps `(N, H, W, C)` to `(N, ⌊H/2⌋, ⌊W/2⌋, ⌊θ·C⌋)`.

    Args:
        compression: θ, above 0 and at most 1 (default 1, no compression; the paper's DenseNet-C uses 0.5).
        dropout, use_bias, kernel_initializer, kernel_regularizer, momentum, epsilon: as in `NormReluConv`.
        fused: as in `DenseBlock`.

    Raises:
        ValueError: if `compression` is out of range, or leaves no channel.
    """

    def __init__(
        self,
        compression: float = 1.0,
        *,
        dropout: float = 0.0,
        use_bias: bool = False,
        kernel_initializer: Any = "fan_out_normal",
        kernel_regularizer: Any = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        fused: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < compression <= 1:
            raise ValueError(f"The compression must be above 0 and at most 1, not {compression}.")
        self.compression = compression
        self.fused = fused
        self.replicas: Any = None  # `densely.kernels.replicas.Replicas`, of a training on several devices
        self.seed_generator = keras.random.SeedGenerator() if dropout else None
        self.conv_options: dict[str, Any] = {
            "dropout": dropout,
            "use_bias": use_bias,
            "kernel_initializer": kernel_initializer,
            "kernel_regularizer": keras.regularizers.get(kernel_regularizer),
            "momentum": momentum,
            "epsilon": epsilon,
        }
        self.pool = keras.layers.AveragePooling2D(2, data_format="channels_last", dtype=self.dtype_policy, name="pool")

    def filters(self, channels: int) -> int:
        """How many maps leave when `channels` come in: ⌊θ·channels⌋."""
        return int(channels * self.compression)

    def build(self, input_shape: Shape) -> None:
        """Create the weights for maps of `input_shape` = `(N, H, W, C)`."""
        filters = self.filters(input_shape[-1])
        if filters < 1:
            raise ValueError(f"compression={self.compression} leaves none of {input_shape[-1]} channels.")
        self.unit = NormReluConv(filters, 1, dtype=self.dtype_policy, name="compress", **self.conv_options)
        self.unit.build(input_shape)
        self.built = True
        freeze_inside(self)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Shrink `inputs` to half its size and θ of its channels."""
        if self.fused is not False and fused.possible(inputs, [self.unit]) and min(inputs.shape[1:3]) > 1:
            from densely import kernels

            options = fused.options(inputs, self.conv_options, bool(training), self.seed_generator, self.replicas)
            return kernels.transition(inputs, *fused.tensors(self.unit), **options)
        return self.pool(self.unit(inputs, training=training))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """`(N, ⌊H/2⌋, ⌊W/2⌋, ⌊θ·C⌋)`."""
        n, h, w, channels = input_shape
        return n, h and h // 2, w and w // 2, self.filters(channels)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make this layer again."""
        return {
            **super().get_config(),
            "compression": self.compression,
            "fused": self.fused,
            **serialized(self.conv_options),
        }
