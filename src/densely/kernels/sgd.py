"""One step of SGD for all parameters of a network at once, in place."""

import torch

from densely.kernels import native


def update(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    velocity: list[torch.Tensor] | None,
    *,
    rate: float | torch.Tensor,
    momentum: float = 0.0,
    decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """v ← μ·v - η·(g + λ·w), then w ← w + v, or w + μ·v - η·(g + λ·w) with Nesterov's look ahead.

    Args:
        weights: w.
        gradients: g, of the same shapes.
        velocity: v, or None without momentum.
        rate: η; a tensor of one number where it shall not be read back from a device.
        momentum: μ.
        decay: λ.
        nesterov: whether to look ahead.
    """
    with torch.no_grad():
        alike = all(
            w.shape == t.shape
            for tensors in (gradients, velocity or weights)
            for w, t in zip(weights, tensors, strict=True)
        )
        if isinstance(rate, float) and alike and native.takes((*weights, *gradients, *(velocity or ()))):
            native.sgd(weights, gradients, velocity, rate, momentum, decay, nesterov)
            return
        # All tensors in few operations: one after the other, 300 a network, would cost more than the whole backward
        # pass of a small one.
        if decay:
            gradients = list(torch._foreach_add(gradients, weights, alpha=decay))
        if isinstance(rate, torch.Tensor):
            # A number read back would have the device waited for, and be the same in every replay of a graph.
            gradients, minus_rate = list(torch._foreach_mul(gradients, -rate)), 1.0
        else:
            minus_rate = -rate
        if velocity is None:
            torch._foreach_add_(weights, gradients, alpha=minus_rate)
            return
        torch._foreach_mul_(velocity, momentum)
        torch._foreach_add_(velocity, gradients, alpha=minus_rate)
        if nesterov:
            torch._foreach_add_(weights, gradients, alpha=minus_rate)
            torch._foreach_add_(weights, velocity, alpha=momentum)
        else:
            torch._foreach_add_(weights, velocity)
