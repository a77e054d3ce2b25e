"""CoupledSGD against the paper's update written out, and against torch.optim.SGD."""

import keras
import numpy as np
import pytest
import torch

from densely.optimizers import CoupledSGD


def steps(optimizer: keras.optimizers.Optimizer, start: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    variable = keras.Variable(start)
    for g in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
    return variable.numpy()


@pytest.fixture
def problem() -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 3)).astype("float32"), [rng.normal(size=(4, 3)).astype("float32") for _ in range(5)]


# Without momentum there is nothing for Nesterov to look ahead of, and torch refuses the pair.
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_equals_torch_s_own_sgd_at_a_constant_rate(problem, momentum: float, nesterov: bool) -> None:
    start, gradients = problem
    weight = torch.nn.Parameter(torch.tensor(start))
    peer = torch.optim.SGD([weight], 0.1, momentum, nesterov=nesterov, weight_decay=0.01)
    for g in gradients:
        weight.grad = torch.tensor(g)
        peer.step()
    ours = steps(CoupledSGD(0.1, momentum, nesterov, coupled_decay=0.01), start, gradients)
    np.testing.assert_allclose(ours, weight.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_decay_it_is_keras_s_sgd(problem, nesterov: bool) -> None:
    start, gradients = problem
    ours = steps(CoupledSGD(0.1, 0.9, nesterov), start, gradients)
    peer = steps(keras.optimizers.SGD(0.1, 0.9, nesterov), start, gradients)
    np.testing.assert_allclose(ours, peer, rtol=1e-6)


def test_the_general_path_equals_the_one_for_torch(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    start, gradients = problem
    fast = steps(CoupledSGD(0.1, 0.9, True, coupled_decay=0.01), start, gradients)
    monkeypatch.setattr("densely.optimizers.keras.backend.backend", lambda: "another")
    general = steps(CoupledSGD(0.1, 0.9, True, coupled_decay=0.01), start, gradients)
    np.testing.assert_allclose(fast, general, rtol=1e-5, atol=1e-6)


def test_a_configuration_round_trips() -> None:
    optimizer = CoupledSGD(0.05, 0.8, False, coupled_decay=1e-4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, CoupledSGD)
    assert again.get_config() == optimizer.get_config()
