"""Batch normalisation that stands alone, by the compiled loops."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from densely.kernels.memory import empty
from densely.kernels.native.library import call, room
from densely.kernels.normalisation import plain


class NativeBatchNorm(torch.autograd.Function):
    """As `batch_norm._BatchNorm`, and called alike, on float32 or bfloat16 maps."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, epsilon: float) -> Any:
        """Result, mean and variance."""
        x, channels = x.contiguous(), x.shape[-1]
        rows, result = x.numel() // channels, empty(x.shape, x.dtype, x.device)
        mean, variance = room(channels), room(channels)
        call("take_in", x.dtype, rows, channels, x, None, mean, variance)
        numbers = (plain(gamma, torch.float32), plain(beta, torch.float32), mean, (variance + epsilon).rsqrt_())
        call("batch_norm_forward", x.dtype, rows, channels, x, *numbers, result)
        ctx.save_for_backward(x, *numbers)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, gamma and beta."""
        x, *numbers = ctx.saved_tensors
        channels = x.shape[-1]
        sums = room(channels), room(channels)
        back = empty(x.shape, x.dtype, x.device) if ctx.needs_input_grad[0] else None
        call(
            "batch_norm_backward",
            x.dtype,
            x.numel() // channels,
            channels,
            x,
            *numbers,
            gradient.contiguous(),
            *sums,
            back,
        )
        return back, *sums, None
