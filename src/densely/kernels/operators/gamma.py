"""∂γ without a pass over the pixels.

Where the gradient d of a normalisation's output is not zero, the activation is a = γ·x̂ + β, so γ·∂γ = Σ d·a - β·Σd; and
Σ d·a follows from the next convolution's kernel and its gradient (`products.Pointwise.response`).
"""

import torch

# ∂γ = (Σ d·a - β·D)/γ loses as many bits as |β/γ| has; from here on a channel's Σ d·x is summed over the pixels.
_LARGEST_RATIO = 16.0


def ill_conditioned(gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """The channels for which ∂γ cannot be had from Σ d·a: (≤ C,) indices, among them every γ = 0."""
    return (beta.abs() >= _LARGEST_RATIO * gamma.abs()).nonzero().view(-1)


def products_with(d: torch.Tensor, rows: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Σ over rows of d·rows, for some channels, in d's dtype."""
    if not len(channels):
        return d.new_zeros(0)
    if 4 * len(channels) > d.shape[1]:  # gathering most columns costs more than taking all
        return (d * rows).sum(0)[channels]
    return (d.index_select(1, channels) * rows.index_select(1, channels)).sum(0)


def gradient_of_gamma(
    gamma: torch.Tensor,
    beta: torch.Tensor,
    D: torch.Tensor,
    response: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    direct: torch.Tensor,
    direct_sum: torch.Tensor,
) -> torch.Tensor:
    """∂γ = Σ d·x̂, (C,).

    Args:
        gamma: (C,), as are all up to `rstd`; in the dtype of sums.
        beta: any dtype.
        D: Σ d.
        response: Σ d·a.
        mean: of x.
        rstd: of x.
        direct: `ill_conditioned` channels.
        direct_sum: Σ d·x of those.
    """
    result = (response - beta.to(D.dtype) * D) / gamma
    if len(direct):
        result[direct] = rstd[direct] * (direct_sum - mean[direct] * D[direct])
    return result
