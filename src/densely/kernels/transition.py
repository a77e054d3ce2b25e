"""A transition as one autograd function: normalise, ReLU, 1×1 convolution, dropout, 2×2 average pooling.

Between two dense blocks (section 3 of arXiv 1608.06993) stands the widest normalisation of the network. As in the
blocks, its output is not kept but made again in the backward pass, a cache-sized chunk of images at a time. Without
dropout the pooling moves in front of the convolution: both are linear, so the result is the same, and the product has a
quarter of the rows.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from densely.kernels.choice import chosen, transition_engine
from densely.kernels.engine import Convolution
from densely.kernels.normalisation import Normalisation, move, moving, normalisation
from densely.kernels.plan import (
    LayerParameters,
    Options,
    RunningStatistics,
    Seed,
    TransitionPlan,
    in_autocast,
    make_transition_plan,
)
from densely.kernels.replicas import Replicas


def transition(
    x: torch.Tensor,
    layer: LayerParameters,
    statistics: RunningStatistics,
    *,
    training: bool,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    dropout: float = 0.0,
    seed: Seed = None,
    replicas: Replicas | None = None,
) -> torch.Tensor:
    """Run a transition; equal to its layers run one by one. Differentiable once.

    Args:
        x: (N, H, W, C), any strides, H and W at least 2.
        layer: `gamma1`, `beta1` (C,), `kernel1` (1, 1, C, out) and perhaps `bias1` (out,).
        statistics: the moving statistics, written in place in training unless frozen.
        training, momentum, epsilon, dropout, seed, replicas: as in `dense_block`.

    Returns:
        (N, ⌊H/2⌋, ⌊W/2⌋, out), contiguous, in the dtype computed in.

    Raises:
        ValueError: if shapes do not fit together.
        RuntimeError: from a second differentiation.
    """
    x = in_autocast(x)
    options = Options(training, momentum, epsilon, dropout, seed, replicas)
    plan = make_transition_plan(x, layer, statistics, options, chosen(x))
    parameters = (layer.gamma1, layer.beta1, layer.kernel1, layer.bias1)
    with torch.autocast(x.device.type, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
            output: torch.Tensor = _Transition.apply(x, plan, *parameters)  # type: ignore[no-untyped-call]
            return output
        with torch.no_grad():
            return _forward(x.contiguous(), plan, *parameters)[0]


class _Transition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, plan: TransitionPlan, *parameters: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        output, norm, mask = _forward(x, plan, *parameters)
        ctx.save_for_backward(x, norm.mean, norm.rstd, mask, *parameters)
        ctx.plan = plan
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: TransitionPlan = ctx.plan
        x, mean, rstd, mask, gamma, beta, kernel, bias = ctx.saved_tensors
        norm = normalisation(gamma, beta, mean, rstd, plan.by_batch)
        with torch.autocast(x.device.type, enabled=False):
            G, sums = transition_engine(x, plan, Convolution(kernel, bias)).backward(gradient.contiguous(), norm, mask)
        rest = zip((sums.gamma, sums.beta, sums.kernel, sums.bias), (gamma, beta, kernel, bias), strict=True)
        return G if ctx.needs_input_grad[0] else None, None, *(None if g is None else g.to(p.dtype) for g, p in rest)


def _forward(
    x: torch.Tensor,
    plan: TransitionPlan,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Normalisation, torch.Tensor | None]:
    engine, running = transition_engine(x, plan, Convolution(kernel, bias)), plan.statistics
    if plan.by_batch:
        mean, variance = engine.statistics()
        if plan.replicas is not None:
            mean, variance = plan.replicas.together(mean, variance)
        move((running.mean1, running.variance1), (mean, variance), plan.momentum)
        rstd = (variance + plan.epsilon).rsqrt_()
    else:
        mean, rstd = moving(running.mean1, running.variance1, plan.epsilon, plan.sums)
    norm = normalisation(gamma, beta, mean, rstd, plan.by_batch)
    output, mask = engine.forward(norm)
    return output, norm, mask
