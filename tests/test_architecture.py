"""The networks against three oracles: the published sizes, keras.applications, and the other Keras engine."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import processes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import densely
from densely.architecture import NETWORKS, NetworkSpec, build, connect, spec
from densely.errors import UsageError


def trainable(model: keras.Model) -> int:
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


# Trainable parameters, 10 classes: of the paper's networks as the authors' code builds them, of the notebook's as its
# own summary prints it, of the ImageNet ones (1,000 classes) as keras.applications counts them.
PUBLISHED = {
    "densenet-40-12": 1_019_722,
    "densenet-100-12": 6_979_642,
    "densenet-100-24": 27_249_082,
    "densenet-bc-100-12": 769_162,
    "densenet-bc-250-24": 15_324_406,
    "densenet-bc-190-40": 25_624_430,
    "densenet-bc-40-36": 1_542_682,
    "densenet-bc-40-48": 2_733_130,
    "densenet-bc-40-60": 4_261_690,
    "notebook": 757_958,
    "densenet-121": 7_978_856,
    "densenet-169": 14_149_480,
    "densenet-201": 20_013_928,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_trainable_parameters_are_the_published_ones(name: str, parameters: int) -> None:
    assert trainable(build(name)) == parameters


@pytest.mark.parametrize(
    "name", ["DenseNet121", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DenseNet169", "DenseNet201"))]
)
def test_imagenet_networks_equal_keras_applications(name: str) -> None:
    peer = getattr(keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=7)
    # keras.applications' own epsilon; everything else is the named network.
    ours = build(f"densenet-{name.removeprefix('DenseNet')}", input_shape=(64, 64, 3), classes=7, norm_epsilon=1.001e-5)
    assert trainable(ours) == trainable(peer)

    # Both list their weights in the order of computation, the moving statistics behind γ and β.
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.5, 1.5, w.shape) if "variance" in w.path else w.numpy() for w in peer.weights]
    values = [
        rng.normal(0, 0.1, v.shape) if "moving_mean" in w.path else v for w, v in zip(peer.weights, values, strict=True)
    ]
    peer.set_weights(values)
    ours.set_weights(values)

    images = rng.random((2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(ours.predict_on_batch(images), peer.predict_on_batch(images), atol=1e-5)


def test_the_model_is_an_ordinary_functional_keras_model() -> None:
    model = densely.build("densenet-bc-16-8", input_shape=(16, 16, 5), classes=3)
    assert type(model) in (keras.Model, keras.models.Model) or model.__class__.__name__ == "Functional"
    assert model.input_shape == (None, 16, 16, 5)
    assert [layer.name for layer in model.layers] == [
        "image",
        "stem_conv",
        "dense_block_1",
        "transition_1",
        "dense_block_2",
        "transition_2",
        "dense_block_3",
        "final_norm",
        "final_relu",
        "global_pool",
        "logits",
        "probabilities",
    ]
    out = model.predict_on_batch(np.zeros((2, 16, 16, 5), "float32"))
    np.testing.assert_allclose(out.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 41}, ["depth 41", "3 blocks", "40, 43"]),
        ({"depth": 43, "bottleneck": True}, ["depth 43", "bottleneck", "40, 46"]),
        ({"depth": 4}, ["depth 4", "nearest that fit: 7"]),
        ({"activation": "tanh"}, ["network: activation='tanh'", "softmax", "sigmoid"]),
        ({"dropout": 1.0}, ["dropout=1.0", "less than 1"]),
        ({"compression": 0.0}, ["compression=0.0", "greater than 0"]),
        ({"input_shape": (3, 32, 1)}, ["(3, 32, 1)", "too small", "at least 4"]),
        ({"input_shape": (32, 32, 0)}, ["at least one channel"]),
        ({"layers": (4, 4), "depth": 40}, ["layers=(4, 4)", "leave depth and blocks out"]),
        ({"growht_rate": 3}, ["There is no network setting named 'growht_rate'", "growth_rate"]),
        ({"depth": None, "layers": (3, 0)}, ["every block needs at least one layer"]),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(changes: dict, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        build("densenet-40-12", **changes)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_depth_and_layers_take_one_another_s_place() -> None:
    assert spec("densenet-40-12", layers=(4, 5)).block_layers == (4, 5)
    assert spec(spec("densenet-40-12", blocks=2), layers=(1, 2, 3)).block_layers == (1, 2, 3)
    deeper = spec("densenet-fast", depth=22)
    assert deeper.block_layers == (6, 6, 6)
    assert (deeper.stem, deeper.growth_rates) == ("whitened", (32, 64, 128))
    assert spec("densenet-121", depth=36).block_layers == (4, 4, 4, 4)  # over as many blocks
    assert spec("densenet-121", depth=40, blocks=3).block_layers == (6, 6, 6)


def test_an_unknown_name_suggests_the_nearest() -> None:
    said = "There is no network named 'densenet-bc-100-21': did you mean densenet-bc-100-12"
    with pytest.raises(UsageError, match=f"^{said}"):
        build("densenet-bc-100-21")


def test_letter_case_of_a_name_does_not_matter() -> None:
    assert spec("DenseNet-BC-100-12") == NETWORKS["densenet-bc-100-12"]


@given(depth=st.integers(5, 120), blocks=st.integers(1, 6), bottleneck=st.booleans())
def test_depth_follows_the_notebook_s_rule(depth: int, blocks: int, bottleneck: bool) -> None:
    each = (depth - 4) / blocks / (2 if bottleneck else 1)
    shape = (64, 64, 1)
    if each.is_integer() and each >= 1:
        network = NetworkSpec(depth=depth, blocks=blocks, bottleneck=bottleneck, input_shape=shape)
        assert network.block_layers == (int(each),) * blocks
    else:
        with pytest.raises(UsageError, match="does not fit"):
            spec(NetworkSpec(input_shape=shape), depth=depth, blocks=blocks, bottleneck=bottleneck)


@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(4, 19),
    width=st.integers(4, 19),
    channels=st.integers(1, 6),
    compression=st.sampled_from([0.3, 1.0]),
)
def test_any_size_that_the_pooling_allows(height: int, width: int, channels: int, compression: float) -> None:
    model = build(
        "densenet-bc-16-8", input_shape=(height, width, channels), classes=2, compression=compression, growth_rate=2
    )
    assert model.predict_on_batch(np.ones((1, height, width, channels), "float32")).shape == (1, 2)


def test_open_height_and_width_take_images_of_several_sizes() -> None:
    model = build("densenet-bc-16-8", input_shape=(None, None, 1), classes=2)
    for side in (8, 13):
        assert model.predict_on_batch(np.zeros((1, side, side, 1), "float32")).shape == (1, 2)


def test_fan_out_initialisation_has_the_papers_spread() -> None:
    kernel = build("densenet-bc-40-48").get_layer("dense_block_3").convs[0].conv.kernel.numpy()
    side, _, _, filters = kernel.shape
    assert abs(kernel.std() / np.sqrt(2 / (side * side * filters)) - 1) < 0.02
    assert abs(kernel.mean()) < 0.01 * kernel.std() * 3


def test_normalisation_and_classifier_start_as_in_the_paper_s_code() -> None:
    model = build("densenet-bc-40-12")
    block = model.get_layer("dense_block_2")
    norms = [unit.norm for unit in (*block.bottlenecks, *block.convs, model.get_layer("transition_1").unit)]
    for norm in (*norms, model.get_layer("final_norm")):
        assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
        assert (norm.gamma.numpy() == 1).all()
        assert (norm.beta.numpy() == 0).all()
    kernel, bias = (w.numpy() for w in model.get_layer("logits").weights)
    largest = 1 / np.sqrt(len(kernel))
    assert 0.97 * largest < np.abs(kernel).max() <= largest
    assert abs(kernel.std() / (largest / np.sqrt(3)) - 1) < 0.1
    assert (bias == 0).all()


def test_no_two_convolutions_start_alike() -> None:
    keras.utils.set_random_seed(1)
    block = build("densenet-bc-16-8").get_layer("dense_block_1")
    first, second = (unit.conv.kernel.numpy().ravel()[:50] for unit in block.convs)
    assert not np.allclose(first, second)


def test_same_seed_same_weights() -> None:
    def weights() -> np.ndarray:
        keras.utils.set_random_seed(7)
        return np.concatenate([w.numpy().ravel() for w in build("densenet-bc-16-8").weights])

    np.testing.assert_array_equal(weights(), weights())


def test_weight_decay_is_l2_on_kernels_only() -> None:
    model = build("densenet-bc-16-8", weight_decay=0.01)
    kernels = [w.numpy() for w in model.trainable_weights if w.path.endswith("kernel")]
    expected = 0.01 * sum(float((k.astype(np.float64) ** 2).sum()) for k in kernels)
    found = sum(float(keras.ops.convert_to_numpy(loss)) for loss in model.losses)
    assert found == pytest.approx(expected, rel=1e-5)


HEAD = ["final_norm", "final_relu", "global_pool", "logits", "probabilities"]
BODY = ["dense_block_1", "transition_1", "dense_block_2", *HEAD]


@pytest.mark.parametrize(
    ("stem", "names"),
    [
        ("cifar", ["image", "stem_conv"]),
        ("whitened", ["image", "whitening", "stem_relu", "stem_conv"]),
        ("pooled", ["image", "whitening", "stem_relu", "stem_conv", "stem_pool"]),
        (
            "imagenet",
            ["image", "stem_pad", "stem_conv", "stem_norm", "stem_relu", "stem_pool_pad", "stem_pool"],
        ),
    ],
)
def test_layers_have_the_names_that_weights_are_saved_and_frozen_by(stem: str, names: list[str]) -> None:
    model = build(NetworkSpec(layers=(1, 1), stem=stem))
    assert [layer.name for layer in model.layers] == names + BODY
    assert model.name == "densenet"
    assert build(NetworkSpec(layers=(1, 1)), name="My-Own").name == "my_own"


def test_the_network_that_is_built_if_nothing_is_said() -> None:
    model = build()
    assert model.name == "densenet_bc_100_12"
    assert len([layer for layer in model.layers if layer.name.startswith("dense_block")]) == 3


@pytest.mark.parametrize("stem", ["cifar", "whitened", "pooled", "imagenet"])
def test_every_layer_gets_every_setting(stem: str) -> None:
    settings = {"norm_momentum": 0.7, "norm_epsilon": 0.01, "use_bias": True, "weight_decay": 0.03, "dropout": 0.25}
    network = NetworkSpec(layers=(1, 1), stem=stem, bottleneck=True, initializer="he_uniform", **settings)
    model = build(network, fused=False)
    inner = list(model._flatten_layers(include_self=False))
    norms = [layer for layer in inner if isinstance(layer, keras.layers.BatchNormalization)]
    assert {(norm.momentum, norm.epsilon) for norm in norms} == {(0.7, 0.01)}
    convolutions = [layer for layer in inner if isinstance(layer, keras.layers.Conv2D) and layer.name != "whitening"]
    assert len(convolutions) == 6
    assert all(layer.use_bias for layer in convolutions)
    assert all(isinstance(layer.kernel_initializer, keras.initializers.HeUniform) for layer in convolutions)
    decayed = [*convolutions, model.get_layer("logits")]
    assert [float(layer.kernel_regularizer.l2) for layer in decayed] == pytest.approx([0.03] * 7)
    parts = [layer for layer in model.layers if layer.name.startswith(("dense_block", "transition"))]
    assert [(part.fused, part.get_config()["dropout"]) for part in parts] == [(False, 0.25)] * 3
    plain = build(network, weight_decay=0.0, fused=False)
    assert {layer.kernel_regularizer for layer in plain._flatten_layers() if hasattr(layer, "kernel_regularizer")} == {
        None
    }


@pytest.mark.parametrize(
    ("depth", "blocks", "bottleneck", "says"),
    [
        (
            11,
            3,
            False,
            "3 blocks: (depth - 4) must be shared out evenly between the blocks; the nearest that fit: 10, 13.",
        ),
        (12, 3, False, "the nearest that fit: 10, 13."),
        (4, 3, False, "the nearest that fit: 7."),
        (2, 3, False, "the nearest that fit: 7."),
        (8, 3, False, "the nearest that fit: 7, 10."),
        (
            6,
            2,
            True,
            "shared out evenly between the blocks, and halved by the bottleneck; the nearest that fit: 8.",
        ),
        (7, 1, True, "does not fit 1 block: "),
        (7, 2, False, "does not fit 2 blocks: "),
    ],
)
def test_a_depth_that_does_not_fit_is_told_with_the_nearest(
    depth: int, blocks: int, bottleneck: bool, says: str
) -> None:
    with pytest.raises(UsageError) as caught:
        spec("densenet-40-12", depth=depth, blocks=blocks, bottleneck=bottleneck)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["densenet-bc-16-8", "densenet-22-plain"])
def test_saves_and_loads_in_both_formats(name: str, tmp_path: Path) -> None:
    network = NETWORKS.get(name) or NetworkSpec(depth=10, growth_rate=4, dropout=0.1, weight_decay=1e-4, use_bias=True)
    model = build(network, input_shape=(8, 8, 2), classes=3)
    images = np.random.default_rng(0).random((4, 8, 8, 2)).astype("float32")
    expected = model.predict_on_batch(images)

    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras").predict_on_batch(images), expected)

    model.save_weights(tmp_path / "model.weights.h5")
    # Dropout and the form of the output are no part of the weights.
    other = build(network, input_shape=(8, 8, 2), classes=3, dropout=0.3, activation="none")
    other.load_weights(tmp_path / "model.weights.h5")
    logits = other.predict_on_batch(images).astype(np.float64)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, expected, atol=1e-6)


@pytest.mark.parametrize("stem", ["cifar", "whitened", "pooled", "imagenet"])
def test_a_global_channels_first_setting_changes_nothing(stem: str) -> None:
    network = NetworkSpec(layers=(1, 1), stem=stem, input_shape=(32, 24, 3))
    expected = [layer.output.shape for layer in build(network).layers]
    keras.config.set_image_data_format("channels_first")
    try:
        assert [layer.output.shape for layer in build(network).layers] == expected
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize(
    ("stem", "layer", "settings"),
    [
        ("cifar", "stem_conv", {"kernel_size": (3, 3), "strides": (1, 1), "padding": "same"}),
        ("whitened", "stem_conv", {"kernel_size": (3, 3), "strides": (2, 2), "padding": "same"}),
        ("pooled", "stem_conv", {"kernel_size": (3, 3), "strides": (1, 1), "padding": "same"}),
        ("pooled", "stem_pool", {"pool_size": (2, 2), "strides": (2, 2), "padding": "valid"}),
        ("imagenet", "stem_pad", {"padding": ((3, 3), (3, 3))}),
        ("imagenet", "stem_conv", {"kernel_size": (7, 7), "strides": (2, 2), "padding": "valid"}),
        ("imagenet", "stem_pool_pad", {"padding": ((1, 1), (1, 1))}),
        ("imagenet", "stem_pool", {"pool_size": (3, 3), "strides": (2, 2), "padding": "valid"}),
    ],
)
def test_stems_are_the_papers_and_the_whitened_ones_halve(stem: str, layer: str, settings: dict) -> None:
    model = build(NetworkSpec(layers=(1,), stem=stem))
    config = model.get_layer(layer).get_config()
    assert {name: config[name] for name in settings} == settings


def test_a_transition_keeps_its_share_of_maps() -> None:
    model = build(NetworkSpec(layers=(2, 1), growth_rate=5, stem_filters=6, compression=0.5))
    assert model.get_layer("transition_1").output.shape == (None, 16, 16, 8)  # half of 6 + 2·5


def test_under_mixed_precision_the_head_stays_in_full() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(NetworkSpec(layers=(1,)))
    finally:
        keras.config.set_dtype_policy("float32")
    dtypes = {layer.name: layer.compute_dtype for layer in model.layers}
    assert dtypes["global_pool"] == "bfloat16"
    assert dtypes["logits"] == dtypes["probabilities"] == "float32"


def test_a_saved_model_opens_in_a_fresh_process(tmp_path: Path) -> None:
    build("densenet-bc-16-8").save(tmp_path / "model.keras")
    program = "import densely.layers, keras; print(keras.models.load_model('model.keras').output_shape)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(None, 10)"


def test_a_configuration_round_trips() -> None:
    model = build("densenet-bc-16-8", dropout=0.1, weight_decay=1e-4)
    again = keras.Model.from_config(model.get_config())
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]
    assert again.get_config() == model.get_config()


def test_a_spec_round_trips_through_json() -> None:
    for network in NETWORKS.values():
        assert NetworkSpec.model_validate_json(network.model_dump_json()) == network


def test_connect_serves_a_larger_model() -> None:
    inputs = keras.Input((8, 8, 1))
    outputs = connect(spec("densenet-bc-16-8", classes=3), keras.layers.Rescaling(1 / 255)(inputs))
    assert keras.Model(inputs, outputs).output_shape == (None, 3)


ENGINES_PROGRAM = """
import sys, numpy as np, keras, densely
keras.config.set_floatx("float64")  # so that only a difference in the mathematics can show
if keras.backend.backend() == "jax":
    import jax
    jax.config.update("jax_enable_x64", True)
from densely.architecture import NetworkSpec, build

def loss_and_gradients(model, x, y):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if keras.backend.backend() == "torch":
        value = loss(y, model(x, training=True))
        model.zero_grad()
        value.backward()
        return float(value), [v.value.grad.numpy() for v in model.trainable_variables]
    def stateless(trainable, rest):
        logits, rest = model.stateless_call(trainable, rest, x, training=True)
        return loss(y, logits), rest
    start = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    (value, rest), gradients = jax.jit(jax.value_and_grad(stateless, has_aux=True))(*start)
    for variable, new in zip(model.non_trainable_variables, rest):
        variable.assign(new)
    return float(value), [np.asarray(g) for g in gradients]

found = {}
networks = {
    "bc": NetworkSpec(depth=12, blocks=2, growth_rate=3, bottleneck=True, compression=0.5, use_bias=True,
                      activation="none", input_shape=(9, 8, 2), classes=4),
    "imagenet": NetworkSpec(layers=(1, 2), growth_rate=3, stem="imagenet", stem_filters=6,
                            activation="none", input_shape=(17, 16, 3), classes=4),
}
for name in sys.argv[2:]:
    network = networks[name]
    model = build(network)
    rng = np.random.default_rng(0)
    model.set_weights([
        rng.uniform(0.5, 1.5, w.shape) if "gamma" in w.path or "variance" in w.path else rng.normal(0, 0.3, w.shape)
        for w in model.weights
    ])
    x = rng.normal(size=(5, *network.input_shape))
    y = rng.integers(0, 4, 5)
    found[f"{name}/inference"] = np.asarray(model.predict_on_batch(x))
    value, gradients = loss_and_gradients(model, x, y)
    found[f"{name}/loss"] = value
    for w, g in zip(model.trainable_weights, gradients):
        found[f"{name}/gradient/{w.path}"] = g
    for w in model.non_trainable_weights:
        found[f"{name}/statistics/{w.path}"] = w.numpy()
np.savez(sys.argv[1], **found)
"""


@pytest.mark.parametrize("network", ["bc", pytest.param("imagenet", marks=pytest.mark.slow)])
def test_torch_and_jax_agree_on_outputs_gradients_and_statistics(network: str, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    script = tmp_path / "engines.py"
    script.write_text(ENGINES_PROGRAM)
    done = processes.densely(tmp_path / "torch.npz", network, script=script)
    assert done.returncode == 0, done.stderr
    subprocess.run(
        [sys.executable, script, tmp_path / "jax.npz", network],
        # Compiling is most of it.
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        check=True,
        capture_output=True,
    )
    torch, jax = np.load(tmp_path / "torch.npz"), np.load(tmp_path / "jax.npz")
    assert sorted(torch.files) == sorted(jax.files)
    assert len([name for name in torch.files if "/gradient/" in name]) > 20
    for name in torch.files:
        np.testing.assert_allclose(torch[name], jax[name], rtol=1e-5, atol=5e-6, err_msg=name)
