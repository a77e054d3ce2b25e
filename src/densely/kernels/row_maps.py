"""Maps in rows, a pixel's channels side by side: what the engines have alike that keep them so."""

import torch

from densely.kernels.engine import Maps
from densely.kernels.plan import Plan, TransitionPlan


def rows_of(maps: Maps) -> torch.Tensor:
    """Some channels of maps as (M, channels), a view."""
    return maps.buffer.view(-1, maps.buffer.shape[-1])[:, maps.first : maps.last]


class RowMaps:
    """A part of `engine.Engine`.

    Args:
        plan: shapes, dtypes and options.
    """

    def __init__(self, plan: Plan | TransitionPlan) -> None:
        self.plan = plan

    def maps(self, channels: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(N, H, W, channels)."""
        return self.plan.empty((self.plan.images, *self.plan.size, channels), dtype)

    def give_out(self, buffer: torch.Tensor) -> torch.Tensor:
        """The maps themselves."""
        return buffer

    def take_gradient(self, gradient: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        """Itself, where it can be: the first layer adds to it on the way into G."""
        if gradient.is_contiguous() and gradient.dtype == self.plan.sums:
            return gradient.view(G.shape)
        G.view(gradient.shape).copy_(gradient)
        return G
