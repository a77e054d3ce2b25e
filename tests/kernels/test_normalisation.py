"""Batch normalisation's pieces against PyTorch's own differentiation of it."""

from types import SimpleNamespace

import pytest
import torch

from densely.kernels.normalisation import move, moving, normalisation, plain, sending_factors, sent_back


def test_what_is_plain_already_is_not_copied():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert plain(tensor, torch.float32) is tensor
    for other in (tensor.double(), tensor.T, tensor.double().T):
        made = plain(other, torch.float32)
        assert made.dtype == torch.float32 and made.is_contiguous() and torch.equal(made, other.float())


def test_parameters_of_any_dtype_and_strides_become_those_of_sums():
    gamma, beta = (
        torch.tensor([1.5, 9.0, -2.0, 9.0]).bfloat16()[::2],
        torch.tensor([[0.5, 3.0], [0.25, 3.0]]).half()[:, 0],
    )
    mean, rstd = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    norm = normalisation(gamma, beta, mean, rstd, True)
    assert norm.gamma.tolist() == [1.5, -2.0] and norm.beta.tolist() == [0.5, 0.25]
    assert norm.mean is mean and norm.rstd is rstd and norm.by_batch is True
    assert all(number.dtype == torch.float32 and number.is_contiguous() for number in norm.numbers)
    assert torch.equal(norm.scale, torch.tensor([4.5, -8.0])) and torch.equal(norm.shift, torch.tensor([-4.0, 16.25]))


def test_moving_statistics_are_taken_as_they_are_now():
    """For the backward pass, whatever becomes of them until then."""
    given = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 15.0])
    mean, rstd = moving(*given, 1.0, torch.float32)
    for tensor in given:
        tensor.zero_()
    assert mean.tolist() == [1.0, 2.0] and rstd.tolist() == [0.5, 0.25]
    assert {t.dtype for t in moving(*given, 1.0, torch.float64)} == {torch.float64}


def test_moving_statistics_move_towards_the_batch():
    statistics = torch.tensor([1.0, 2.0], dtype=torch.float64).requires_grad_(), torch.tensor([4.0])
    move(statistics, (torch.tensor([2.0, 0.0]), torch.tensor([8.0])), 0.75)
    assert statistics[0].tolist() == [1.25, 1.5] and statistics[1].tolist() == [5.0]
    with pytest.raises(ValueError, match="zip"):
        move(statistics, (torch.tensor([2.0, 0.0]),), 0.75)


@pytest.fixture
def problem() -> SimpleNamespace:
    """Rows that two normalisations read, the gradients that these get, and what the rows then get by PyTorch."""
    torch.manual_seed(0)
    x = torch.randn(12, 3, dtype=torch.float64) * 2 + 1
    gammas, ds = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 12, 3, dtype=torch.float64)
    x.requires_grad_()
    outputs = [torch.nn.functional.batch_norm(x, None, None, gamma, None, True, eps=0.1) for gamma in gammas]
    grads = [torch.autograd.grad((y * d).sum(), x, retain_graph=True)[0] for y, d in zip(outputs, ds, strict=True)]
    x = x.detach()
    mean, rstd = x.mean(0), (x.var(0, correction=0) + 0.1).rsqrt()
    hat = (x - mean) * rstd
    # What comes past the statistics is γ·rstd·d; the rest is what they send back.
    rest = [grad - gamma * rstd * d for grad, gamma, d in zip(grads, gammas, ds, strict=True)]
    return SimpleNamespace(x=x, mean=mean, rstd=rstd, hat=hat, gammas=gammas, ds=ds, rest=rest)


def sums(p: SimpleNamespace) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B of both readers, over all rows of all processes."""
    return (p.gammas * p.ds.sum(1)).sum(0), (p.gammas * (p.ds * p.hat).sum(1)).sum(0)


def test_what_the_statistics_send_back(problem):
    (A, B), (f, g) = sums(problem), sending_factors(problem.rstd, 12, None)
    torch.testing.assert_close(f * A + g * B * (problem.x - problem.mean), sum(problem.rest))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_the_statistics_of_several_processes_send_back(problem, share):
    (A, B), (f, g) = sums(problem), sending_factors(problem.rstd, int(share * 12), SimpleNamespace(share=share))
    torch.testing.assert_close(f * A + g * B * (problem.x - problem.mean), sum(problem.rest))


@pytest.mark.parametrize("share", [None, 0.5])
def test_what_the_statistics_of_a_single_reader_send_back(problem, share):
    gamma, d = problem.gammas[0], problem.ds[0]
    norm = normalisation(gamma, torch.zeros(3), problem.mean, problem.rstd, True)
    beta_gradient, gamma_gradient = d.sum(0), (d * problem.hat).sum(0)
    if share is None:
        c, e = sent_back(norm, beta_gradient, gamma_gradient, 12, None)
    else:  # another process got three quarters of it
        others = SimpleNamespace(share=share, summed=lambda a, b: (4 * a, 4 * b))
        c, e = sent_back(norm, beta_gradient / 4, gamma_gradient / 4, 6, others)
    torch.testing.assert_close(c + e * (problem.x - problem.mean), problem.rest[0])
