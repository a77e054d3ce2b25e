"""Folded networks against the reference path of the very same weights."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.architecture import NetworkSpec, build
from densely.data import Preprocessing
from densely.explain import look
from densely.export.folding import Folded, fold
from densely.export.plain_keras import plain_model
from densely.export.plain_torch import PlainDenseNet

PREPROCESSING = Preprocessing("standardise", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))

networks = st.fixed_dictionaries(
    {
        "layers": st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        "growth_rate": st.integers(1, 6),
        "growth_factor": st.integers(1, 2),
        "stem_filters": st.integers(2, 8),
        "bottleneck": st.booleans(),
        "compression": st.sampled_from([0.5, 0.8, 1.0]),
        "use_bias": st.booleans(),
        "input_shape": st.tuples(st.integers(16, 23), st.integers(16, 23), st.just(3)),
        "classes": st.integers(1, 5),
        "norm_epsilon": st.sampled_from([1e-5, 1e-3]),
    }
)


def randomised(network: NetworkSpec, seed: int) -> Any:
    """A network whose normalisations do something: scales of both signs and near zero, moved means, small variances."""
    model = build(network, fused=False)
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        kind = variable.path.split("/")[-1]
        if kind == "gamma":
            variable.assign(rng.normal(0.5, 0.6, variable.shape))
        elif kind in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.4, variable.shape))
        elif kind == "moving_variance":
            variable.assign(rng.uniform(0.3, 2, variable.shape))
    return model


def answers(folded: Folded, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of both kinds of operators: PyTorch's answer and maps, Keras's answer."""
    with torch.no_grad():
        p, maps = PlainDenseNet(folded, maps=True)(torch.from_numpy(images))
    return p.numpy(), maps.numpy(), plain_model(folded, "plain").predict_on_batch(images)


@pytest.mark.parametrize("stem", ["cifar", "imagenet", "whitened", "pooled"])
@given(options=networks, seed=st.integers(0, 1000), inside=st.booleans())
@settings(max_examples=3, deadline=None)
def test_any_network_answers_as_before(stem: Any, options: dict[str, Any], seed: int, inside: bool) -> None:
    network = NetworkSpec(activation="none", stem=stem, **options)
    model = randomised(network, seed)
    images = np.random.default_rng(seed).integers(0, 256, (2, *network.input_shape), dtype=np.uint8)
    pixels = PREPROCESSING(images)
    logits = model.predict_on_batch(pixels)
    folded = fold(model, network, options["input_shape"], PREPROCESSING if inside else None)
    in_torch, maps, in_keras = answers(folded, images if inside else pixels)
    allowed = {"rtol": 1e-4, "atol": 1e-4 * np.abs(logits).max()}
    np.testing.assert_allclose(in_torch, logits, **allowed)
    np.testing.assert_allclose(in_keras, logits, **allowed)
    np.testing.assert_allclose(maps.mean((1, 2)), logits, **allowed)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_become_probabilities(activation: str) -> None:
    network = NetworkSpec(layers=(2, 2), growth_rate=4, input_shape=(8, 8, 3), classes=3, activation=activation)
    model = randomised(network, 1)
    pixels = PREPROCESSING(np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    in_torch, _, in_keras = answers(fold(model, network, (8, 8, 3)), pixels)
    expected = model.predict_on_batch(pixels)
    np.testing.assert_allclose(in_torch, expected, atol=1e-6)
    np.testing.assert_allclose(in_keras, expected, atol=1e-6)


def test_the_maps_are_the_class_activation_maps() -> None:
    network = NetworkSpec(layers=(2, 2), growth_rate=4, bottleneck=True, input_shape=(12, 12, 3), classes=3)
    model = randomised(network, 2)
    pixels = PREPROCESSING(np.random.default_rng(2).integers(0, 256, (4, 12, 12, 3), dtype=np.uint8))
    _, maps, _ = answers(fold(model, network, (12, 12, 3)), pixels)
    for c in range(3):
        np.testing.assert_allclose(maps[..., c], look(model, pixels).activation_maps([c] * 4), atol=1e-5)


def test_no_normalisation_is_left() -> None:
    network = NetworkSpec(layers=(2, 2), growth_rate=4, bottleneck=True, stem="imagenet", input_shape=(32, 32, 3))
    folded = fold(randomised(network, 3), network, (32, 32, 3))
    kinds = {type(layer).__name__ for layer in plain_model(folded, "plain").layers}
    assert "BatchNormalization" not in kinds
    assert not any("BatchNorm" in type(module).__name__ for module in PlainDenseNet(folded).modules())
