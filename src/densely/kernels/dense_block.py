"""A whole dense block as one autograd function: each feature map stored once, its statistics computed once.

The dense block of section 3 of Huang et al., *Densely Connected Convolutional Networks* (arXiv 1608.06993): layer l
reads the concatenation of the block's input and of every earlier layer's output, and adds k channels (the growth
rate) to it. Run layer by layer, every layer copies what it reads, computes its batch statistics again and keeps its
normalised copy for the backward pass: memory that grows with the square of the depth. As in the memory-efficient
implementations of Pleiss et al. (arXiv 1707.06990) that copy is not kept here; and beyond them:

- There is one buffer (M pixels × final width, channels last). A layer writes its k channels into its slice; nothing is
  concatenated, and the buffer is the block's output (by the compiled loops, what it is put together from).
- A map's mean and variance do not depend on who reads it. They are computed once, when the map is made.
- relu(BN(·)) is made again in the backward pass, a cache-sized chunk of rows at a time.
- There is one gradient buffer G. For layer l with input x̂ = (x - mean)·rstd, activation a = relu(γ·x̂ + β) and
  d = ∂L/∂(γ·x̂ + β):  G += s·d with s = γ·rstd,  ∂β = D = Σd,  ∂γ = Σ d·x̂.  What the statistics themselves send back is
  summed over all readers, A = Σ_l γ_l·D_l and B = Σ_l γ_l·∂γ_l, and applied once, just before the map's producer runs
  backward:  ∂x = G - rstd·(A + x̂·B)/M.
- Σ d·a needs no pass over the pixels: it follows from the next convolution's kernel and its gradient
  (`products.Pointwise.response`), and where d ≠ 0, a = γ·x̂ + β, so γ·∂γ = Σ d·a - β·D.

Forward and backward stand in files of those names. The kernels know PyTorch tensors only; the Keras layer around them
is `densely.layers.DenseBlock`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from densely.kernels.backward import Backward
from densely.kernels.choice import block_engine, chosen
from densely.kernels.forward import Forward, Kept
from densely.kernels.native.training import WholeBlock, can_be_whole
from densely.kernels.plan import LayerParameters, Options, Plan, RunningStatistics, Seed, in_autocast, make_plan
from densely.kernels.replicas import Replicas


def dense_block(
    x: torch.Tensor,
    layers: Sequence[LayerParameters],
    statistics: Sequence[RunningStatistics],
    *,
    training: bool,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    dropout: float = 0.0,
    seed: Seed = None,
    replicas: Replicas | None = None,
) -> torch.Tensor:
    """Runs a dense block; equal to its layers run one by one, with memory that grows linearly with their number.

    Under `torch.autocast` the block runs in autocast's dtype, as a convolution would. In float16 and bfloat16 maps and
    products are in that dtype; statistics, and the gradients of parameters, are summed in float32. Differentiable once.

    Args:
        x: (N, H, W, C0), any strides, not empty; on the meta device only shapes are looked at.
        layers: L ≥ 1 layers; layer l takes C0 + l·k channels. All plain or all with a bottleneck.
        statistics: L moving statistics.
        training: whether BN normalises by the batch and updates the moving statistics, once each (those that are not
            frozen), and whether dropout is on.
        momentum: moving = momentum·moving + (1 - momentum)·batch, with the biased variance; Keras's default.
        epsilon: added to variances; Keras's default.
        dropout: the share of each convolution's outputs to set to zero in training, 0 ≤ dropout < 1. What stays is
            scaled so that the expectation stays.
        seed: of dropout: a whole number, or a generator on x's device, which advances; None is PyTorch's default one.
            Or a tensor of whole numbers on x's device, int64, which Triton's kernels do not read back: a captured step
            drops others each time when they have changed.
        replicas: the processes over whose images the batch's statistics are taken, if not over x alone; all of them
            call this and the backward pass together, with the same layers and sizes but for N.

    Returns:
        (N, H, W, C0 + L·k), contiguous, in the dtype computed in: x first, then every layer's channels in order.

    Raises:
        ValueError: if shapes do not fit together, x is empty, or an option is out of range.
        RuntimeError: from a second differentiation.
    """
    device = x.device.type
    options = Options(training, momentum, epsilon, dropout, seed, replicas)
    if x.is_meta:  # shapes only, as Keras asks for when it builds a model
        plan = make_plan(x, layers, statistics, options._replace(seed=None), "operators")
        return x.new_empty((plan.images, *plan.size, plan.width))
    x = in_autocast(x)
    plan = make_plan(x, layers, statistics, options, chosen(x))
    parameters = [tensor for layer in layers for tensor in layer]
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
            function = WholeBlock if can_be_whole(plan) else _DenseBlock
            output: torch.Tensor = function.apply(x, plan, *parameters)  # type: ignore[no-untyped-call]
            return output
        with torch.no_grad():
            if plan.asked:
                return block_engine(plan).inference(x, layers)
            return Forward(plan, block_engine(plan), layers, keep=False).run(x)


class _DenseBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, plan: Plan, *parameters: torch.Tensor | None) -> torch.Tensor:
        forward = Forward(plan, block_engine(plan), _layers(parameters), keep=True)
        output = forward.run(x)
        kept = [tensor for layer in forward.kept for tensor in layer]
        # Through save_for_backward, and where the maps are the output, that: as a plain attribute it would make a
        # reference cycle, and changes in place between here and the backward pass would go unnoticed.
        buffer = output if forward.buffer.data_ptr() == output.data_ptr() else forward.buffer
        ctx.save_for_backward(buffer, forward.mean, forward.rstd, *parameters, *kept)
        ctx.plan = plan
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        plan: Plan = ctx.plan
        buffer, mean, rstd, *saved = ctx.saved_tensors
        fields = len(LayerParameters._fields)
        parameters, kept = saved[: plan.depth * fields], saved[plan.depth * fields :]
        wanted = [ctx.needs_input_grad[0], *map(any, _groups(ctx.needs_input_grad[2:], fields))]
        with torch.autocast(plan.device.type, enabled=False):
            left = [Kept(*k) for k in _groups(kept, len(Kept._fields))]
            backward = Backward(plan, block_engine(plan), _layers(parameters), buffer, mean, rstd, left)
            x_gradient, gradients = backward.run(gradient, wanted)
        return x_gradient, None, *(g for layer in gradients for g in layer)


def _groups(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _layers(parameters: Sequence[torch.Tensor | None]) -> list[LayerParameters]:
    return [LayerParameters(*group) for group in _groups(parameters, len(LayerParameters._fields))]
