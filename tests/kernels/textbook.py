"""A dense block as a textbook writes it in PyTorch: the oracle, and the peer in timings.

`nn.BatchNorm2d`, `nn.Conv2d` and `torch.cat` in channels-last memory, one layer after the other.
"""

from collections.abc import Sequence

import torch
from torch import nn

from densely.kernels import LayerParameters, RunningStatistics


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose moving variance is fed the biased batch variance, and whose momentum is as in Keras."""

    def __init__(self, channels: int, momentum: float, epsilon: float) -> None:
        super().__init__(channels, eps=epsilon, momentum=None)
        self.keras_momentum = momentum

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                batch = x.detach().to(self.running_mean.dtype)
                mean, variance = batch.mean((0, 2, 3)), batch.var((0, 2, 3), unbiased=False)
                self.running_mean.lerp_(mean, 1 - self.keras_momentum)
                self.running_var.lerp_(variance, 1 - self.keras_momentum)
        statistics = (None, None) if self.training else (self.running_mean, self.running_var)
        # Not nn.functional.batch_norm, which refuses a single value a channel where Keras does not.
        return torch.batch_norm(x, self.weight, self.bias, *statistics, self.training, 0.0, self.eps, False)


class Layer(nn.Module):
    """BN, ReLU, [1×1 convolution, dropout, BN, ReLU,] 3×3 convolution, dropout."""

    def __init__(
        self, channels: int, growth: int, bottleneck: int, bias: bool, momentum: float, epsilon: float
    ) -> None:
        super().__init__()
        self.norm1 = BatchNorm(channels, momentum, epsilon)
        self.norm2 = BatchNorm(bottleneck, momentum, epsilon) if bottleneck else None
        if bottleneck:
            self.conv1 = nn.Conv2d(channels, bottleneck, 1, bias=bias)
            self.conv2 = nn.Conv2d(bottleneck, growth, 3, padding=1, bias=bias)
        else:
            self.conv1 = nn.Conv2d(channels, growth, 3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        y = nn.functional.dropout(self.conv1(torch.relu(self.norm1(x))), rate, self.training)
        if self.norm2 is not None:
            y = nn.functional.dropout(self.conv2(torch.relu(self.norm2(y))), rate, self.training)
        return y


class TextbookBlock(nn.Module):
    """L layers, (N, C0, H, W) to (N, C0 + L·k, H, W); parameters and moving statistics drawn at random."""

    def __init__(
        self,
        depth: int,
        start: int,
        growth: int,
        bottleneck: int = 0,
        *,
        bias: bool = False,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.momentum, self.epsilon, self.rate = momentum, epsilon, rate
        self.layers = nn.ModuleList(
            Layer(start + i * growth, growth, bottleneck, bias, momentum, epsilon) for i in range(depth)
        )
        for module in self.modules():
            if isinstance(module, BatchNorm):
                nn.init.normal_(module.weight, 1.0, 0.3)
                nn.init.normal_(module.bias, 0.0, 0.3)
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat((x, layer(x, self.rate)), 1)
        return x


def hwio(convolution: nn.Conv2d) -> torch.Tensor:
    """A convolution's kernel as Keras stores it; differentiable, so gradients come back to the module's own weight."""
    return convolution.weight.permute(2, 3, 1, 0)


def parameters_of(block: TextbookBlock) -> list[LayerParameters]:
    """The block's parameters as the fused block takes them."""
    return [
        LayerParameters(layer.norm1.weight, layer.norm1.bias, hwio(layer.conv1), layer.conv1.bias)
        if layer.norm2 is None
        else LayerParameters(
            layer.norm1.weight, layer.norm1.bias, hwio(layer.conv1), layer.conv1.bias,
            layer.norm2.weight, layer.norm2.bias, hwio(layer.conv2), layer.conv2.bias,
        )
        for layer in block.layers
    ]  # fmt: skip


def statistics_of(block: TextbookBlock, frozen: Sequence[tuple[bool, bool]] | None = None) -> list[RunningStatistics]:
    """Copies of the block's moving statistics as the fused block takes them."""
    flags = frozen or [(False, False)] * len(block.layers)
    return [
        RunningStatistics(
            layer.norm1.running_mean.clone(), layer.norm1.running_var.clone(),
            None if layer.norm2 is None else layer.norm2.running_mean.clone(),
            None if layer.norm2 is None else layer.norm2.running_var.clone(),
            *flag,
        )
        for layer, flag in zip(block.layers, flags, strict=True)
    ]  # fmt: skip
