"""Batch normalisation over the images of several processes: the shared statistics, shared once more.

Each process has a part of the batch. A map's mean and variance are found on the part, then put together by one
all-reduce of two numbers a channel; what the statistics send back, A and B of `dense_block.py`, is summed in the same
way just before it is applied. As the statistics of a map are computed once and not once a reader, that is one
all-reduce per produced map forward and one backward, where layers of their own would need one for every reader.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist


class Replicas(NamedTuple):
    """The processes that normalise together."""

    share: float
    """Of the whole batch's images, those that this process has, 0 to 1. With 0 its images take part in nothing: it is
    there because the others wait for it."""
    group: Any = None
    """PyTorch's process group; None is its default one."""

    def together(self, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance over all processes, of those over this one's images; differentiable."""
        # In float64 the difference of two squares loses nothing that float32 had.
        wide = mean.to(torch.float64)
        both = torch.stack([wide, wide.square() + variance]) * self.share
        whole, square = _Sum.apply(both, self.group)  # type: ignore[no-untyped-call]
        return whole.to(mean.dtype), (square - whole.square()).clamp(min=0).to(mean.dtype)

    def summed(self, A: torch.Tensor, B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B over all processes."""
        both = torch.stack([A, B])
        dist.all_reduce(both, group=self.group)
        return both[0], both[1]


class _Sum(torch.autograd.Function):
    """The sum over all processes; what each of them makes of it counts, so the gradient is a sum too."""

    @staticmethod
    def forward(ctx: Any, mine: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, total = group, mine.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
