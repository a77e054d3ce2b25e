"""The fused path of a dense block inside Keras: equal to the reference path wherever a user may put it."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from densely import fused
from densely.architecture import NetworkSpec, build
from densely.layers import DenseBlock, Transition


def pair(**options) -> tuple[DenseBlock, DenseBlock]:
    """The same block twice: fused, and by the reference path."""
    blocks = DenseBlock(3, 4, **options), DenseBlock(3, 4, fused=False, **options)
    for block in blocks:
        block.build((None, 6, 5, 7))
    shake(*blocks)
    return blocks


def shake(one: keras.layers.Layer, other: keras.layers.Layer) -> None:
    """Give all weights of both layers the same values, each its own."""
    rng = np.random.default_rng(1)
    for a, b in zip(one.weights, other.weights, strict=True):
        positive = a.path.endswith(("gamma", "moving_variance"))
        value = rng.uniform(0.5, 1.5, a.shape) if positive else rng.normal(0, 0.4, a.shape)
        a.assign(value)
        b.assign(value)


def images(seed: int = 0, n: int = 4) -> torch.Tensor:
    x = np.random.default_rng(seed).normal(size=(n, 6, 5, 7)).astype("float32")
    return torch.tensor(x, requires_grad=True)


def everything(block: DenseBlock, x: torch.Tensor, training: bool) -> dict[str, np.ndarray]:
    """Output, every gradient, every moving statistic."""
    y = block(x, training=training)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return collected(block, x, y)


def collected(block: DenseBlock, x: torch.Tensor, y: torch.Tensor) -> dict[str, np.ndarray]:
    found = {"output": y.detach().numpy(), "input": x.grad.numpy()}
    found |= {w.path.split("/", 1)[1]: w.value.grad.numpy() for w in block.trainable_weights}
    return found | {w.path.split("/", 1)[1] + "!": w.numpy() for w in block.non_trainable_weights}


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray], relative: float) -> None:
    assert one.keys() == other.keys()
    largest = max(np.abs(v).max() for v in other.values())
    for name, value in other.items():
        # A small gradient can be the small difference of large sums: a bias before a normalisation has none at all.
        scale = max(np.abs(value).max(), 0.05 * largest)
        assert np.abs(one[name] - value).max() <= relative * scale, name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_equals_the_reference_path(training: bool, bottleneck: bool, use_bias: bool) -> None:
    ours, reference = pair(bottleneck=bottleneck, use_bias=use_bias)
    assert_close(everything(ours, images(), training), everything(reference, images(), training), 1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_transition_equals_the_reference_path(training: bool, frozen: bool) -> None:
    layers = Transition(0.5), Transition(0.5, fused=False)
    for layer in layers:
        layer.build((None, 6, 5, 7))
        layer.trainable = not frozen
    shake(*layers)
    assert_close(*(everything(layer, images(), training) for layer in layers), 1e-5)


def test_is_what_runs_by_default_and_not_where_it_was_declined(monkeypatch: pytest.MonkeyPatch) -> None:
    from densely import kernels

    calls = []
    original = kernels.dense_block
    monkeypatch.setattr(kernels, "dense_block", lambda *a, **k: calls.append(1) or original(*a, **k))
    ours, reference = pair()
    reference(images(), training=True)
    assert calls == []
    ours(images(), training=True)
    assert calls == [1]


@pytest.mark.parametrize("frozen", ["block", "bottleneck norms", "last norm"])
def test_frozen_normalisation_keeps_its_statistics_and_normalises_by_them(frozen: str) -> None:
    ours, reference = pair(bottleneck=True)
    for block in (ours, reference):
        if frozen == "block":
            block.trainable = False
        elif frozen == "bottleneck norms":
            for unit in block.bottlenecks:
                unit.norm.trainable = False
        else:
            block.convs[-1].norm.trainable = False
    assert_close(everything(ours, images(), True), everything(reference, images(), True), 1e-5)


@pytest.mark.parametrize("make", [lambda **k: DenseBlock(2, 4, bottleneck=True, **k), lambda **k: Transition(0.5, **k)])
@pytest.mark.parametrize("how", ["argument", "before build", "config"])
def test_frozen_from_the_start_is_frozen_all_through(make, how: str) -> None:
    if how == "argument":
        layer = make(trainable=False)
    elif how == "before build":
        layer = make()
        layer.trainable = False
    else:
        original = make()
        original.trainable = False
        layer = type(original).from_config(original.get_config())
    layer.build((None, 6, 5, 7))
    before = [w.numpy() for w in layer.weights]
    trained, still = layer(images(), training=True), layer(images(), training=False)
    np.testing.assert_array_equal(trained.detach(), still.detach())
    assert not any(w.value.requires_grad for w in layer.weights)
    for w, old in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(w.numpy(), old)


@pytest.mark.parametrize("n", [1, 64])
def test_an_output_may_be_changed_in_place_like_any_other(n: int) -> None:
    x = torch.randn(n, 32, 32, 7, requires_grad=True)
    y = Transition(1.0)(x, training=True)
    y.relu_().sum().backward()
    assert x.grad is not None


def test_lora_kernels_take_the_reference_path() -> None:
    ours, _ = pair()
    for unit in ours.convs:
        unit.conv.enable_lora(2)
    assert ours(images(), training=True).shape == (4, 6, 5, 7 + 12)


@pytest.fixture
def float64():
    """Keras in double precision, where no rounding tips a ReLU."""
    for dtype in ("float64", "float32"):
        keras.config.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        if dtype == "float64":
            yield


@pytest.mark.usefixtures("float64")
def test_trains_like_the_reference_path_through_fit(tmp_path: Path) -> None:
    """Five steps of fit, two blocks and a transition, weights moved from one to the other by a file."""
    # Some of Keras's numbers pass through float32: that tips a ReLU once in a hundred beginnings.
    keras.utils.set_random_seed(0)
    network = NetworkSpec(depth=12, blocks=2, growth_rate=4, bottleneck=True, compression=0.5, input_shape=(8, 8, 2))
    ours, reference = build(network), build(network, fused=False)
    ours.save_weights(tmp_path / "start.weights.h5")
    reference.load_weights(tmp_path / "start.weights.h5")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 8, 8, 2)), rng.integers(0, 10, 40)
    for model in (ours, reference):
        model.compile(keras.optimizers.SGD(0.05, 0.9, nesterov=True), "sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(ours.weights, reference.weights, strict=True):
        assert one.dtype == "float64"
        # Keras's own layer passes every update of its moving statistics, here about 1, through float32.
        atol = 1e-6 if "moving" in one.path else 1e-8
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6, atol=atol, err_msg=one.path)
    np.testing.assert_allclose(ours.predict(x, verbose=0), reference.predict(x, verbose=0), atol=1e-6)


def test_dropout_follows_the_keras_seed_and_moves_on() -> None:
    def outputs() -> list[np.ndarray]:
        keras.utils.set_random_seed(5)
        block = DenseBlock(2, 4, bottleneck=True, dropout=0.3)
        x = images()
        return [block(x, training=True).detach().numpy() for _ in range(2)]

    first, second = outputs()
    again = outputs()
    np.testing.assert_array_equal(first, again[0])
    np.testing.assert_array_equal(second, again[1])
    assert not np.array_equal(first, second)


def test_gradients_of_two_half_batches_add_up() -> None:
    ours, reference = pair(bottleneck=True)
    totals = []
    for block in (ours, reference):
        for seed in (0, 1):
            block(images(seed), training=True).square().sum().backward()
        totals.append({w.path.split("/", 1)[1]: w.value.grad.numpy() for w in block.trainable_weights})
    assert_close(*totals, 1e-5)


def test_one_block_used_twice_in_a_larger_model() -> None:
    results = []
    for block in pair(bottleneck=True):
        x = images()
        y = block(x, training=True)
        z = block(y[..., :7] * 2, training=True)
        (z.square().mean() + y.mean()).backward()
        found = {w.path.split("/", 1)[1]: w.value.grad.numpy() for w in block.trainable_weights}
        results.append(found | {"input": x.grad.numpy(), "output": z.detach().numpy()})
    assert_close(*results, 1e-5)


def test_mixed_bfloat16_is_as_near_as_the_reference_path_and_keeps_weights_gradients_in_float32() -> None:
    _, exact_block = pair(bottleneck=True)
    exact = everything(exact_block, images(), True)
    distances = []
    for options in ({}, {"fused": False}):
        half = DenseBlock(3, 4, bottleneck=True, dtype="mixed_bfloat16", **options)
        half.build((None, 6, 5, 7))
        half.set_weights(pair(bottleneck=True)[1].get_weights())
        found = everything_in_float32(half)
        distances.append({k: np.linalg.norm(found[k] - v) / np.linalg.norm(v) for k, v in exact.items()})
        if not options:
            assert {w.value.grad.dtype for w in half.trainable_weights} == {torch.float32}
    ours, reference = distances
    for name, distance in ours.items():
        assert distance <= 1.5 * reference[name] + 0.01, name


def everything_in_float32(block: DenseBlock) -> dict[str, np.ndarray]:
    x = images()
    y = block(x, training=True)
    assert y.dtype == torch.bfloat16
    y = y.float()
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return collected(block, x, y)


def test_a_weights_file_moves_between_the_paths(tmp_path: Path) -> None:
    for dropout in (0.0, 0.2):
        ours = build("densenet-bc-16-8", dropout=dropout)
        reference = build("densenet-bc-16-8", dropout=0.2 - dropout, fused=False)
        ours.save_weights(tmp_path / "w.weights.h5")
        reference.load_weights(tmp_path / "w.weights.h5")
        x = np.random.default_rng(0).random((2, 32, 32, 3)).astype("float32")
        np.testing.assert_allclose(ours.predict_on_batch(x), reference.predict_on_batch(x), atol=1e-6)
        reference.save_weights(tmp_path / "w.weights.h5")
        ours.load_weights(tmp_path / "w.weights.h5")


@pytest.mark.filterwarnings("ignore")
def test_stateless_calls_and_tracing_take_the_reference_path() -> None:
    ours, reference = pair(bottleneck=True)
    x = images().detach()
    before = [w.numpy() for w in ours.non_trainable_weights]
    trainable = [v.value for v in ours.trainable_variables]
    rest = [v.value for v in ours.non_trainable_variables]
    y, updated = ours.stateless_call(trainable, rest, x, training=True)
    for w, old in zip(ours.non_trainable_weights, before, strict=True):
        np.testing.assert_array_equal(w.numpy(), old)
    np.testing.assert_allclose(y.detach(), reference(x, training=True).detach(), rtol=1e-4, atol=1e-5)
    for new, w in zip(updated, reference.non_trainable_weights, strict=True):
        np.testing.assert_allclose(new.detach(), w.numpy(), rtol=1e-5, atol=1e-6)
    exported = torch.export.export(ours, (x,))
    np.testing.assert_allclose(exported.module()(x).detach(), ours(x).detach(), rtol=1e-4, atol=1e-5)


def test_a_second_derivative_is_refused_in_one_sentence() -> None:
    ours, _ = pair()
    x = images()
    (gradient,) = torch.autograd.grad(ours(x, training=True).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_seed_that_stays_on_the_device_is_the_state_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = keras.random.SeedGenerator(5)
    assert [fused.draw_seed_on_device(generator).tolist() for _ in range(3)] == [[5, 0], [5, 1], [5, 2]]
    monkeypatch.setattr(fused, "_rank", lambda: 2)
    assert fused.draw_seed_on_device(generator).tolist() == [5, 3, 2]
    assert generator.state.numpy().tolist() == [5, 4]


def test_a_seed_is_drawn_once_and_depends_on_the_generator_s_seed() -> None:
    draws = [[fused.draw_seed(g) for _ in range(50)] for g in map(keras.random.SeedGenerator, range(4))]
    assert len({seed for row in draws for seed in row}) == 200
    assert all(0 <= seed < 2**32 for row in draws for seed in row)


def saved_bytes(run) -> int:
    """Bytes of distinct storages that autograd keeps for the backward pass, parameters included."""
    storages: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = run()
    assert kept is not None
    return sum(storages.values())


def test_memory_grows_linearly_with_depth_and_the_reference_path_s_quadratically() -> None:
    x = torch.randn(2, 16, 16, 8)

    def growth(fused: bool | None) -> float:
        """How much more the last eight of 24 layers keep than the eight before them."""
        kept = []
        for depth in (8, 16, 24):
            block = DenseBlock(depth, 12, bottleneck=True, dropout=0.2, fused=fused)
            block.build(x.shape)
            kept.append(saved_bytes(lambda block=block: block(x, training=True)))
        return (kept[2] - kept[1]) / (kept[1] - kept[0])

    assert growth(None) < 1.15  # parameters, which are counted too, grow with the square; maps do not
    assert growth(False) > 1.3


LARGE_PROGRAM = """
import numpy as np, keras, resource
from densely import build
from densely.training.optimizers import CoupledSGD
model = build("densenet-bc-250-24", dropout=0.2, activation="none")
model.compile(CoupledSGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
x = np.random.default_rng(0).normal(size=(128, 32, 32, 3)).astype("float32")
model.fit(x, np.arange(128) % 10, batch_size=64, epochs=1, verbose=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_bc_250_24_trains_at_batch_64_in_under_12_gib() -> None:
    done = subprocess.run([sys.executable, "-c", LARGE_PROGRAM], capture_output=True, text=True, check=True)
    print(f"peak {float(done.stdout):.2f} GiB")
    assert float(done.stdout) < 12
