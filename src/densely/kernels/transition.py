"""A transition as one autograd function: normalise, ReLU, 1×1 convolution, dropout, 2×2 average pooling.

Between two dense blocks (section 3 of arXiv 1608.06993) stands the widest normalisation of the network. As in the
blocks, its output is not kept but made again in the backward pass, a cache-sized chunk of images at a time. Without
dropout the pooling moves in front of the convolution: both are linear, so the result is the same, and the product has a
quarter of the rows.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from densely.kernels import native
from densely.kernels.choice import chosen
from densely.kernels.normalisation import Normalisation, move, moving, normalisation
from densely.kernels.operators.transition import OperatorTransition
from densely.kernels.plan import LayerParameters, RunningStatistics, Seed, TransitionOptions, dropout_source
from densely.kernels.replicas import Replicas

if TYPE_CHECKING:
    from densely.kernels.triton.transition import TritonTransition


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
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    channels = x.shape[-1]
    if x.ndim != 4 or min(x.shape[1:3]) < 2 or x.numel() == 0:
        raise ValueError(f"A transition takes images (N, H, W, C) of at least 2 by 2 pixels, not {tuple(x.shape)}.")
    if layer.kernel1.shape[:3] != (1, 1, channels) or layer.kernel2 is not None:
        raise ValueError(f"A transition of {channels} channels has one 1×1 kernel, not {tuple(layer.kernel1.shape)}.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"The dropout rate must be at least 0 and below 1, not {dropout}.")
    rate = dropout if training else 0.0
    engine = chosen(x)
    generator, on_device = dropout_source(seed, x.device, engine) if rate else (None, None)
    options = TransitionOptions(statistics, training, momentum, epsilon, rate, generator, engine, replicas, on_device)
    parameters = (layer.gamma1, layer.beta1, layer.kernel1, layer.bias1)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
            output: torch.Tensor = _Transition.apply(x, options, *parameters)  # type: ignore[no-untyped-call]
            return output
        with torch.no_grad():
            return _forward(x.contiguous(), options, *parameters)[0]


class _Transition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, options: TransitionOptions, *parameters: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        output, norm, mask = _forward(x, options, *parameters)
        ctx.save_for_backward(x, norm.mean, norm.rstd, mask, *parameters)
        ctx.options = options
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        options: TransitionOptions = ctx.options
        x, mean, rstd, mask, gamma, beta, kernel, bias = ctx.saved_tensors
        norm = normalisation(gamma, beta, mean, rstd, options.by_batch)
        with torch.autocast(x.device.type, enabled=False):
            G, sums = _engine(x, options, kernel, bias).backward(gradient.contiguous(), norm, mask)
        rest = zip((sums.gamma, sums.beta, sums.kernel, sums.bias), (gamma, beta, kernel, bias), strict=True)
        return G if ctx.needs_input_grad[0] else None, None, *(None if g is None else g.to(p.dtype) for g, p in rest)


def _engine(
    x: torch.Tensor, options: TransitionOptions, kernel: torch.Tensor, bias: torch.Tensor | None
) -> "OperatorTransition | native.NativeTransition | TritonTransition":
    if options.engine == "triton":
        from densely.kernels.triton.transition import TritonTransition

        return TritonTransition(x, options, kernel, bias)
    return (native.NativeTransition if options.engine == "native" else OperatorTransition)(x, options, kernel, bias)


def _forward(
    x: torch.Tensor,
    options: TransitionOptions,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Normalisation, torch.Tensor | None]:
    engine, running = _engine(x, options, kernel, bias), options.statistics
    if options.by_batch:
        mean, variance = engine.statistics()
        if options.replicas is not None:
            mean, variance = options.replicas.together(mean, variance)
        move((running.mean1, running.variance1), (mean, variance), options.momentum)
        rstd = (variance + options.epsilon).rsqrt_()
    else:
        sums = torch.promote_types(x.dtype, torch.float32)
        mean, rstd = moving(running.mean1, running.variance1, options.epsilon, sums)
    norm = normalisation(gamma, beta, mean, rstd, options.by_batch)
    output, mask = engine.forward(norm)
    return output, norm, mask
