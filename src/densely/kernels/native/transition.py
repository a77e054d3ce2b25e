"""A transition's passes by the compiled loops."""

import torch

from densely.kernels.engine import Convolution, Statistics, Sums
from densely.kernels.memory import empty
from densely.kernels.native.block import draw_bits, gradients, numbers, parameters
from densely.kernels.native.library import call
from densely.kernels.normalisation import Normalisation, sent_back
from densely.kernels.plan import TransitionOptions


class NativeTransition:
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
        self.x, self.options = x, options
        self.conv = Convolution(kernel, bias)
        self.pixels, self.filters = x.shape[:3].numel(), kernel.shape[3]

    def statistics(self) -> Statistics:
        """Of x."""
        channels = self.x.shape[3]
        mean, variance = torch.empty(channels), torch.empty(channels)
        call("take_in", self.x.dtype, self.pixels, channels, self.x, None, mean, variance)
        return mean, variance

    def forward(self, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output and dropout's mask."""
        n, h, w, _ = self.x.shape
        output = empty((n, h // 2, w // 2, self.filters), self.x.dtype, self.x.device)
        mask = None
        if self.options.rate:
            mask = draw_bits(self.pixels * self.filters, self.options.rate, self.options.generator, None)
        call("transition_forward", self.x.dtype, *self.x.shape, self.filters, self.x, *numbers(norm),
             *parameters(self.conv._replace(mask=mask), self.options.factor), output)  # fmt: skip
        return output, mask

    def backward(
        self, gradient: torch.Tensor, norm: Normalisation, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sums]:
        """The gradient of x, (N, H, W, C), and the parameters'."""
        x, sums = self.x, gradients(self.conv)
        G = empty(x.shape, torch.float32, x.device)
        call("transition_backward", x.dtype, *x.shape, self.filters, x, *numbers(norm),
             *parameters(self.conv._replace(mask=mask), self.options.factor), gradient, G, *sums)  # fmt: skip
        if norm.by_batch:
            c, e = sent_back(norm, sums.beta, sums.gamma, self.pixels, self.options.replicas)
        else:
            c = e = torch.zeros_like(norm.mean)
        result = G if x.dtype == G.dtype else empty(x.shape, x.dtype, x.device)
        call("complete_rows", x.dtype, self.pixels, x.shape[3], x, G, c, e, norm.mean, result)
        return result, sums
