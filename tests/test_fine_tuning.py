"""What of a network learns, and how fast: against a textbook step written here."""

import keras
import numpy as np
import pytest
import torch

import densely
from densely import fine_tuning
from densely.architecture import NetworkSpec
from densely.errors import UsageError
from densely.training.optimizers import CoupledSGD, Muon

NETWORK = NetworkSpec(
    layers=(2, 1, 1), growth_rate=4, stem_filters=8, compression=0.5, stem="whitened", input_shape=(8, 8, 1), classes=3
)
#: Written down by hand: which layer is how many stages before the classifier.
BEHIND = {
    "stem_conv": 4,
    **{"dense_block_1": 3, "transition_1": 3},
    **{"dense_block_2": 2, "transition_2": 2},
    **{"dense_block_3": 1, "final_norm": 1},
    "logits": 0,
}
RATE = 0.3


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(16, 8, 8, 1)).astype("float32"), rng.integers(0, 3, 16)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {variable.path: variable.numpy().copy() for variable in model.weights}


def logits_of(model: keras.Model) -> keras.Model:
    return keras.Model(model.input, model.get_layer("logits").output)


def gradients(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """By PyTorch alone, through the reference path."""
    copy = densely.build(NETWORK, fused=False)
    copy.set_weights(model.get_weights())
    loss = torch.nn.functional.cross_entropy(logits_of(copy)(images, training=True), torch.tensor(labels))
    loss.backward()
    return {variable.path: variable.value.grad.numpy() for variable in copy.trainable_variables}


def one_step(model: keras.Model, optimizer: keras.optimizers.Optimizer, images: np.ndarray, labels: np.ndarray) -> None:
    logits = logits_of(model)
    logits.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logits.train_on_batch(images, labels)


@pytest.mark.parametrize("factor", [1.0, 1 / 2.6, 0.1])
def test_each_stage_moves_by_its_own_rate(factor: float) -> None:
    model, (images, labels) = densely.build(NETWORK), batch()
    before, slopes = values(model), gradients(model, images, labels)
    rates = fine_tuning.stage_rates(model, factor)
    one_step(model, CoupledSGD(RATE, momentum=0.0, nesterov=False, layer_rates=rates), images, labels)
    after = values(model)
    for path, slope in slopes.items():
        expected = before[path] - RATE * factor ** BEHIND[path.split("/")[0]] * slope
        np.testing.assert_allclose(after[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)
        assert np.abs(slope).max() > 1e-7, path  # or there was nothing to see
    assert len(slopes) == len(model.trainable_variables)


def test_muon_turns_kernels_by_their_stage_s_rate() -> None:
    """A kernel's step is of the same direction at any rate, once its length has been set."""
    images, labels = batch()
    steps = {}
    for factor in (1.0, 0.25):
        keras.utils.set_random_seed(3)
        model = densely.build(NETWORK)
        before = values(model)
        one_step(model, Muon(0.01, layer_rates=fine_tuning.stage_rates(model, factor)), images, labels)
        steps[factor] = {path: value - _on_sphere(before[path]) for path, value in values(model).items()}
    for path in ("stem_conv/kernel", "dense_block_2/layer_1/conv/kernel", "dense_block_3/layer_1/conv/kernel"):
        share = 0.25 ** BEHIND[path.split("/")[0]]
        np.testing.assert_allclose(steps[0.25][path], share * steps[1.0][path], rtol=1e-2, atol=2e-6, err_msg=path)


def _on_sphere(kernel: np.ndarray) -> np.ndarray:
    return kernel * np.sqrt(kernel.shape[-1]) / np.linalg.norm(kernel) if kernel.ndim == 4 else kernel


def test_every_layer_with_weights_is_in_one_stage() -> None:
    model = densely.build(NETWORK)
    names = [name for stage in fine_tuning.stages(model) for name in stage]
    assert names == [layer.name for layer in model.layers if layer.weights]
    assert [len(stage) for stage in fine_tuning.stages(model)] == [2, 2, 2, 2, 1]


@pytest.mark.parametrize("fused", [None, False])
def test_a_frozen_stage_does_in_training_what_it_does_after_it(fused: bool | None) -> None:
    """Frozen: moving statistics. Not frozen: those of the batch, which are others."""
    model, (images, _) = densely.build(NETWORK, fused=fused), batch()
    fine_tuning.freeze(model, "transition_1")
    inner = keras.Model(model.input, model.get_layer("transition_1").output)
    np.testing.assert_array_equal(inner(images, training=True).detach(), inner(images, training=False).detach())
    later = keras.Model(model.input, model.get_layer("dense_block_2").output)
    difference = later(images, training=True).detach() - later(images, training=False).detach()
    assert difference.abs().max() > 0.01


@pytest.mark.parametrize(
    ("last", "left"),
    [
        ("stem_conv", {"dense_block_1", "transition_1", "dense_block_2", "transition_2", "dense_block_3"}),
        ("dense_block_2", {"transition_2", "dense_block_3"}),
        ("final_norm", set()),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(last: str, left: set[str]) -> None:
    model, (images, labels) = densely.build(NETWORK), batch()
    fine_tuning.freeze(model, last)
    before = values(model)
    one_step(model, CoupledSGD(RATE, coupled_decay=0.1), images, labels)
    after = values(model)
    moved = {path.split("/")[0] for path in before if before[path].tobytes() != after[path].tobytes()}
    assert moved == left | {"logits"} | ({"final_norm"} if last != "final_norm" else set())


@pytest.mark.parametrize("last", ["logits", "dense_block_9", "image", ""])
def test_a_layer_that_cannot_be_frozen_is_told(last: str) -> None:
    model = densely.build(NETWORK)
    with pytest.raises(UsageError, match="There is no layer to freeze named"):
        fine_tuning.freeze(model, last)
    assert {layer.name for layer in model.layers if not layer.trainable} == {"whitening"}


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5])
def test_rates_that_do_not_fall_are_refused(factor: float) -> None:
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        fine_tuning.stage_rates(densely.build(NETWORK), factor)
