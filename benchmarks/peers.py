"""The peers: a DenseNet as a PyTorch textbook writes it, plain, compiled, or with checkpointed layers.

Nothing of Densely but the description of a network is used here.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from densely.architecture import NetworkSpec


class Layer(nn.Module):
    """Batch normalisation, ReLU, [1×1 convolution, normalisation, ReLU,] 3×3 convolution; new maps only."""

    def __init__(self, channels: int, network: NetworkSpec, memory_efficient: bool) -> None:
        super().__init__()
        growth = network.growth_rate
        self.dropout, self.memory_efficient, self.bottleneck = network.dropout, memory_efficient, network.bottleneck
        self.norm1 = nn.BatchNorm2d(channels)
        if network.bottleneck:
            self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(4 * growth)
            self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def first(self, *maps: torch.Tensor) -> torch.Tensor:
        """Concatenate, normalise, convolve: what the memory-efficient variant computes again (arXiv:1707.06990)."""
        new: torch.Tensor = self.conv1(F.relu(self.norm1(torch.cat(maps, 1))))
        return new

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """The layer's new maps."""
        x = checkpoint(self.first, *maps, use_reentrant=False) if self.memory_efficient else self.first(*maps)
        if self.bottleneck:
            x = F.dropout(x, self.dropout, self.training) if self.dropout else x
            x = self.conv2(F.relu(self.norm2(x)))
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Block(nn.Module):
    """A dense block."""

    def __init__(self, channels: int, layers: int, network: NetworkSpec, memory_efficient: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(channels + i * network.growth_rate, network, memory_efficient) for i in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All maps."""
        maps = [x]
        for layer in self.layers:
            maps.append(layer(maps))
        return torch.cat(maps, 1)


class DenseNet(nn.Module):
    """A CIFAR DenseNet; images `(N, C, H, W)`, any memory format, to logits."""

    def __init__(self, network: NetworkSpec, memory_efficient: bool = False) -> None:
        super().__init__()
        self.dropout = network.dropout
        channels = network.stem_width
        self.stem = nn.Conv2d(network.input_shape[2], channels, 3, padding=1, bias=False)
        self.blocks, self.norms, self.convs = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, layers in enumerate(network.block_layers):
            self.blocks.append(Block(channels, layers, network, memory_efficient))
            channels += layers * network.growth_rate
            self.norms.append(nn.BatchNorm2d(channels))
            if i < len(network.block_layers) - 1:
                filters = int(channels * network.compression)
                self.convs.append(nn.Conv2d(channels, filters, 1, bias=False))
                channels = filters
        self.classifier = nn.Linear(channels, network.classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.stem(x)
        for i, (block, norm) in enumerate(zip(self.blocks, self.norms, strict=True)):
            x = F.relu(norm(block(x)))
            if i < len(self.convs):
                x = self.convs[i](x)
                x = F.dropout(x, self.dropout, self.training) if self.dropout else x
                x = F.avg_pool2d(x, 2)
        logits: torch.Tensor = self.classifier(x.mean((2, 3)))
        return logits
