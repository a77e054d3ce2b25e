"""A dense block's passes over all pixels, a chunk of rows that fits the cache at a time."""

import functools
from collections.abc import Callable, Sequence

import torch

from densely.kernels import dropout
from densely.kernels.engine import Convolution, Maps, Place, Returned, Statistics, Sums
from densely.kernels.memory import Scratch
from densely.kernels.normalisation import Normalisation, moving, normalisation
from densely.kernels.operators.gamma import gradient_of_gamma, ill_conditioned, products_with
from densely.kernels.operators.products import Pointwise, Spatial
from densely.kernels.operators.rows import Affine, cast, drop
from densely.kernels.operators.statistics import Moments
from densely.kernels.plan import LayerParameters, Plan, RunningStatistics
from densely.kernels.row_maps import RowMaps, rows_of


class OperatorEngine(RowMaps):
    """The passes of one call, see `engine.Engine`; its scratch memory is shared by them.

    Args:
        plan: shapes, dtypes and options.
    """

    plan: Plan

    @functools.cached_property
    def _activation(self) -> Scratch:
        return self.plan.scratch()

    @functools.cached_property
    def _narrow(self) -> Scratch:
        return self.plan.scratch()

    @functools.cached_property
    def _through(self) -> Scratch:
        return self.plan.scratch()

    @functools.cached_property
    def _wide(self) -> Scratch:
        return self.plan.scratch(self.plan.sums)

    @functools.cached_property
    def _wide2(self) -> Scratch:
        return self.plan.scratch(self.plan.sums)

    def mask(self, channels: int, out: torch.Tensor | None) -> torch.Tensor:
        """(M, channels), int8."""
        mask = self.plan.empty((self.plan.pixels, channels), torch.int8) if out is None else out
        dropout.draw(mask, self.plan.rate, self.plan.generator)
        return mask

    def take_in(self, x: torch.Tensor, out: Maps, statistics: bool) -> Statistics | None:
        """Copies x, (N, H, W, C0), and finds its statistics."""
        plan, whole, target = self.plan, x.is_contiguous(), rows_of(out)
        if not statistics or not whole:
            target.view(plan.images, *plan.size, plan.start).copy_(x)
        if not statistics:
            return None
        step = plan.row_step(plan.start)
        # The caller's x is read once where it can be, not again from the buffer's long rows.
        source = x.view(plan.pixels, plan.start) if whole else target
        fold = plan.fold(plan.start) if whole else 1
        moments = Moments(plan.count(step), plan.start, fold, plan.sums, plan.device)
        for i, rows, copied in plan.chunks(step, source, target):
            moments.add(i, rows, self._wide)
            if whole:
                copied.copy_(rows)
        return moments.mean_and_variance(plan.pixels)

    def pointwise(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """A 1×1 convolution forward."""
        plan, affine, product = self.plan, self._affine(norm), self._pointwise(conv)
        step = plan.row_step(x.channels)
        moments = self._moments(step, out.channels) if statistics else None
        for i, rows, made, drops in plan.chunks(step, rows_of(x), rows_of(out), conv.mask):
            product.forward(affine.relu(rows, self._activation), made)
            if drops is not None:
                drop(made, drops, self._wide)
            if moments is not None:
                moments.add(i, made, self._wide)
        return None if moments is None else moments.mean_and_variance(plan.pixels)

    def spatial(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """A 3×3 convolution forward."""
        plan, affine, product = self.plan, self._affine(norm), self._spatial(conv)
        step = plan.spatial_step(x.channels)
        moments = self._moments(step, out.channels) if statistics else None
        for i, rows, target, drops in plan.chunks(step, rows_of(x), rows_of(out), conv.mask):
            made = product.forward(affine.relu(rows, self._activation))
            if drops is not None:
                drop(made, drops, self._wide)
            if moments is not None:
                moments.add(i, made, self._wide)
            target.copy_(made)
        return None if moments is None else moments.mean_and_variance(plan.pixels)

    def inference(self, x: torch.Tensor, layers: Sequence[LayerParameters]) -> torch.Tensor:
        """Layer by layer."""
        plan = self.plan
        buffer = self.maps(plan.width)
        self.take_in(x, Maps(buffer, 0, plan.start), False)
        for index, (layer, running) in enumerate(zip(layers, plan.statistics, strict=True)):
            before = Maps(buffer, 0, plan.channels(index))
            new = Maps(buffer, before.last, plan.channels(index + 1))
            if plan.bottleneck:
                self._bottleneck_inference(before, layer, running, new)
            else:
                mean, rstd = moving(running.mean1, running.variance1, plan.epsilon, plan.sums)
                norm = normalisation(layer.gamma1, layer.beta1, mean, rstd, False)
                self.spatial(before, norm, Convolution(layer.kernel1, layer.bias1), new, False)
        return self.give_out(buffer)

    def _bottleneck_inference(self, x: Maps, layer: LayerParameters, statistics: RunningStatistics, out: Maps) -> None:
        """The second BN is part of the 1×1 kernel, and a chunk goes through the whole layer at once."""
        plan, moved = self.plan, statistics
        assert layer.gamma2 is not None and layer.beta2 is not None and layer.kernel2 is not None
        assert moved.mean2 is not None and moved.variance2 is not None
        mean, rstd = moving(moved.mean1, moved.variance1, plan.epsilon, plan.sums)
        affine = self._affine(normalisation(layer.gamma1, layer.beta1, mean, rstd, False))
        mean, rstd = moving(moved.mean2, moved.variance2, plan.epsilon, plan.sums)
        norm2 = normalisation(layer.gamma2, layer.beta2, mean, rstd, False)
        spatial = self._spatial(Convolution(layer.kernel2, layer.bias2))
        pointwise = Pointwise(layer.kernel1, layer.bias1, 1.0, plan.dtype, plan.sums, norm2.scale, norm2.shift)
        step = plan.image_step(x.channels)
        inner = Scratch(step * plan.bottleneck, plan.dtype, plan.device)
        for _, rows, target in plan.chunks(step, rows_of(x), rows_of(out)):
            between = inner.view(torch.Size((len(rows), plan.bottleneck)))
            pointwise.forward(affine.relu(rows, self._activation), between)
            target.copy_(spatial.forward(between.relu_()))

    def pointwise_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """A 1×1 convolution backward."""
        product = self._pointwise(conv)
        back = functools.partial(product.backward, out=self._through)
        return self._pass_back(x, norm, conv, returned, place, self.plan.row_step(x.channels), product, back)

    def spatial_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """A 3×3 convolution backward."""
        product, step = self._spatial(conv), self.plan.spatial_step(x.channels)
        return self._pass_back(x, norm, conv, returned, place, step, product, product.backward)

    def _pass_back(
        self,
        x: Maps,
        norm: Normalisation,
        conv: Convolution,
        returned: Returned,
        place: Place,
        step: int,
        product: Pointwise | Spatial,
        back: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> Sums:
        plan, before = self.plan, _Before(self, norm, self.plan.count(step))
        bias, plain = self._bias(conv), _around_zero(returned)
        for i, maps, source, drops, rows, from_, to in plan.chunks(step, *self._backward(returned, conv, x, place)):
            new = self._complete(maps, source, plain, drops, bias)
            activation = before.affine.relu(rows, self._activation)
            before.add(i, rows, from_, to, back(new, activation), activation)
        return before.sums(product, bias, plan.factor)

    def complete(self, returned: Returned, out: torch.Tensor) -> None:
        """The gradient of a block's input."""
        step, plain = self.plan.row_step(out.shape[1]), _around_zero(returned)
        for _, rows, maps, source in self.plan.chunks(step, out, *self._returned(returned)):
            rows.copy_(self._complete(maps, source, plain, None, None))

    def _returned(self, returned: Returned) -> tuple[torch.Tensor | None, torch.Tensor]:
        return None if returned.c is None else rows_of(returned.maps), rows_of(returned.source)

    def _backward(
        self, returned: Returned, conv: Convolution, x: Maps, place: Place
    ) -> tuple[torch.Tensor | None, ...]:
        """What a pass back reads and writes: y, what comes back, its mask; x, and d's place."""
        source = None if place.source is None else rows_of(place.source)
        return *self._returned(returned), conv.mask, rows_of(x), source, rows_of(place.to)

    def _complete(
        self,
        maps: torch.Tensor | None,
        source: torch.Tensor,
        returned: Returned,
        mask: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """∂y of a chunk behind dropout's mask, contiguous, in scratch; adds its sum to the bias's gradient."""
        out = self._wide.view(source.shape)
        if maps is None or returned.c is None or returned.e is None:
            torch.mul(source, 1.0 if returned.scale is None else returned.scale, out=out)
        else:
            torch.addcmul(returned.c, cast(maps, self._wide2), returned.e, out=out)
            out.add_(source) if returned.scale is None else out.addcmul_(source, returned.scale)
        rows = cast(out, self._narrow)
        if mask is not None:
            drop(rows, mask, self._wide2)
        if bias is not None:
            bias += rows.sum(0, dtype=bias.dtype)
        return rows

    def _affine(self, norm: Normalisation) -> Affine:
        return Affine(norm.scale, norm.shift, self.plan.dtype, norm.by_batch)

    def _pointwise(self, conv: Convolution) -> Pointwise:
        return Pointwise(conv.kernel, conv.bias, self.plan.factor, self.plan.dtype, self.plan.sums)

    def _spatial(self, conv: Convolution) -> Spatial:
        plan = self.plan
        return Spatial(conv.kernel, conv.bias, plan.factor, plan.size, plan.dtype, plan.sums)

    def _moments(self, step: int, channels: int) -> Moments:
        plan = self.plan
        return Moments(plan.count(step), channels, plan.fold(channels), plan.sums, plan.device)

    def _bias(self, conv: Convolution) -> torch.Tensor | None:
        return None if conv.bias is None else torch.zeros_like(conv.bias, dtype=self.plan.sums)


def _around_zero(returned: Returned) -> Returned:
    """c + e·(y - mean) as c + e·y: one pass less."""
    if returned.c is None or returned.e is None or returned.mean is None:
        return returned
    return returned._replace(c=returned.c - returned.mean * returned.e)


class _Before:
    """The normalisation before a convolution, on the way back."""

    def __init__(self, engine: OperatorEngine, norm: Normalisation, chunks: int) -> None:
        self.norm, self.wide, self.affine = norm, engine._wide, engine._affine(norm)
        self.scale = self.affine.scale
        # Few channels are summed several pixels at a time, as in `Moments`.
        self.fold = engine.plan.fold(len(norm.gamma))
        self.totals = norm.gamma.new_empty((chunks, self.fold * len(norm.gamma)))
        self.direct = ill_conditioned(norm.gamma, norm.beta)
        self.direct_sum = torch.zeros_like(norm.gamma[self.direct])

    def add(
        self,
        i: int,
        x: torch.Tensor,
        source: torch.Tensor | None,
        to: torch.Tensor,
        gradient: torch.Tensor,
        activation: torch.Tensor,
    ) -> None:
        """Takes one chunk's part.

        Args:
            i: its number.
            x: what was normalised.
            source: as in `Place`, as is `to`.
            to: written.
            gradient: of the activation, (rows, C); destroyed, as is `activation`.
            activation: relu(γ·x̂ + β).
        """
        d = to
        if source is not None:
            d = gradient if gradient.dtype == to.dtype else self.wide.view(gradient.shape)
        self.affine.mask(gradient, activation, out=d)
        torch.sum(d.view(-1, self.totals.shape[1]), 0, out=self.totals[i])
        if len(self.direct):
            self.direct_sum += products_with(d, x, self.direct)
        if source is not None:
            torch.addcmul(source, d, self.scale, out=to)

    def sums(self, product: Pointwise | Spatial, bias: torch.Tensor | None, factor: float) -> Sums:
        """All that has been added up."""
        norm, D = self.norm, self.totals.view(-1, len(self.norm.gamma)).sum(0)
        gamma = gradient_of_gamma(
            norm.gamma, norm.beta, D, product.response(), norm.mean, norm.rstd, self.direct, self.direct_sum
        )
        return Sums(gamma, D, product.kernel_gradient(), None if bias is None else bias * factor)
