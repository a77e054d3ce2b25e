"""CrossEntropy against PyTorch's own losses."""

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.training.losses import CrossEntropy

N, CLASSES = 6, 4


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.tensor(np.random.default_rng(0).normal(size=(N, CLASSES)) * 4, dtype=torch.float32)


def ours(loss: CrossEntropy, labels: np.ndarray, logits: torch.Tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(loss.call(keras.ops.convert_to_tensor(labels), logits))


@given(seed=st.integers(0, 999), smoothing=st.sampled_from([0.0, 0.1, 0.4]), weighted=st.booleans())
@settings(max_examples=25, deadline=None)
def test_classes(seed: int, smoothing: float, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.normal(size=(N, CLASSES)) * 10, dtype=torch.float32)
    labels = rng.integers(0, CLASSES, N)
    weights = rng.uniform(0, 3, CLASSES).astype("float32") if weighted else None
    found = ours(CrossEntropy(label_smoothing=smoothing, class_weights=weights), labels, logits)
    plain = F.cross_entropy(logits, torch.tensor(labels), label_smoothing=smoothing, reduction="none").numpy()
    # PyTorch weighs each term of a smoothed sum; here an image has the weight of its class.
    np.testing.assert_allclose(found, plain if weights is None else plain * weights[labels], rtol=1e-5, atol=1e-5)


def test_distributions_as_mixup_makes_them(logits: torch.Tensor) -> None:
    mixed = np.random.default_rng(1).dirichlet(np.ones(CLASSES), N).astype("float32")
    found = ours(CrossEntropy(label_smoothing=0.1), mixed, logits)
    expected = F.cross_entropy(logits, torch.tensor(mixed), label_smoothing=0.1, reduction="none")
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_a_one_hot_distribution_is_its_class(logits: torch.Tensor) -> None:
    labels = np.array([0, 1, 2, 3, 0, 1])
    loss = CrossEntropy(label_smoothing=0.2, class_weights=[1, 2, 3, 4])
    one_hot = np.eye(CLASSES, dtype="float32")[labels]
    np.testing.assert_allclose(ours(loss, labels, logits), ours(loss, one_hot, logits), rtol=1e-6)


def test_several_labels(logits: torch.Tensor) -> None:
    labels = np.random.default_rng(2).integers(0, 2, (N, CLASSES)).astype("uint8")
    weights = np.array([1.0, 2.0, 0.5, 4.0])
    found = ours(CrossEntropy(multi_label=True, class_weights=weights), labels, logits)
    peer = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weights, dtype=torch.float32), reduction="none")
    np.testing.assert_allclose(found, peer(logits, torch.tensor(labels).float()).mean(1).numpy(), rtol=1e-5)


def test_huge_logits_give_no_nan() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    for loss, labels in ((CrossEntropy(), np.array([1])), (CrossEntropy(multi_label=True), np.array([[0, 1]]))):
        value = loss.call(keras.ops.convert_to_tensor(labels), logits).sum()
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_a_configuration_round_trips() -> None:
    loss = CrossEntropy(True, 0.1, [1, 2])
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
