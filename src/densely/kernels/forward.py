"""A dense block's forward pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from densely.kernels import dropout
from densely.kernels.memory import Scratch
from densely.kernels.plan import LayerParameters, Plan
from densely.kernels.products import Pointwise, Spatial
from densely.kernels.rows import Affine, drop
from densely.kernels.statistics import Moments


class Kept(NamedTuple):
    """What one layer leaves for its backward pass."""

    mean1: torch.Tensor | None = None
    """(C,), as is `rstd1`; only if frozen: what is shared is kept once."""
    rstd1: torch.Tensor | None = None
    """(C,): 1/√(variance + ε)."""
    mask1: torch.Tensor | None = None
    """(M, b), or (M, k) without a bottleneck: int8, with dropout only."""
    bottleneck: torch.Tensor | None = None
    """(M, b): what the second BN reads. The rest, too, with a bottleneck only."""
    mean2: torch.Tensor | None = None
    """(b,)."""
    rstd2: torch.Tensor | None = None
    """(b,)."""
    mask2: torch.Tensor | None = None
    """(M, k): int8."""


class Forward:
    """One forward pass, and what it found out.

    Args:
        plan: what to do.
        layers: the parameters.
        keep: whether a backward pass will come.
    """

    def __init__(self, plan: Plan, layers: Sequence[LayerParameters], keep: bool) -> None:
        self.plan, self.layers, self.keep = plan, layers, keep
        self.output = plan.empty((plan.images, *plan.size, plan.width))
        self.buffer = self.output.view(plan.pixels, plan.width)
        self.mean = torch.zeros(plan.width, dtype=plan.sums, device=plan.device)
        self.rstd = torch.zeros_like(self.mean)
        self.variance = torch.zeros_like(self.mean)
        self.kept: list[Kept] = []
        # A map's statistics are wanted if a later layer normalises by them.
        self.last_reader = max((i for i in range(plan.depth) if plan.by_batch(i, 1)), default=-1)
        self.activation, self.centred = plan.scratch(), plan.scratch(plan.sums)
        self.bits = plan.empty((dropout.words(plan.scratch_elements()) if plan.rate else 0,), torch.int64)
        # Without a backward pass all layers may use one bottleneck, one mask.
        self.spare: dict[tuple[str, int], torch.Tensor] = {}

    def run(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output, (N, H, W, C0 + L·k)."""
        self._take_in(x)
        for index in range(self.plan.depth):
            if self.plan.bottleneck:
                self._bottleneck_layer(index)
            else:
                self._plain_layer(index)
        return self.output

    def _take_in(self, x: torch.Tensor) -> None:
        plan, target = self.plan, self.output[..., : self.plan.start]
        if self.last_reader < 0 or not x.is_contiguous():
            target.copy_(x)
            x = target
        if self.last_reader < 0:
            return
        step = plan.row_step(plan.start)
        # The caller's x is read once where it can be, not again from the buffer's long rows.
        source = x.view(plan.pixels, plan.start) if x.is_contiguous() else self.buffer[:, : plan.start]
        fold = plan.fold(plan.start) if x.is_contiguous() else 1
        moments = Moments(plan.count(step), plan.start, fold, plan.sums, plan.device)
        for i, rows, copied in plan.chunks(step, source, self.buffer[:, : plan.start]):
            moments.add(i, rows, self.centred)
            if x is not target:
                copied.copy_(rows)
        self._record(moments, 0, plan.start)

    def _record(self, moments: Moments, first: int, last: int) -> None:
        mean, variance = moments.mean_and_variance(self.plan.pixels)
        self.mean[first:last], self.variance[first:last] = mean, variance
        self.rstd[first:last] = (variance + self.plan.epsilon).rsqrt_()

    def _first_normalisation(self, index: int) -> tuple[Affine, Kept]:
        plan, layer, running = self.plan, self.layers[index], self.plan.statistics[index]
        channels, shared = plan.channels(index), plan.by_batch(index, 1)
        if shared:
            mean, rstd = self.mean[:channels], self.rstd[:channels]
            self._update(running.mean1, mean)
            self._update(running.variance1, self.variance[:channels])
        else:
            mean, rstd = self._moving(running.mean1, running.variance1)
        affine = normalisation(layer.gamma1, layer.beta1, mean, rstd, plan.dtype, shared)
        return affine, Kept() if shared or not self.keep else Kept(mean, rstd)

    def _update(self, moving: torch.Tensor, batch: torch.Tensor) -> None:
        moving.mul_(self.plan.momentum).add_(batch.to(moving.dtype), alpha=1.0 - self.plan.momentum)

    def _moving(self, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Copies: they must still be the same numbers in the backward pass.
        return mean.to(self.plan.sums, copy=True), (variance.to(self.plan.sums) + self.plan.epsilon).rsqrt_()

    def _storage(self, what: str, channels: int, dtype: torch.dtype) -> torch.Tensor:
        if self.keep:
            return self.plan.empty((self.plan.pixels, channels), dtype)
        if (what, channels) not in self.spare:
            self.spare[what, channels] = self.plan.empty((self.plan.pixels, channels), dtype)
        return self.spare[what, channels]

    def _new_mask(self, channels: int) -> torch.Tensor | None:
        return self._storage("mask", channels, torch.int8) if self.plan.rate else None

    def _drop(self, rows: torch.Tensor, mask: torch.Tensor) -> None:
        dropout.draw(mask, self.plan.rate, self.plan.generator, self.bits)
        drop(rows, mask, self.centred)

    def _plain_layer(self, index: int) -> None:
        plan, layer, channels = self.plan, self.layers[index], self.plan.channels(index)
        affine, kept = self._first_normalisation(index)
        spatial = Spatial(layer.kernel1, layer.bias1, plan.factor, plan.size, plan.dtype, plan.sums)
        new, mask = _NewMaps(self, index), self._new_mask(plan.growth)
        for i, rows, out, drops in plan.chunks(plan.spatial_step(index), self.buffer[:, :channels], new.target, mask):
            new.add(i, spatial.forward(affine.relu(rows, self.activation)), out, drops)
        new.finish()
        self.kept.append(kept._replace(mask1=mask))

    def _bottleneck_layer(self, index: int) -> None:
        plan, layer, running = self.plan, self.layers[index], self.plan.statistics[index]
        assert layer.gamma2 is not None and layer.beta2 is not None and layer.kernel2 is not None
        assert running.mean2 is not None and running.variance2 is not None
        affine, kept = self._first_normalisation(index)
        shared = plan.by_batch(index, 2)
        spatial = Spatial(layer.kernel2, layer.bias2, plan.factor, plan.size, plan.dtype, plan.sums)
        if not (shared or self.keep or plan.rate):
            self._folded_layer(index, affine, spatial, running.mean2, running.variance2)
            return
        channels, width = plan.channels(index), plan.bottleneck
        pointwise = Pointwise(layer.kernel1, layer.bias1, plan.factor, plan.dtype, plan.sums)
        bottleneck, mask = self._storage("bottleneck", width, plan.dtype), self._new_mask(width)
        step = plan.row_step(channels)
        moments = Moments(plan.count(step), width, plan.fold(width), plan.sums, plan.device)
        for i, rows, out, drops in plan.chunks(step, self.buffer[:, :channels], bottleneck, mask):
            pointwise.forward(affine.relu(rows, self.activation), out)
            if drops is not None:
                self._drop(out, drops)
            if shared:
                moments.add(i, out, self.centred)
        if shared:
            mean, variance = moments.mean_and_variance(plan.pixels)
            rstd = (variance + plan.epsilon).rsqrt_()
            self._update(running.mean2, mean)
            self._update(running.variance2, variance)
        else:
            mean, rstd = self._moving(running.mean2, running.variance2)
        affine = normalisation(layer.gamma2, layer.beta2, mean, rstd, plan.dtype, shared)
        new, mask2 = _NewMaps(self, index), self._new_mask(plan.growth)
        for i, rows, out, drops in plan.chunks(plan.spatial_step(index), bottleneck, new.target, mask2):
            new.add(i, spatial.forward(affine.relu(rows, self.activation)), out, drops)
        new.finish()
        self.kept.append(kept._replace(mask1=mask, bottleneck=bottleneck, mean2=mean, rstd2=rstd, mask2=mask2))

    def _folded_layer(
        self, index: int, affine: Affine, spatial: Spatial, mean: torch.Tensor, variance: torch.Tensor
    ) -> None:
        """Inference: the second BN is part of the 1×1 kernel, and a chunk goes through the whole layer at once."""
        plan, layer, channels = self.plan, self.layers[index], self.plan.channels(index)
        assert layer.gamma2 is not None and layer.beta2 is not None
        mean, rstd = self._moving(mean, variance)
        second = normalisation(layer.gamma2, layer.beta2, mean, rstd, plan.dtype, False)
        pointwise = Pointwise(layer.kernel1, layer.bias1, 1.0, plan.dtype, plan.sums, second.scale, second.shift)
        target = self.buffer[:, channels : channels + plan.growth]
        step = plan.image_step(channels)
        inner = Scratch(step * plan.bottleneck, plan.dtype, plan.device)
        for _, rows, out in plan.chunks(step, self.buffer[:, :channels], target):
            between = inner.view(torch.Size((len(rows), plan.bottleneck)))
            pointwise.forward(affine.relu(rows, self.activation), between)
            out.copy_(spatial.forward(between.relu_()))


class _NewMaps:
    """Writes a layer's k channels into the buffer, dropout and statistics on the way."""

    def __init__(self, forward: Forward, index: int) -> None:
        plan = forward.plan
        self.forward, self.first = forward, plan.channels(index)
        self.target = forward.buffer[:, self.first : self.first + plan.growth]
        self.moments: Moments | None = None
        if index < forward.last_reader:
            fold = plan.fold(plan.growth)
            chunks = plan.count(plan.spatial_step(index))
            self.moments = Moments(chunks, plan.growth, fold, plan.sums, plan.device)

    def add(self, i: int, rows: torch.Tensor, out: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Takes chunk i, (rows, k), into its place `out`; draws its mask."""
        if mask is not None:
            self.forward._drop(rows, mask)
        if self.moments is not None:
            self.moments.add(i, rows, self.forward.centred)
        out.copy_(rows)

    def finish(self) -> None:
        """Writes the statistics down."""
        if self.moments is not None:
            self.forward._record(self.moments, self.first, self.first + self.forward.plan.growth)


def normalisation(
    gamma: torch.Tensor, beta: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, dtype: torch.dtype, shared: bool
) -> Affine:
    """BN and ReLU as x·s + t: s = γ·rstd, t = β - mean·s, in the dtype of mean and rstd.

    Args:
        gamma: (C,), any dtype; `beta` too.
        beta: (C,).
        mean: (C,).
        rstd: (C,).
        dtype: of the rows that will be normalised.
        shared: whether mean and rstd are those of the rows themselves.
    """
    scale = gamma.to(mean.dtype) * rstd
    return Affine(scale, beta.to(mean.dtype) - mean * scale, dtype, shared)
