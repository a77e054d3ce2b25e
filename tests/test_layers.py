"""The layers against the paper's equation, written out with nothing but NumPy."""

import keras
import numpy as np
import pytest

from densely.layers import BatchNorm, Conv, DenseBlock, MaxPool, NormReluConv, Transition


def convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A convolution that keeps the size, tap by tap."""
    side = kernel.shape[0]
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2, (0, 0)))
    h, w = x.shape[1:3]
    return sum(padded[:, i : i + h, j : j + w] @ kernel[i, j] for i in range(side) for j in range(side))


def norm_relu_conv(x: np.ndarray, unit: NormReluConv, training: bool) -> np.ndarray:
    gamma, beta, mean, variance = (w.numpy().astype(np.float64) for w in unit.norm.weights)
    if training:
        mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    normal = gamma * (x - mean) / np.sqrt(variance + unit.norm.epsilon) + beta
    y = convolve(np.maximum(normal, 0), unit.conv.kernel.numpy().astype(np.float64))
    return y + unit.conv.bias.numpy() if unit.conv.use_bias else y


def shake(layer: keras.layers.Layer) -> None:
    """Give every weight a value of its own, so that a mix-up shows."""
    rng = np.random.default_rng(3)
    for w in layer.weights:
        positive = w.path.endswith(("gamma", "moving_variance"))
        w.assign(rng.uniform(0.5, 1.5, w.shape) if positive else rng.normal(0, 0.4, w.shape))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_every_layer_reads_all_maps_before_it(training: bool, bottleneck: bool, use_bias: bool) -> None:
    block = DenseBlock(3, 4, bottleneck=bottleneck, use_bias=use_bias)
    x = np.random.default_rng(0).normal(size=(3, 5, 6, 7))
    block.build(x.shape)
    shake(block)

    # x_l = H_l([x_0, x_1, …, x_{l-1}]), Equation 2 of the paper.
    maps = [x]
    for i, conv in enumerate(block.convs):
        y = np.concatenate(maps, axis=-1)
        if bottleneck:
            y = norm_relu_conv(y, block.bottlenecks[i], training)
        maps.append(norm_relu_conv(y, conv, training))

    found = keras.ops.convert_to_numpy(block(x.astype("float32"), training=training))
    np.testing.assert_allclose(found, np.concatenate(maps, axis=-1), rtol=1e-4, atol=1e-4)
    assert block.compute_output_shape(x.shape) == found.shape == (3, 5, 6, 7 + 3 * 4)


def test_training_moves_every_statistic_once_by_keras_s_rule() -> None:
    block = DenseBlock(2, 3, bottleneck=True, momentum=0.8)
    x = np.random.default_rng(0).normal(2, 3, size=(4, 6, 6, 5)).astype("float32")
    block(x, training=True)
    norm = block.bottlenecks[1].norm
    np.testing.assert_allclose(norm.moving_mean.numpy()[:5], 0.2 * x.mean(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy()[:5], 0.8 + 0.2 * x.var(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("size", [(6, 4), (7, 5)])
def test_a_transition_halves_the_map_and_compresses_the_channels(size: tuple[int, int]) -> None:
    layer = Transition(0.5)
    x = np.random.default_rng(0).normal(size=(2, *size, 9))
    layer.build(x.shape)
    shake(layer)
    h, w = size[0] // 2, size[1] // 2
    full = norm_relu_conv(x, layer.unit, training=False)[:, : 2 * h, : 2 * w]
    expected = full.reshape(2, h, 2, w, 2, 4).mean(axis=(2, 4))
    found = keras.ops.convert_to_numpy(layer(x.astype("float32")))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == found.shape


@pytest.mark.parametrize(
    "make", [lambda p: DenseBlock(2, 8, bottleneck=True, dropout=p), lambda p: Transition(1.0, dropout=p)]
)
def test_dropout_works_in_training_only_and_keeps_the_mean(make) -> None:
    layer = make(0.5)
    x = np.random.default_rng(0).random((8, 8, 8, 16)).astype("float32")
    still = keras.ops.convert_to_numpy(layer(x, training=False))
    again = keras.ops.convert_to_numpy(layer(x, training=False))
    np.testing.assert_array_equal(still, again)
    first = keras.ops.convert_to_numpy(layer(x, training=True))
    second = keras.ops.convert_to_numpy(layer(x, training=True))
    assert not np.array_equal(first, second)
    new = keras.ops.convert_to_numpy(DenseBlock(1, 64, dropout=0.3)(x, training=True))[..., 16:]
    assert abs(float((new == 0).mean()) - 0.3) < 0.02


@pytest.mark.parametrize(
    "layer",
    [
        NormReluConv(5, 3, dropout=0.1, use_bias=True, kernel_initializer="he_uniform", kernel_regularizer="l2"),
        DenseBlock(2, 3, bottleneck=True, bottleneck_width=2, dropout=0.1, momentum=0.7, epsilon=1e-4),
        DenseBlock(
            2, 3, kernel_initializer=keras.initializers.HeNormal(), kernel_regularizer=keras.regularizers.L2(1e-3)
        ),
        Transition(0.3, use_bias=True, dropout=0.2, name="shrink"),
    ],
)
def test_a_configuration_round_trips(layer: keras.layers.Layer) -> None:
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    layer.build((None, 8, 8, 6))
    again.build((None, 8, 8, 6))
    assert [w.shape for w in again.weights] == [w.shape for w in layer.weights]


def test_a_frozen_block_keeps_weights_and_statistics() -> None:
    block = DenseBlock(2, 3, bottleneck=True)
    x = np.random.default_rng(0).normal(1, 2, size=(4, 6, 6, 5)).astype("float32")
    block.build(x.shape)
    block.trainable = False
    before = [w.numpy() for w in block.weights]
    trained = keras.ops.convert_to_numpy(block(x, training=True))
    np.testing.assert_array_equal(trained, keras.ops.convert_to_numpy(block(x, training=False)))
    assert block.trainable_weights == []
    for w, old in zip(block.weights, before, strict=True):
        np.testing.assert_array_equal(w.numpy(), old)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DenseBlock(0, 12), "num_layers=0"),
        (lambda: Transition(0.0), "compression"),
        (lambda: Transition(0.1).build((None, 8, 8, 5)), "leaves none of 5 channels"),
    ],
)
def test_what_cannot_be_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def trained(layer: keras.layers.BatchNormalization, x: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """What one training step leaves: output, gradients of Σ output·x², moving statistics; all in float32."""
    import torch

    layer.build(x.shape)
    shake(layer)
    inputs = torch.tensor(x, dtype=getattr(torch, dtype)).requires_grad_()
    output = layer(inputs, training=True)
    (output.float() * inputs.detach().float() ** 2).sum().backward()
    assert str(output.dtype) == f"torch.{layer.compute_dtype}"
    grads = {"input": inputs.grad, "gamma": layer.gamma.value.grad, "beta": layer.beta.value.grad}
    moving = {"mean": layer.moving_mean.value, "variance": layer.moving_variance.value}
    return {k: v.detach().float().numpy() for k, v in {"output": output, **grads, **moving}.items()}


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="an operation of PyTorch's")
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (1, 1, 1, 4), (8, 2, 2, 33)])
def test_batch_norm_learns_as_keras_s_own(shape: tuple[int, ...], dtype: str, bound: float) -> None:
    x = np.random.default_rng(0).normal(3, 2, shape)
    policy = "float32" if dtype == "float32" else "mixed_bfloat16"
    options = {"momentum": 0.8, "epsilon": 1e-3, "dtype": policy}
    ours, keras_s = (
        trained(BatchNorm(**options), x, dtype),
        trained(keras.layers.BatchNormalization(**options), x, dtype),
    )
    for name, expected in keras_s.items():
        np.testing.assert_allclose(ours[name], expected, atol=bound * max(1, np.abs(expected).max()), err_msg=name)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="an operation of PyTorch's")
def test_batch_norm_leaves_to_keras_what_only_keras_can() -> None:
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 3, 5)).astype("float32")
    frozen = BatchNorm(trainable=False)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(frozen(x, training=True)), x / np.sqrt(1 + frozen.epsilon), rtol=1e-5
    )
    assert not frozen.moving_mean.numpy().any()

    shared = BatchNorm(momentum=0.0)
    shared.build(x.shape)
    shared._moments = lambda inputs, mask: (keras.ops.ones(5), keras.ops.ones(5))  # of processes that train together
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(shared(x, training=True)), (x - 1) / np.sqrt(1.001), rtol=1e-5
    )
    np.testing.assert_array_equal(shared.moving_mean.numpy(), 1)

    again = BatchNorm.from_config(BatchNorm(fused=False, momentum=0.7).get_config())
    assert (again.fused, again.momentum) == (False, 0.7)


PAIRS = {
    "convolution": (Conv, keras.layers.Conv2D, {"filters": 6, "kernel_size": 3}),
    "halving": (Conv, keras.layers.Conv2D, {"filters": 6, "kernel_size": 3, "strides": 2, "use_bias": False}),
    "even": (Conv, keras.layers.Conv2D, {"filters": 6, "kernel_size": 2}),
    "dilated": (Conv, keras.layers.Conv2D, {"filters": 6, "kernel_size": 3, "dilation_rate": 2}),
    "grouped": (Conv, keras.layers.Conv2D, {"filters": 6, "kernel_size": (1, 3), "groups": 3, "activation": "relu"}),
    "pooling": (MaxPool, keras.layers.MaxPooling2D, {"pool_size": 2}),
    "overlapping": (MaxPool, keras.layers.MaxPooling2D, {"pool_size": 3, "strides": 2}),
}


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_layer_without_copies_computes_what_keras_s_own_does(pair, policy: str, padding: str) -> None:
    ours, keras_s, options = pair
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 3)).astype("float32")
    for data_format in ("channels_last", "channels_first"):
        maps = x if data_format == "channels_last" else x.transpose(0, 3, 1, 2)
        layers = [kind(padding=padding, data_format=data_format, dtype=policy, **options) for kind in (ours, keras_s)]
        outputs = [layer(maps) for layer in layers]
        if layers[0].weights:
            layers[1].set_weights(layers[0].get_weights())
            outputs[1] = layers[1](maps)
        assert outputs[0].dtype == outputs[1].dtype and layers[0].compute_output_shape(maps.shape) == outputs[0].shape
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32")) for y in outputs))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="about PyTorch's memory")
@pytest.mark.parametrize(("kind", "options"), [(Conv, {"filters": 4, "kernel_size": 3}), (MaxPool, {})])
def test_maps_are_not_copied(kind, options: dict) -> None:
    def copied(layer: keras.layers.Layer) -> list[int]:
        layer(x)
        with profile(record_shapes=True) as seen, torch.no_grad():
            layer(x)
        return [e.id for e in seen.events() if e.name == "aten::copy_" and np.prod(e.input_shapes[0]) == x.numel()]

    import torch
    from torch.profiler import profile

    x = torch.randn(2, 8, 8, 3)
    assert not copied(kind(**options)) and kind(**options)(x).is_contiguous()
    assert copied(kind.__base__(**options)), "Keras copies no longer: the layer can go"
