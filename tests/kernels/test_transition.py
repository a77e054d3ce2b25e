"""The fused transition against PyTorch's own layers, one by one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from densely.kernels import LayerParameters, RunningStatistics
from densely.kernels.transition import transition


def problem(n=3, h=6, w=5, c=7, out=4, bias=True, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype).requires_grad_()

    x = (torch.randn(n, h, w, c, generator=g, dtype=dtype) * 2 + 1).requires_grad_()
    layer = LayerParameters(normal(c), normal(c), normal(1, 1, c, out), normal(out) if bias else None)
    moving = RunningStatistics(torch.randn(c, generator=g, dtype=dtype), torch.rand(c, generator=g, dtype=dtype) + 0.5)
    return x, layer, moving


def textbook(x, layer, moving, training, frozen=False):
    """Without dropout; the moving statistics are updated by Keras's rule, with momentum 0.9 and the biased variance."""
    mean, variance = moving.mean1.clone(), moving.variance1.clone()
    if training and not frozen:
        batch = x.detach()
        mean = 0.9 * mean + 0.1 * batch.mean((0, 1, 2))
        variance = 0.9 * variance + 0.1 * batch.var((0, 1, 2), correction=0)
    images = x.permute(0, 3, 1, 2)
    y = F.batch_norm(
        images,
        moving.mean1.clone(),
        moving.variance1.clone(),
        layer.gamma1,
        layer.beta1,
        training and not frozen,
        0,
        1e-3,
    )
    y = F.conv2d(F.relu(y), layer.kernel1.permute(3, 2, 0, 1), layer.bias1)
    return F.avg_pool2d(y, 2).permute(0, 2, 3, 1), mean, variance


def gradients(y, x, layer):
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    wanted = [x, *(p for p in layer if p is not None)]
    return torch.autograd.grad((y * weight).sum(), wanted)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 5), h=st.integers(2, 9), w=st.integers(2, 9), c=st.integers(1, 9), out=st.integers(1, 6),
    bias=st.booleans(), training=st.booleans(), frozen=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@example(n=40, h=17, w=16, c=40, out=6, bias=True, training=True, frozen=False, seed=0)  # several chunks
def test_equals_the_textbook(n, h, w, c, out, bias, training, frozen, seed):
    x, layer, moving = problem(n, h, w, c, out, bias, seed=seed)
    others = RunningStatistics(moving.mean1.clone(), moving.variance1.clone(), frozen1=frozen)
    expected, mean, variance = textbook(x, layer, moving, training, frozen)
    ours = transition(x, layer, moving._replace(frozen1=frozen), training=training, momentum=0.9)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((moving.mean1, moving.variance1), (mean, variance), rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(ours, x, layer), gradients(expected, x, layer), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        assert torch.equal(transition(x, layer, others, training=training, momentum=0.9), ours)
    assert torch.equal(others.mean1, moving.mean1) and torch.equal(others.variance1, moving.variance1)


def test_the_defaults_are_keras_s():
    x, layer, moving = problem()
    mean, variance = 0.99 * moving.mean1 + 0.01 * x.mean((0, 1, 2)), moving.variance1.clone()
    expected, *_ = textbook(x, layer, moving, training=True)
    torch.testing.assert_close(transition(x, layer, moving, training=True), expected)
    torch.testing.assert_close(moving.mean1, mean.detach())
    assert not torch.equal(moving.variance1, variance)


@pytest.mark.parametrize("native", ["1", "0"])
def test_autocast_chooses_the_dtype_and_leaves_the_rest_alone(native, monkeypatch):
    monkeypatch.setenv("DENSELY_NATIVE", native)
    found = []
    for autocast in (True, False):
        x, layer, moving = problem(c=24, out=12, bias=False, dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = transition(x if autocast else x.bfloat16(), layer, moving, training=True)
        found.append((y, *gradients(y, x, layer), moving.mean1, moving.variance1))
    assert found[0][0].dtype == torch.bfloat16
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def everything(run, x, layer):
    y = run(x, layer)
    return y.detach(), *gradients(y, x, layer)


def test_float32_on_many_chunks_is_as_exact_as_pytorch():
    x, layer, moving = problem(40, 16, 16, 108, 54, bias=False, dtype=torch.float32)
    double = [None if t is None else t.detach().double().requires_grad_() for t in (x, *layer)]
    moving64 = RunningStatistics(moving.mean1.double(), moving.variance1.double())
    exact = everything(lambda x, p: textbook(x, p, moving64, True)[0], double[0], LayerParameters(*double[1:]))
    peer = everything(lambda x, p: textbook(x, p, moving, True)[0], x, layer)
    ours = everything(lambda x, p: transition(x, p, moving, training=True), x, layer)
    assert (ours[0] - exact[0]).norm() <= 1e-6 * exact[0].norm()
    # Gradients jump where rounding tips a ReLU, for PyTorch too.
    for one, other, truth in zip(ours, peer, exact, strict=True):
        assert (one - truth).norm() <= 2 * (other - truth).norm() + 1e-4 * truth.norm()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradcheck(rate, frozen):
    x, layer, moving = problem(2, 4, 5, 3, 2)

    def run(x, *parameters):
        statistics = RunningStatistics(moving.mean1.clone(), moving.variance1.clone(), frozen1=frozen)
        return transition(x, LayerParameters(*parameters), statistics, training=True, dropout=rate, seed=5)

    assert torch.autograd.gradcheck(run, (x, *layer[:4]))


def test_a_channel_that_never_varies_and_a_gamma_of_zero():
    x, layer, moving = problem()
    with torch.no_grad():
        x[..., 2] = 3.0
        layer.gamma1[1] = 0.0
    expected, *_ = textbook(x, layer, moving, training=True)
    ours = transition(x, layer, moving, training=True)
    for one, other in zip((ours, *gradients(ours, x, layer)), (expected, *gradients(expected, x, layer)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_dropout_keeps_the_expectation_and_repeats_by_its_seed():
    x, layer, moving = problem(64, 8, 8, 6, 32, bias=False, dtype=torch.float32)
    exact = transition(x, layer, moving, training=True)
    runs = [transition(x, layer, moving, training=True, dropout=0.25, seed=s).detach() for s in range(60)]
    again = transition(x, layer, moving, training=True, dropout=0.25, seed=7)
    torch.testing.assert_close(again.detach(), runs[7], rtol=0, atol=0)
    mean = torch.stack(runs).mean(0)
    assert (mean - exact).mean().abs() < 0.01 * exact.abs().mean()
    assert not torch.equal(runs[0], runs[1])


def test_bfloat16_is_as_near_as_autocast():
    x, layer, moving = problem(8, 8, 8, 24, 12, bias=False, dtype=torch.float32)
    x = x.detach().bfloat16().float().requires_grad_()
    exact = everything(lambda x, p: textbook(x, p, moving, True)[0], x, layer)
    ours = everything(lambda x, p: transition(x.bfloat16(), p, moving, training=True), x, layer)
    with torch.autocast("cpu", torch.bfloat16):
        peer = everything(lambda x, p: textbook(x, p, moving, True)[0], x, layer)
    assert ours[0].dtype == torch.bfloat16
    assert all(g.dtype == torch.float32 for g in ours[1:])
    for one, other, truth in zip(ours, peer, exact, strict=True):
        assert (one - truth).norm() <= 1.25 * (other - truth).norm() + 0.01 * truth.norm()


def test_keeps_only_its_input_and_a_mask():
    x, layer, moving = problem(4, 8, 8, 16, 8, bias=False, dtype=torch.float32)
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        transition(x, layer, moving, training=True)
    own = {t.untyped_storage().data_ptr() for t in (x, *layer) if t is not None}
    assert sum(size for pointer, size in kept.items() if pointer not in own) <= 2 * 16 * 4 + 64


@pytest.mark.parametrize(
    ("shape", "kernel"), [((2, 1, 4, 3), (1, 1, 3, 2)), ((0, 4, 4, 3), (1, 1, 3, 2)), ((2, 4, 4, 3), (1, 1, 4, 2))]
)
def test_what_does_not_fit_is_told(shape, kernel):
    layer = LayerParameters(torch.ones(3), torch.zeros(3), torch.ones(kernel))
    with pytest.raises(ValueError, match="transition"):
        transition(torch.ones(shape), layer, RunningStatistics(torch.zeros(3), torch.ones(3)), training=True)


def test_a_second_derivative_is_refused():
    x, layer, moving = problem()
    (g,) = torch.autograd.grad(transition(x, layer, moving, training=True).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()
