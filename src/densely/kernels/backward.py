"""A dense block's backward pass; the formulas stand at the top of `dense_block.py`."""

from collections.abc import Sequence

import torch

from densely.kernels.engine import Convolution, Engine, Maps, Place, Returned, Sums, returned_through
from densely.kernels.forward import Kept
from densely.kernels.normalisation import Normalisation, normalisation, sending_factors
from densely.kernels.plan import LayerParameters, Plan

Gradients = list[torch.Tensor | None]


class Backward:
    """One backward pass.

    Args:
        plan: what the forward pass did.
        engine: who did it.
        layers: the parameters.
        buffer: all maps, as `Forward` left them.
        mean: (C0 + L·k,), the maps' batch means; `rstd` likewise.
        rstd: 1/√(variance + ε).
        kept: what each layer left.
    """

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        layers: Sequence[LayerParameters],
        buffer: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        kept: Sequence[Kept],
    ) -> None:
        self.plan, self.engine, self.layers, self.kept = plan, engine, layers, kept
        self.buffer, self.mean, self.rstd = buffer, mean, rstd
        self.A, self.B = torch.zeros_like(mean), torch.zeros_like(mean)
        # The block's input, then each layer's maps: A, B, with what they are sent back, mean.
        sizes = [plan.start] + [plan.growth] * plan.depth
        factors = sending_factors(rstd, plan.pixels, plan.replicas)
        self.parts = list(zip(*(torch.split(t, sizes) for t in (self.A, self.B, *factors, mean)), strict=True))
        self.gradient = self.source = engine.maps(plan.width, plan.sums)  # G, and where to read it
        self.inner = engine.maps(plan.bottleneck, plan.sums) if plan.bottleneck else None  # d of a layer's second BN

    def run(self, gradient: torch.Tensor, wanted: Sequence[bool]) -> tuple[torch.Tensor | None, list[Gradients]]:
        """Gradients of x and of each layer's parameters, in the order of `LayerParameters`.

        Args:
            gradient: (N, H, W, C0 + L·k), of the output; any strides.
            wanted: for x, then for each layer, whether anything of it needs a gradient.
        """
        plan = self.plan
        self.source = self.engine.take_gradient(gradient, self.gradient)
        # Below the first layer that anybody asks about there is nothing to do.
        lowest = 0 if wanted[0] else list(wanted[1:]).index(True)
        gradients: list[Gradients] = [[None] * len(LayerParameters._fields) for _ in range(plan.depth)]
        for index in reversed(range(lowest, plan.depth)):
            layer = self._bottleneck_layer if plan.bottleneck else self._plain_layer
            gradients[index] = [
                None if g is None or p is None else g if g.dtype == p.dtype else g.to(p.dtype)
                for g, p in zip(layer(index), self.layers[index], strict=True)
            ]
            self.source = self.gradient
        return (self._input_gradient() if wanted[0] else None), gradients

    def _input_gradient(self) -> torch.Tensor:
        plan = self.plan
        result = plan.empty((plan.images, *plan.size, plan.start))
        self.engine.complete(self._returned(0), result.view(plan.pixels, plan.start))
        return result

    def _plain_layer(self, index: int) -> Gradients:
        layer, kept = self.layers[index], self.kept[index]
        x, norm, place = self._before(index)
        conv = Convolution(layer.kernel1, layer.bias1, kept.mask1)
        sums = self.engine.spatial_backward(x, norm, conv, self._returned(index + 1), place)
        self._statistics_get(norm, sums)
        return [sums.gamma, sums.beta, sums.kernel, sums.bias, None, None, None, None]

    def _bottleneck_layer(self, index: int) -> Gradients:
        plan, layer, kept = self.plan, self.layers[index], self.kept[index]
        assert layer.gamma2 is not None and layer.beta2 is not None and layer.kernel2 is not None
        assert (
            self.inner is not None and kept.bottleneck is not None and kept.mean2 is not None and kept.rstd2 is not None
        )

        # From the new maps to d, the gradient at the second BN's affine output, for all pixels.
        norm2 = normalisation(layer.gamma2, layer.beta2, kept.mean2, kept.rstd2, plan.by_batch(index, 2))
        conv2 = Convolution(layer.kernel2, layer.bias2, kept.mask2)
        y, d = Maps(kept.bottleneck, 0, plan.bottleneck), Maps(self.inner, 0, plan.bottleneck)
        second = self.engine.spatial_backward(y, norm2, conv2, self._returned(index + 1), Place(None, d))
        # From d through the second BN and the 1×1 kernel to G.
        returned = returned_through(plan, norm2, y, d, second)
        x, norm1, place = self._before(index)
        conv1 = Convolution(layer.kernel1, layer.bias1, kept.mask1)
        first = self.engine.pointwise_backward(x, norm1, conv1, returned, place)
        self._statistics_get(norm1, first)
        return [
            first.gamma, first.beta, first.kernel, first.bias,
            second.gamma, second.beta, second.kernel, second.bias,
        ]  # fmt: skip

    def _before(self, index: int) -> tuple[Maps, Normalisation, Place]:
        """A layer's input, its first BN, and where that sends its gradient."""
        plan, layer, kept = self.plan, self.layers[index], self.kept[index]
        channels = plan.channels(index)
        mean, rstd = kept.mean1, kept.rstd1
        if mean is None or rstd is None:
            mean, rstd = self.mean[:channels], self.rstd[:channels]
        norm = normalisation(layer.gamma1, layer.beta1, mean, rstd, plan.by_batch(index, 1))
        place = Place(Maps(self.source, 0, channels), Maps(self.gradient, 0, channels))
        return Maps(self.buffer, 0, channels), norm, place

    def _returned(self, number: int) -> Returned:
        """The gradient of maps whose readers are all done: 0 is the block's input, then come the layers' new maps."""
        A, B, f, g, mean = self.parts[number]
        if self.plan.replicas is not None:
            A, B = self.plan.replicas.summed(A, B)
        first, last = (0, self.plan.start) if not number else map(self.plan.channels, (number - 1, number))
        return Returned(Maps(self.buffer, first, last), Maps(self.source, first, last), f * A, g * B, mean)

    def _statistics_get(self, norm: Normalisation, sums: Sums) -> None:
        if norm.by_batch:
            self.A[: len(norm.gamma)].addcmul_(norm.gamma, sums.beta)
            self.B[: len(norm.gamma)].addcmul_(norm.gamma, sums.gamma)
