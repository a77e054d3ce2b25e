"""Batch normalisation and the ReLU behind it, as all engines take them."""

from typing import NamedTuple

import torch

from densely.kernels.replicas import Replicas


class Normalisation(NamedTuple):
    """relu(γ·(x - mean)·rstd + β) of C channels; all in the dtype of sums, (C,), contiguous."""

    gamma: torch.Tensor
    beta: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor
    """1/√(variance + ε)."""
    by_batch: bool
    """Whether mean and rstd are those of the very rows that are normalised."""

    @property
    def numbers(self) -> tuple[torch.Tensor, ...]:
        """γ, β, mean and rstd, as compiled kernels take them."""
        return self[:4]

    @property
    def scale(self) -> torch.Tensor:
        """s = γ·rstd."""
        return self.gamma * self.rstd

    @property
    def shift(self) -> torch.Tensor:
        """t = β - mean·s, so that the whole is relu(x·s + t)."""
        return self.beta - self.mean * self.scale


def plain(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor, contiguous and of a dtype."""
    # A step asks this of a thousand tensors that are so already, and to be asked is cheaper than to be converted.
    return tensor if tensor.dtype == dtype and tensor.is_contiguous() else tensor.to(dtype).contiguous()


def normalisation(
    gamma: torch.Tensor, beta: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, by_batch: bool
) -> Normalisation:
    """From γ and β of any dtype, (C,), and mean and rstd in the dtype of sums."""
    return Normalisation(plain(gamma, mean.dtype), plain(beta, mean.dtype), mean, rstd, by_batch)


def moving(
    mean: torch.Tensor, variance: torch.Tensor, epsilon: float, sums: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and rstd from moving statistics: copies, for they must still be the same numbers in the backward pass."""
    return mean.to(sums, copy=True), (variance.to(sums) + epsilon).rsqrt_()


def move(moving: tuple[torch.Tensor, ...], batch: tuple[torch.Tensor, ...], momentum: float) -> None:
    """Brings moving statistics up to date, in place."""
    with torch.no_grad():
        torch._foreach_mul_(moving, momentum)
        torch._foreach_add_(moving, [b.to(m.dtype) for m, b in zip(moving, batch, strict=True)], alpha=1.0 - momentum)


def sending_factors(rstd: torch.Tensor, pixels: int, replicas: Replicas | None) -> tuple[torch.Tensor, torch.Tensor]:
    """f and g, (C,): what the statistics send back to x, -rstd·(A + x̂·B)/M, is f·A + g·B·(x - mean).

    Args:
        rstd: (C,).
        pixels: of this process.
        replicas: with which M, A and B are those of all processes.
    """
    factor = rstd * (-(1.0 if replicas is None else replicas.share) / pixels)
    return factor, factor * rstd


def sent_back(
    norm: Normalisation, beta: torch.Tensor, gamma: torch.Tensor, pixels: int, replicas: Replicas | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """c and e of c + e·(x - mean), which the statistics of what only one normalisation reads send back to it.

    Args:
        norm: that normalisation, of C channels.
        beta, gamma: (C,), this process's gradients of its β and γ.
        pixels, replicas: as in `sending_factors`.
    """
    A, B = norm.gamma * beta, norm.gamma * gamma
    if replicas is not None:
        A, B = replicas.summed(A, B)
    f, g = sending_factors(norm.rstd, pixels, replicas)
    return f * A, g * B
