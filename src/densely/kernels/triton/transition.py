"""A transition's passes: a dense block's kernels, with PyTorch's pooling behind them."""

import torch
import torch.nn.functional as F

from densely.kernels.engine import Convolution, Maps, Place, Returned, Statistics, Sums
from densely.kernels.memory import empty
from densely.kernels.normalisation import Normalisation, sent_back
from densely.kernels.plan import Plan, TransitionOptions
from densely.kernels.triton.block import TritonEngine


class TritonTransition:
    """One pass over a contiguous x, forward or backward.

    Args:
        x: (N, H, W, C), contiguous.
        options: of the call.
        kernel: (1, 1, C, out).
        bias: (out,).
    """

    def __init__(
        self, x: torch.Tensor, options: TransitionOptions, kernel: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        self.x, self.options, self.conv, self.filters = _whole(x), options, Convolution(kernel, bias), kernel.shape[3]
        self.plan = Plan(
            images=x.shape[0],
            size=(x.shape[1], x.shape[2]),
            start=x.shape[3],
            growth=self.filters,
            bottleneck=0,
            dtype=x.dtype,
            sums=torch.float32,
            device=x.device,
            statistics=(options.statistics,),
            training=options.training,
            momentum=options.momentum,
            epsilon=options.epsilon,
            rate=options.rate,
            generator=options.generator,
            engine="triton",
            seed=options.seed,
        )
        self.engine = TritonEngine(self.plan)

    def statistics(self) -> Statistics:
        """Of x."""
        return self.engine.statistics(self.x.buffer, None)

    def forward(self, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output and dropout's key."""
        key = self.engine.mask(self.filters, None) if self.options.rate else None
        made = self.engine.maps(self.filters)
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
        returned = Returned(self.x, d, scale=norm.scale)
        if norm.by_batch:
            c, e = sent_back(norm, sums.beta, sums.gamma, self.plan.pixels, self.options.replicas)
            returned = returned._replace(c=c, e=e, mean=norm.mean)
        result = empty(self.x.buffer.shape, self.plan.dtype, self.plan.device)
        self.engine.complete(returned, result.view(self.plan.pixels, -1))
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
