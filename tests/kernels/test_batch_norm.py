"""Batch normalisation that stands alone, against PyTorch's in float64."""

import pytest
import torch

from densely.kernels.batch_norm import batch_norm


def both(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, weights: torch.Tensor) -> list[list[torch.Tensor]]:
    """Result, mean, variance and the gradients of Σ result·weights: ours, then PyTorch's in float64."""
    found = []
    for ours in (True, False):
        leaves = [(t if ours else t.double()).detach().requires_grad_() for t in (x, gamma, beta)]
        if ours:
            y, mean, variance = batch_norm(*leaves, 1e-3)
        else:
            rows = leaves[0].reshape(-1, len(gamma))
            mean, variance = rows.mean(0), rows.var(0, correction=0)
            y = torch.nn.functional.batch_norm(rows, None, None, *leaves[1:], True, eps=1e-3).view(x.shape)
        gradients = torch.autograd.grad((y * weights.to(y.dtype)).sum(), leaves)
        found.append([t.detach() for t in (y, mean, variance, *gradients)])
    return found


@pytest.fixture(params=["loops", "operators"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By both; without a compiler twice by operators."""
    if request.param == "operators":
        monkeypatch.setenv("DENSELY_NATIVE", "0")


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("shape", [(16, 8, 8, 40), (2, 3), (3, 1, 5, 1)])
def test_it_is_as_exact_as_its_numbers(shape: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    torch.manual_seed(0)
    x, weights = (torch.randn(shape) * 2 + 3).to(dtype), torch.randn(shape)
    ours, exact = both(x, torch.randn(shape[-1]), torch.randn(shape[-1]), weights)
    assert ours[0].dtype == dtype and ours[3].dtype == dtype
    for mine, other in zip(ours, exact, strict=True):
        assert (mine.double() - other).abs().max() <= bound * max(1.0, float(other.abs().max()))


def test_its_gradients_are_those_of_what_it_computes() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 2, 4), (4,), (4,))]
    assert torch.autograd.gradcheck(lambda *given: batch_norm(*given, 0.1)[0], leaves)
    assert torch.autograd.gradcheck(lambda *given: batch_norm(leaves[0].detach(), *given, 0.1)[0], leaves[1:])
    for dtype in (torch.float64, torch.float32):
        _, mean, variance = batch_norm(*(leaf.to(dtype) for leaf in leaves), 0.1)
        assert not mean.requires_grad and not variance.requires_grad


def test_a_single_row_is_all_mean() -> None:
    x, beta = torch.randn(1, 5), torch.randn(5)
    y, mean, variance = batch_norm(x, torch.ones(5), beta, 1e-3)
    assert torch.equal(y, beta[None]) and torch.equal(mean, x[0]) and not variance.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_do_not_matter(dtype: torch.dtype) -> None:
    """Of x, of what comes back, and where x wants no gradient."""
    torch.manual_seed(0)
    x, gamma, beta = torch.randn(40, 3, 70).to(dtype), torch.randn(70, requires_grad=True), torch.randn(70)
    found = []
    for given in (x.clone().requires_grad_(), x.permute(1, 2, 0).contiguous().permute(2, 0, 1).requires_grad_(), x):
        y, *_ = batch_norm(given, gamma, beta, 1e-3)
        weights = torch.linspace(-1, 1, 70, dtype=dtype).expand(40, 3, 70)
        wanted = [gamma, given] if given.requires_grad else [gamma]
        found.append(torch.autograd.grad(y, wanted, weights))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=False):
            torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
