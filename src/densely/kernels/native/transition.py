"""A transition's passes by the compiled loops."""

import torch

from densely.kernels.engine import Convolution, Statistics, Sums
from densely.kernels.native.block import draw_bits, gradients, parameters
from densely.kernels.native.library import call, room
from densely.kernels.normalisation import Normalisation, sent_back
from densely.kernels.plan import TransitionPlan


class NativeTransition:
    """See `engine.TransitionEngine`.

    Args:
        x: (N, H, W, C), contiguous.
        plan: of the call.
        conv: kernel (1, 1, C, out) and bias.
    """

    def __init__(self, x: torch.Tensor, plan: TransitionPlan, conv: Convolution) -> None:
        self.x, self.plan, self.conv = x, plan, conv

    def statistics(self) -> Statistics:
        """Of x."""
        plan = self.plan
        mean, variance = room(plan.channels), room(plan.channels)
        call("take_in", plan.dtype, plan.pixels, plan.channels, self.x, None, mean, variance)
        return mean, variance

    def forward(self, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output and dropout's mask."""
        plan = self.plan
        height, width = plan.size
        output = plan.empty((plan.images, height // 2, width // 2, plan.filters))
        mask = draw_bits(plan.pixels * plan.filters, plan.rate, plan.generator, None) if plan.rate else None
        call("transition_forward", plan.dtype, *self.x.shape, plan.filters, self.x, *norm.numbers,
             *parameters(self.conv._replace(mask=mask), plan.factor), output)  # fmt: skip
        return output, mask

    def backward(
        self, gradient: torch.Tensor, norm: Normalisation, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sums]:
        """The gradient of x, and the parameters'."""
        x, plan, sums = self.x, self.plan, gradients(self.conv)
        G = plan.empty(x.shape, plan.sums)
        call("transition_backward", plan.dtype, *x.shape, plan.filters, x, *norm.numbers,
             *parameters(self.conv._replace(mask=mask), plan.factor), gradient, G, *sums)  # fmt: skip
        if norm.by_batch:
            c, e = sent_back(norm, sums.beta, sums.gamma, plan.pixels, plan.replicas)
        else:
            c = e = torch.zeros_like(norm.mean)
        result = G if plan.dtype == plan.sums else plan.empty(x.shape)
        call("complete_rows", plan.dtype, plan.pixels, plan.channels, x, G, c, e, norm.mean, result)
        return result, sums
