"""∂γ from what is there already, against its definition."""

import pytest
import torch

from densely.kernels.operators.gamma import gradient_of_gamma, ill_conditioned, products_with


@pytest.mark.parametrize("channels", [[], [3], [1, 4], [0, 2, 3, 5], list(range(8))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_with_some_channels(channels, dtype):
    d, rows = torch.randn(20, 8, dtype=torch.float64), torch.randn(20, 8).to(dtype)
    found = products_with(d, rows, torch.tensor(channels, dtype=torch.long))
    assert found.dtype == torch.float64 and found.shape == (len(channels),)
    expected = torch.tensor([sum(d[r, c] * rows[r, c].double() for r in range(20)) for c in channels])
    torch.testing.assert_close(found, expected.double())


@pytest.mark.parametrize(("count", "gathered"), [(2, True), (3, False)])
def test_few_channels_of_eight_are_gathered_and_of_many_all_are_multiplied(count, gathered):
    called = []

    class Rows(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            called.append(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    products_with(torch.ones(4, 8), torch.ones(4, 8).as_subclass(Rows), torch.arange(count))
    assert ("index_select" in called) == gathered


def test_channels_whose_gamma_is_small_beside_beta_are_ill_conditioned():
    gamma, beta = torch.tensor([0.0, 1.0, -1.0, 1.0, 0.0, 2.0]), torch.tensor([0.0, 15.9, 16.0, -17.0, 1.0, 3.0])
    assert ill_conditioned(gamma, beta).tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("gammas", [[0.7, -1.2, 0.5], [0.0, -1.2, 1e-9], [0.0, 0.0, 0.0]])
def test_it_is_the_gradient(gammas):
    torch.manual_seed(0)
    x = torch.randn(50, 3, dtype=torch.float64) * 2 + 1
    gamma = torch.tensor(gammas, dtype=torch.float64, requires_grad=True)
    beta, kernel = torch.tensor([0.3, -0.2, 0.4]), torch.randn(3, 5, dtype=torch.float64)
    mean, rstd = x.mean(0), (x.var(0, correction=0) + 1e-3).rsqrt()
    affine = gamma * (x - mean) * rstd + beta.double()
    affine.retain_grad()
    activation = affine.relu()
    (activation @ kernel).square().sum().backward()
    d = affine.grad
    direct = ill_conditioned(gamma.detach(), beta.double())
    response, D = (d * activation).sum(0).detach(), d.sum(0)
    found = gradient_of_gamma(gamma.detach(), beta, D, response, mean, rstd, direct, products_with(d, x, direct))
    torch.testing.assert_close(found, gamma.grad)
