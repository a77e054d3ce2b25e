"""A dense block's forward pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from densely.kernels.engine import Convolution, Engine, Maps, Statistics
from densely.kernels.normalisation import Normalisation, move, moving, normalisation
from densely.kernels.plan import LayerParameters, Plan


class Kept(NamedTuple):
    """What one layer leaves for its backward pass."""

    mean1: torch.Tensor | None = None
    """(C,), as is `rstd1`; only if frozen: what is shared is kept once."""
    rstd1: torch.Tensor | None = None
    """(C,): 1/√(variance + ε)."""
    mask1: torch.Tensor | None = None
    """Of the first convolution's outputs, (M, b), or (M, k) without a bottleneck; with dropout only."""
    bottleneck: torch.Tensor | None = None
    """Maps (M, b): what the second BN reads. The rest, too, with a bottleneck only."""
    mean2: torch.Tensor | None = None
    """(b,)."""
    rstd2: torch.Tensor | None = None
    """(b,)."""
    mask2: torch.Tensor | None = None
    """Of the second convolution's, (M, k)."""


class Forward:
    """One forward pass with a batch's statistics or for a backward pass, and what it found out.

    Args:
        plan: what to do.
        engine: who does it.
        layers: the parameters.
        keep: whether a backward pass will come.
    """

    def __init__(self, plan: Plan, engine: Engine, layers: Sequence[LayerParameters], keep: bool) -> None:
        self.plan, self.engine, self.layers, self.keep = plan, engine, layers, keep
        self.buffer = engine.maps(plan.width)
        self.mean = torch.zeros(plan.width, dtype=plan.sums, device=plan.device)
        self.rstd = torch.zeros_like(self.mean)
        self.variance = torch.zeros_like(self.mean)
        self.kept: list[Kept] = []
        self.moved: list[tuple[torch.Tensor, torch.Tensor]] = []  # moving statistics, and the batch's
        # A map's statistics are wanted if a later layer normalises by them.
        self.last_reader = max((i for i in range(plan.depth) if plan.by_batch(i, 1)), default=-1)
        # Without a backward pass all layers may use one bottleneck, one mask of a size.
        self.spare_bottleneck: torch.Tensor | None = None
        self.spare_masks: dict[int, torch.Tensor] = {}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, (N, H, W, C0 + L·k)."""
        start = self.plan.start
        self._record(self.engine.take_in(x, Maps(self.buffer, 0, start), self.last_reader >= 0), 0, start)
        for index in range(self.plan.depth):
            if self.plan.bottleneck:
                self._bottleneck_layer(index)
            else:
                self._plain_layer(index)
        if self.moved:
            moving, batch = zip(*self.moved, strict=True)
            move(moving, batch, self.plan.momentum)
        return self.engine.give_out(self.buffer)

    def _record(self, statistics: Statistics | None, first: int, last: int) -> None:
        if statistics is not None:
            mean, variance = self._of_all(statistics)
            self.mean[first:last], self.variance[first:last] = mean, variance
            self.rstd[first:last] = (variance + self.plan.epsilon).rsqrt_()

    def _of_all(self, statistics: Statistics) -> Statistics:
        return statistics if self.plan.replicas is None else self.plan.replicas.together(*statistics)

    def _first_normalisation(self, index: int) -> tuple[Normalisation, Kept]:
        plan, layer, running = self.plan, self.layers[index], self.plan.statistics[index]
        channels, by_batch = plan.channels(index), plan.by_batch(index, 1)
        if by_batch:
            mean, rstd = self.mean[:channels], self.rstd[:channels]
            self.moved += [(running.mean1, mean), (running.variance1, self.variance[:channels])]
        else:
            mean, rstd = moving(running.mean1, running.variance1, plan.epsilon, plan.sums)
        norm = normalisation(layer.gamma1, layer.beta1, mean, rstd, by_batch)
        return norm, Kept() if by_batch or not self.keep else Kept(mean, rstd)

    def _bottleneck_storage(self) -> torch.Tensor:
        if self.keep or self.spare_bottleneck is None:
            self.spare_bottleneck = self.engine.maps(self.plan.bottleneck)
        return self.spare_bottleneck

    def _mask(self, channels: int) -> torch.Tensor | None:
        if not self.plan.rate:
            return None
        if self.keep:
            return self.engine.mask(channels, None)
        self.spare_masks[channels] = self.engine.mask(channels, self.spare_masks.get(channels))
        return self.spare_masks[channels]

    def _new_maps(self, index: int, x: Maps, norm: Normalisation, conv: Convolution) -> None:
        first, last = self.plan.channels(index), self.plan.channels(index + 1)
        found = self.engine.spatial(x, norm, conv, Maps(self.buffer, first, last), index < self.last_reader)
        self._record(found, first, last)

    def _plain_layer(self, index: int) -> None:
        plan, layer = self.plan, self.layers[index]
        norm, kept = self._first_normalisation(index)
        mask = self._mask(plan.growth)
        x = Maps(self.buffer, 0, plan.channels(index))
        self._new_maps(index, x, norm, Convolution(layer.kernel1, layer.bias1, mask))
        self.kept.append(kept._replace(mask1=mask))

    def _bottleneck_layer(self, index: int) -> None:
        plan, layer, running = self.plan, self.layers[index], self.plan.statistics[index]
        assert layer.gamma2 is not None and layer.beta2 is not None and layer.kernel2 is not None
        assert running.mean2 is not None and running.variance2 is not None
        channels = plan.channels(index)
        x = Maps(self.buffer, 0, channels)
        by_batch = plan.by_batch(index, 2)
        norm, kept = self._first_normalisation(index)
        conv1, conv2 = Convolution(layer.kernel1, layer.bias1), Convolution(layer.kernel2, layer.bias2)
        bottleneck, mask1 = self._bottleneck_storage(), self._mask(plan.bottleneck)
        inner = Maps(bottleneck, 0, plan.bottleneck)
        found = self.engine.pointwise(x, norm, conv1._replace(mask=mask1), inner, by_batch)
        if found is not None:
            mean, variance = self._of_all(found)
            self.moved += [(running.mean2, mean), (running.variance2, variance)]
            rstd = (variance + plan.epsilon).rsqrt_()
        else:
            mean, rstd = moving(running.mean2, running.variance2, plan.epsilon, plan.sums)
        norm2 = normalisation(layer.gamma2, layer.beta2, mean, rstd, by_batch)
        mask2 = self._mask(plan.growth)
        self._new_maps(index, inner, norm2, conv2._replace(mask=mask2))
        self.kept.append(kept._replace(mask1=mask1, bottleneck=bottleneck, mean2=mean, rstd2=rstd, mask2=mask2))
