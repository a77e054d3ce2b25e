"""CoupledSGD against torch.optim.SGD and Keras's SGD, Muon against a singular value decomposition."""

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densely.training.optimizers import CoupledSGD, Muon, orthogonalised


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
    monkeypatch.setattr("densely.training.optimizers.keras.backend.backend", lambda: "another")
    general = steps(CoupledSGD(0.1, 0.9, True, coupled_decay=0.01), start, gradients)
    np.testing.assert_allclose(fast, general, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_rate_that_is_read_on_the_device_moves_the_weights_alike(
    problem, momentum: float, nesterov: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, gradients = problem
    given = [g.copy() for g in gradients]
    at_once = steps(CoupledSGD(0.1, momentum, nesterov, coupled_decay=0.01), start, gradients)
    monkeypatch.setattr("densely.training.optimizers._READ_AT_ONCE", ())
    on_device = steps(CoupledSGD(0.1, momentum, nesterov, coupled_decay=0.01), start, gradients)
    np.testing.assert_allclose(on_device, at_once, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(gradients, given)


def test_a_configuration_round_trips() -> None:
    for optimizer in (
        CoupledSGD(0.05, 0.8, False, coupled_decay=1e-4, beta_factor=8.0),
        Muon(0.05, coupled_decay=1e-4, beta_factor=64.0, kernel_momentum=0.7, newton_schulz_steps=5),
    ):
        again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(again) is type(optimizer)
        assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("kind", [CoupledSGD, Muon])
@pytest.mark.parametrize("backend", ["torch", "another"])
def test_shifts_alone_move_at_their_own_rate(problem, kind, backend, monkeypatch: pytest.MonkeyPatch) -> None:
    start, gradients = problem
    monkeypatch.setattr("densely.training.optimizers.keras.backend.backend", lambda: backend)
    gamma, beta = (keras.Variable(start, name=name) for name in ("gamma", "beta"))
    optimizer = kind(0.1, coupled_decay=0.01, beta_factor=8.0)
    for g in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g)] * 2, [gamma, beta])
    plain = steps(CoupledSGD(0.1, coupled_decay=0.01), start, gradients)
    faster = steps(CoupledSGD(0.8, coupled_decay=0.01), start, gradients)
    np.testing.assert_allclose(gamma.numpy(), plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(beta.numpy(), faster, rtol=1e-5, atol=1e-6)


def textbook_muon(start: np.ndarray, gradients: list[np.ndarray], rate: float, momentum: float) -> np.ndarray:
    """The same update with NumPy's singular value decomposition in place of Newton-Schulz."""
    outputs = start.shape[-1]
    weight = start.reshape(-1, outputs).T.astype("float64")
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        g = gradient.reshape(-1, outputs).T
        velocity = momentum * velocity + g
        u, _, v = np.linalg.svd(g + momentum * velocity, full_matrices=False)
        weight = weight * np.sqrt(outputs) / np.linalg.norm(weight) - rate * u @ v
    return weight.T.reshape(start.shape)


@pytest.mark.parametrize("shape", [(3, 3, 2, 5), (1, 1, 12, 4), (1, 1, 3, 7)])
def test_muon_moves_kernels_along_the_orthogonal_factor_of_their_momentum(shape) -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=shape).astype("float32")
    gradients = [rng.normal(size=shape).astype("float32") for _ in range(4)]
    ours = steps(Muon(0.1, newton_schulz_steps=12), start, gradients)
    expected = textbook_muon(start, gradients, 0.1, 0.6)
    # Newton-Schulz's singular values lie between 0.7 and 1.2, so a step of length 0.1·√rank is off by up to a third.
    assert np.linalg.norm(ours - expected) < 4 * 0.1 * 0.35 * np.sqrt(min(shape[-1], np.prod(shape[:-1])))
    assert np.linalg.norm(ours - expected) < 0.3 * np.linalg.norm(ours - start)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_muon_moves_everything_else_as_sgd(problem, momentum: float) -> None:
    start, gradients = problem
    ours = steps(Muon(0.1, momentum, False, coupled_decay=0.01), start, gradients)
    np.testing.assert_array_equal(ours, steps(CoupledSGD(0.1, momentum, False, coupled_decay=0.01), start, gradients))


def test_sgd_without_momentum_leaves_kernels_theirs() -> None:
    start = np.ones((1, 1, 3, 2), "float32")
    gradients = [np.eye(3, 2, dtype="float32").reshape(start.shape), np.zeros_like(start)]
    assert np.array_equal(steps(Muon(0.1, 0.0), start, gradients), steps(Muon(0.1, 0.9), start, gradients))


@given(st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_orthogonalised_has_the_singular_vectors_and_values_near_one(rows: int, columns: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns)).astype("float32")
    values = np.linalg.svd(matrix, compute_uv=False)
    if values[-1] < 0.01 * values[0]:
        return  # so small a value needs more steps
    found = keras.ops.convert_to_numpy(orthogonalised(keras.ops.convert_to_tensor(matrix), 10))
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ found @ v.T
    assert np.all((np.diag(inner) > 0.6) & (np.diag(inner) < 1.3))
    assert np.abs(inner - np.diag(np.diag(inner))).max() < 1e-3


def test_orthogonalised_is_stable_where_singular_values_almost_vanish() -> None:
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=(200, 20)), full_matrices=False)
    matrix = (u * np.geomspace(1, 1e-6, 20)) @ v
    found = orthogonalised(keras.ops.convert_to_tensor(matrix.astype("float32")), 12)
    values = np.linalg.svd(keras.ops.convert_to_numpy(found), compute_uv=False)
    assert values.max() < 1.3


def test_muon_fixes_the_length_of_kernels() -> None:
    start = 100 * np.ones((3, 3, 4, 6), "float32")
    after = steps(Muon(1e-6), start, [np.ones_like(start)])
    assert np.linalg.norm(after) == pytest.approx(np.sqrt(6), rel=1e-4)


@pytest.mark.parametrize("kind", [CoupledSGD, Muon])
def test_accumulated_batches_make_one_step_of_their_mean(problem, kind: type) -> None:
    start, gradients = problem
    start, gradients = start.reshape(1, 1, 4, 3), [g.reshape(1, 1, 4, 3) for g in gradients[:4]]
    one_by_one = steps(kind(0.1, gradient_accumulation_steps=2), start, gradients)
    means = [(gradients[0] + gradients[1]) / 2, (gradients[2] + gradients[3]) / 2]
    np.testing.assert_allclose(one_by_one, steps(kind(0.1), start, means), rtol=1e-5, atol=1e-6)
