"""A transition's passes: a dense block's kernels, with PyTorch's pooling behind them."""

import torch
import torch.nn.functional as F

from densely.kernels.engine import Convolution, Maps, Place, Returned, Statistics, Sums, returned_through
from densely.kernels.normalisation import Normalisation
from densely.kernels.plan import TransitionPlan
from densely.kernels.triton.block import TritonEngine


class TritonTransition:
    """See `engine.TransitionEngine`.

    Args:
        x: (N, H, W, C), contiguous.
        plan: of the call.
        conv: kernel (1, 1, C, out) and bias.
    """

    def __init__(self, x: torch.Tensor, plan: TransitionPlan, conv: Convolution) -> None:
        self.x, self.plan, self.conv = _whole(x), plan, conv
        self.engine = TritonEngine(plan)

    def statistics(self) -> Statistics:
        """Of x."""
        return self.engine.statistics(self.x.buffer, None)

    def forward(self, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output and dropout's key."""
        key = self.engine.mask(self.plan.filters, None) if self.plan.rate else None
        made = self.engine.maps(self.plan.filters)
        self.engine.pointwise(self.x, norm, self.conv._replace(mask=key), _whole(made), False)
        pooled = F.avg_pool2d(made.permute(0, 3, 1, 2), 2)
        return pooled.permute(0, 2, 3, 1).contiguous(), key

    def backward(
        self, gradient: torch.Tensor, norm: Normalisation, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sums]:
        """The gradient of x, (N, H, W, C), and the parameters'."""
        spread, d = _whole(self._spread(gradient)), _whole(self.engine.maps(self.x.channels, self.plan.sums))
        conv = self.conv._replace(mask=mask)
        sums = self.engine.pointwise_backward(self.x, norm, conv, Returned(spread, spread), Place(None, d))
        result = self.plan.empty(self.x.buffer.shape)
        self.engine.complete(returned_through(self.plan, norm, self.x, d, sums), result.view(self.plan.pixels, -1))
        return result, sums

    def _spread(self, pooled: torch.Tensor) -> torch.Tensor:
        """The gradient of what was pooled, from that of the pooling; an odd last row or column has none."""
        images, height, width, filters = pooled.shape
        spread = torch.zeros((images, *self.plan.size, filters), dtype=self.plan.sums, device=self.plan.device)
        rows = torch.unflatten(spread[:, : 2 * height, : 2 * width], 2, (width, 2))
        fours = torch.unflatten(rows, 1, (height, 2))
        fours.add_(pooled.view(images, height, 1, width, 1, filters), alpha=0.25)
        return spread


def _whole(maps: torch.Tensor) -> Maps:
    return Maps(maps, 0, maps.shape[-1])
