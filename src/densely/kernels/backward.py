"""A dense block's backward pass; the formulas stand at the top of `dense_block.py`."""

from collections.abc import Sequence

import torch

from densely.kernels.forward import Kept, normalisation
from densely.kernels.gamma import gradient_of_gamma, ill_conditioned, products_with
from densely.kernels.plan import LayerParameters, Plan
from densely.kernels.products import Pointwise, Spatial
from densely.kernels.rows import cast, drop

Gradients = list[torch.Tensor | None]


class Backward:
    """One backward pass.

    Args:
        plan: what the forward pass did.
        layers: the parameters.
        output: (N, H, W, C0 + L·k), the block's output, unchanged.
        mean: (C0 + L·k,), the maps' batch means; `rstd` likewise.
        rstd: 1/√(variance + ε).
        kept: what each layer left.
    """

    def __init__(
        self,
        plan: Plan,
        layers: Sequence[LayerParameters],
        output: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        kept: Sequence[Kept],
    ) -> None:
        self.plan, self.layers, self.kept = plan, layers, kept
        self.buffer, self.mean, self.rstd = output.view(plan.pixels, plan.width), mean, rstd
        self.A, self.B = torch.zeros_like(mean), torch.zeros_like(mean)
        self.activation, self.narrow, self.through = plan.scratch(), plan.scratch(), plan.scratch()
        self.wide, self.wide2 = plan.scratch(plan.sums), plan.scratch(plan.sums)
        self.gradient = self.source = plan.empty((plan.pixels, plan.width), plan.sums)  # G, and where to read it
        self.inner = plan.empty((plan.pixels, plan.bottleneck), plan.sums)  # d of a layer's second BN

    def run(self, gradient: torch.Tensor, wanted: Sequence[bool]) -> tuple[torch.Tensor | None, list[Gradients]]:
        """Gradients of x and of each layer's parameters, in the order of `LayerParameters`.

        Args:
            gradient: (N, H, W, C0 + L·k), of the output; any strides.
            wanted: for x, then for each layer, whether anything of it needs a gradient.
        """
        plan = self.plan
        if gradient.is_contiguous() and gradient.dtype == plan.sums:
            self.source = gradient.view(plan.pixels, plan.width)  # the first layer adds to it on the way into G
        else:
            self.gradient.view(gradient.shape).copy_(gradient)
        # Below the first layer that anybody asks about there is nothing to do.
        lowest = 0 if wanted[0] else list(wanted[1:]).index(True)
        gradients: list[Gradients] = [[None] * len(LayerParameters._fields) for _ in range(plan.depth)]
        for index in reversed(range(lowest, plan.depth)):
            layer = self._bottleneck_layer if plan.bottleneck else self._plain_layer
            gradients[index] = [
                None if g is None or p is None else g.to(p.dtype)
                for g, p in zip(layer(index), self.layers[index], strict=True)
            ]
            self.source = self.gradient
        return (self._input_gradient() if wanted[0] else None), gradients

    def _coefficients(
        self, A: torch.Tensor, B: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the statistics send back to x, as c + e·x: -rstd·(A + x̂·B)/M."""
        e = rstd * rstd * B / -self.plan.pixels
        return rstd * A / -self.plan.pixels - mean * e, e

    def _complete(self, maps: torch.Tensor, gradient: torch.Tensor, c: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        """The gradient of maps whose readers are all done, (rows, channels), contiguous, in scratch."""
        out = self.wide.view(maps.shape)
        torch.addcmul(c, cast(maps, self.wide2), e, out=out)
        return cast(out.add_(gradient), self.narrow)

    def _input_gradient(self) -> torch.Tensor:
        plan = self.plan
        result = plan.empty((plan.images, *plan.size, plan.start))
        rows, channels = result.view(plan.pixels, plan.start), slice(0, plan.start)
        c, e = self._coefficients(self.A[channels], self.B[channels], self.mean[channels], self.rstd[channels])
        maps, gradient = self.buffer[:, channels], self.gradient[:, channels]
        for _, out, x, g in plan.chunks(plan.row_step(plan.start), rows, maps, gradient):
            out.copy_(self._complete(x, g, c, e))
        return result

    def _plain_layer(self, index: int) -> Gradients:
        plan, layer, kept = self.plan, self.layers[index], self.kept[index]
        step = plan.spatial_step(index)
        spatial = Spatial(layer.kernel1, layer.bias1, plan.factor, plan.size, plan.dtype, plan.sums)
        produced = _Produced(self, index, layer.bias1)
        first_bn = _FirstNormalisation(self, index, plan.count(step))
        for i, made, made_g, drops, x, source, G in plan.chunks(step, *produced.rows, kept.mask1, *first_bn.rows):
            new = produced.gradient(made, made_g, drops)
            activation = first_bn.affine.relu(x, self.activation)
            first_bn.add(i, x, source, G, spatial.backward(new, activation), activation)
        gamma, beta = first_bn.finish(spatial.response())
        return [gamma, beta, spatial.kernel_gradient(), produced.bias_gradient(), None, None, None, None]

    def _bottleneck_layer(self, index: int) -> Gradients:
        plan, layer, kept = self.plan, self.layers[index], self.kept[index]
        assert layer.gamma2 is not None and layer.beta2 is not None and layer.kernel2 is not None
        assert kept.bottleneck is not None and kept.mean2 is not None and kept.rstd2 is not None

        # From the new maps to d, the gradient at the second BN's affine output, for all pixels.
        affine = normalisation(layer.gamma2, layer.beta2, kept.mean2, kept.rstd2, plan.dtype, plan.by_batch(index, 2))
        spatial = Spatial(layer.kernel2, layer.bias2, plan.factor, plan.size, plan.dtype, plan.sums)
        step = plan.spatial_step(index)
        produced = _Produced(self, index, layer.bias2)
        wide = (-1, plan.fold(plan.bottleneck) * plan.bottleneck)  # as in `Moments`
        totals = torch.empty((plan.count(step), wide[1]), dtype=plan.sums, device=plan.device)
        for i, y, d, made, made_g, drops in plan.chunks(step, kept.bottleneck, self.inner, *produced.rows, kept.mask2):
            new = produced.gradient(made, made_g, drops)
            activation = affine.relu(y, self.activation)
            affine.mask(spatial.backward(new, activation), activation, out=d)
            torch.sum(d.view(wide), 0, out=totals[i])
        D, gamma = totals.view(-1, plan.bottleneck).sum(0), layer.gamma2.to(plan.sums)
        direct = ill_conditioned(gamma, layer.beta2)
        gamma_gradient = gradient_of_gamma(
            gamma, layer.beta2, D, spatial.response(), kept.mean2, kept.rstd2,
            direct, products_with(self.inner, kept.bottleneck, direct),
        )  # fmt: skip

        # From d through the second BN and the 1×1 kernel to G.
        c = e = None
        if plan.by_batch(index, 2):
            c, e = self._coefficients(gamma * D, gamma * gamma_gradient, kept.mean2, kept.rstd2)
        pointwise = Pointwise(layer.kernel1, layer.bias1, plan.factor, plan.dtype, plan.sums)
        step = plan.row_step(plan.channels(index))
        first_bn = _FirstNormalisation(self, index, plan.count(step))
        bias = torch.zeros(plan.bottleneck, dtype=plan.sums, device=plan.device)
        rows = (kept.bottleneck, self.inner, kept.mask1, *first_bn.rows)
        for i, y, d, drops, x, source, G in plan.chunks(step, *rows):
            out = self.wide.view(d.shape)
            if c is None or e is None:
                torch.mul(d, affine.scale, out=out)
            else:
                torch.addcmul(c, cast(y, self.wide2), e, out=out).addcmul_(d, affine.scale)
            inner = cast(out, self.narrow)
            if drops is not None:
                drop(inner, drops, self.wide2)
            if layer.bias1 is not None:
                bias += inner.sum(0, dtype=plan.sums)
            activation = first_bn.affine.relu(x, self.activation)
            first_bn.add(i, x, source, G, pointwise.backward(inner, activation, self.through), activation)
        gamma1, beta1 = first_bn.finish(pointwise.response())
        return [
            gamma1, beta1, pointwise.kernel_gradient(), bias * plan.factor,
            gamma_gradient, D, spatial.kernel_gradient(), produced.bias_gradient(),
        ]  # fmt: skip


class _Produced:
    """The gradient of the k maps that a layer made, as its 3×3 convolution's output wants it."""

    def __init__(self, backward: Backward, index: int, bias: torch.Tensor | None) -> None:
        plan = backward.plan
        self.backward = backward
        new = slice(plan.channels(index), plan.channels(index + 1))
        self.rows = backward.buffer[:, new], backward.source[:, new]
        self.c, self.e = backward._coefficients(
            backward.A[new], backward.B[new], backward.mean[new], backward.rstd[new]
        )
        self.bias = None if bias is None else torch.zeros_like(bias, dtype=plan.sums)

    def gradient(self, maps: torch.Tensor, gradient: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(rows, k), contiguous, in scratch; from a chunk of each of `rows` and of the mask."""
        rows = self.backward._complete(maps, gradient, self.c, self.e)
        if mask is not None:
            drop(rows, mask, self.backward.wide2)
        if self.bias is not None:
            self.bias += rows.sum(0, dtype=self.bias.dtype)
        return rows

    def bias_gradient(self) -> torch.Tensor | None:
        """(k,), or None without a bias."""
        return None if self.bias is None else self.bias * self.backward.plan.factor


class _FirstNormalisation:
    """A layer's first BN: adds to G, and to A and B when done."""

    def __init__(self, backward: Backward, index: int, chunks: int) -> None:
        plan, layer, kept = backward.plan, backward.layers[index], backward.kept[index]
        self.backward, self.channels, self.shared = backward, plan.channels(index), plan.by_batch(index, 1)
        self.rows = tuple(t[:, : self.channels] for t in (backward.buffer, backward.source, backward.gradient))
        self.gamma, self.beta = layer.gamma1.to(plan.sums), layer.beta1.to(plan.sums)
        if kept.mean1 is None or kept.rstd1 is None:
            self.mean, self.rstd = backward.mean[: self.channels], backward.rstd[: self.channels]
        else:
            self.mean, self.rstd = kept.mean1, kept.rstd1
        self.affine = normalisation(self.gamma, self.beta, self.mean, self.rstd, plan.dtype, self.shared)
        self.totals = torch.empty((chunks, self.channels), dtype=plan.sums, device=plan.device)
        self.direct = ill_conditioned(self.gamma, self.beta)
        self.direct_sum = torch.zeros(len(self.direct), dtype=plan.sums, device=plan.device)

    def add(
        self,
        i: int,
        x: torch.Tensor,
        source: torch.Tensor,
        G: torch.Tensor,
        gradient: torch.Tensor,
        activation: torch.Tensor,
    ) -> None:
        """Takes one chunk's part.

        Args:
            i: its number.
            x: its part of `rows`, as are `source` and `G`.
            source: what G is before.
            G: written.
            gradient: of the activation, (rows, C); destroyed, as is `activation`.
            activation: relu(γ·x̂ + β).
        """
        d = gradient if gradient.dtype == G.dtype else self.backward.wide.view(gradient.shape)
        self.affine.mask(gradient, activation, out=d)
        torch.sum(d, 0, out=self.totals[i])
        if len(self.direct):
            self.direct_sum += products_with(d, x, self.direct)
        torch.addcmul(source, d, self.affine.scale, out=G)

    def finish(self, response: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of γ and β, from Σ d·a."""
        D = self.totals.sum(0)
        gamma_gradient = gradient_of_gamma(
            self.gamma, self.beta, D, response, self.mean, self.rstd, self.direct, self.direct_sum
        )
        if self.shared:
            self.backward.A[: self.channels] += self.gamma * D
            self.backward.B[: self.channels] += self.gamma * gamma_gradient
        return gamma_gradient, D
