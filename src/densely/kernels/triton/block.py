"""A dense block's passes over all pixels by Triton kernels."""

import math
from collections.abc import Iterator, Sequence

import torch

from densely.kernels import dropout
from densely.kernels.engine import Convolution, Maps, Place, Returned, Statistics, Sums
from densely.kernels.forward import Forward
from densely.kernels.normalisation import Normalisation
from densely.kernels.plan import LayerParameters, Plan, TransitionPlan
from densely.kernels.row_maps import RowMaps, rows_of
from densely.kernels.triton import launch as tiles
from densely.kernels.triton.launch import launch


class TritonEngine(RowMaps):
    """The passes of one call, see `engine.Engine`; maps lie in rows, a pixel's channels side by side.

    Args:
        plan: shapes, dtypes and options.
    """

    def __init__(self, plan: Plan | TransitionPlan) -> None:
        super().__init__(plan)
        self._keys: Iterator[torch.Tensor] | None = None
        self._dropped = dropout.threshold(plan.rate)
        self._rows = tiles.rows_of_a_tile(plan.pixels)
        self._tiles = math.ceil(plan.pixels / self._rows)

    def mask(self, channels: int, out: torch.Tensor | None) -> torch.Tensor:
        """Only the key that the kernels make the mask from, (2,), each time they need it.

        On the CPU it is `dropout.new_key`'s. All of a block are drawn at once, and stay on the device.
        """
        plan = self.plan
        if self._keys is None:
            if plan.seed is not None:
                keys = dropout.keys(plan.seed, plan.masks)
            else:
                keys = torch.empty((plan.masks, 2), dtype=torch.int64, device=plan.device)
                keys.random_(0, 1 << 32, generator=plan.generator)
            self._keys = iter(keys.unbind())
        return next(self._keys)

    def take_in(self, x: torch.Tensor, out: Maps, statistics: bool) -> Statistics | None:
        """Copies x, (N, H, W, C0), and finds its statistics."""
        if statistics:
            return self.statistics(x, out)
        rows_of(out).view(self.plan.images, *self.plan.size, -1).copy_(x)
        return None

    def statistics(self, x: torch.Tensor, out: Maps | None) -> Statistics:
        """Those of x, (N, H, W, C), which is copied on the way if there is an `out`."""
        channels, align = x.shape[3], tiles.alignment(x.shape[3]) if out is None else self._alignment(out)
        stride = channels if out is None else out.buffer.shape[-1]
        moments = self._partial(2, channels)
        columns = tiles.columns_of_a_tile(channels, 64)
        launch(tiles.take_in, (self._tiles, math.ceil(channels / columns)), x, x.contiguous(),
               None if out is None else rows_of(out), moments, self.plan.pixels, channels // align, stride // align,
               align, self._rows, columns)  # fmt: skip
        return self._merged(moments)

    def pointwise(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """A 1×1 convolution forward."""
        return self._forward(x, norm, conv, out, statistics)

    def spatial(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """A 3×3 convolution forward."""
        return self._forward(x, norm, conv, out, statistics)

    def _forward(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        plan, read = self.plan, rows_of(x)
        in_align, out_align = self._alignment(x), self._alignment(out)
        columns = tiles.columns_of_a_tile(out.channels, 128)
        moments = self._partial(2, out.channels) if statistics else None
        bias = None if conv.bias is None else conv.bias.contiguous()
        launch(tiles.forward, (self._tiles, math.ceil(out.channels / columns)), read, read, *norm.numbers,
               conv.kernel.contiguous(), bias, conv.mask, out.buffer, moments, plan.pixels, *plan.size,
               x.channels // in_align, read.stride(0) // in_align, out.channels // out_align,
               out.buffer.shape[-1] // out_align, out.first // out_align, plan.factor,
               tiles.bucket(plan.pixels, x.channels), TAPS=_taps(conv), DROPPED=self._dropped, IN_ALIGN=in_align,
               OUT_ALIGN=out_align, BLOCK_M=self._rows, BLOCK_N=columns)  # fmt: skip
        return None if moments is None else self._merged(moments)

    def inference(self, x: torch.Tensor, layers: Sequence[LayerParameters]) -> torch.Tensor:
        """Layer by layer, as in training."""
        assert isinstance(self.plan, Plan)
        return Forward(self.plan, self, layers, keep=False).run(x)

    def pointwise_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """A 1×1 convolution backward."""
        return self._backward(x, norm, conv, returned, place)

    def spatial_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """A 3×3 convolution backward."""
        return self._backward(x, norm, conv, returned, place)

    def _backward(self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place) -> Sums:
        # What comes back is needed by two products, and read nine times where they are 3×3: it is made once.
        gradient = self.plan.empty((self.plan.pixels, conv.kernel.shape[3]))
        bias = self._partial(conv.kernel.shape[3]) if conv.bias is not None else None
        self._complete(returned, gradient, conv.mask, bias)
        D, gamma = self._data_gradient(x, norm, conv, gradient, place).sum(0)
        kernel = self._kernel_gradient(x, norm, conv, gradient)
        return Sums(gamma, D, kernel, None if bias is None else bias.sum(0))

    def _data_gradient(
        self, x: Maps, norm: Normalisation, conv: Convolution, gradient: torch.Tensor, place: Place
    ) -> torch.Tensor:
        plan, read, to = self.plan, rows_of(x), rows_of(place.to)
        source = None if place.source is None else rows_of(place.source)
        in_align, out_align = self._alignment(x), tiles.alignment(gradient.shape[1])
        sums = self._partial(2, x.channels)
        launch(tiles.data_gradient, lambda meta: (self._tiles, math.ceil(x.channels / meta["BLOCK_N"])), read, gradient,
               conv.kernel.contiguous(), read, *norm.numbers, source, to, sums, plan.pixels, *plan.size,
               x.channels // in_align, read.stride(0) // in_align, gradient.shape[1] // out_align,
               to.stride(0) // in_align, tiles.bucket(plan.pixels, x.channels),
               TAPS=_taps(conv), IN_ALIGN=in_align, OUT_ALIGN=out_align, BLOCK_M=self._rows,
               BLOCK_K=tiles.columns_of_a_tile(gradient.shape[1], 64))  # fmt: skip
        return sums

    def _kernel_gradient(self, x: Maps, norm: Normalisation, conv: Convolution, gradient: torch.Tensor) -> torch.Tensor:
        plan, read, taps, filters = self.plan, rows_of(x), _taps(conv), gradient.shape[1]
        in_align, out_align = self._alignment(x), tiles.alignment(filters)
        columns = tiles.columns_of_a_tile(filters, 64)
        side = math.ceil(filters / columns)
        groups, rows = tiles.groups_of_rows(plan.pixels, math.ceil(x.channels / 64) * side * taps)
        sums = torch.empty((groups, *conv.kernel.shape), dtype=plan.sums, device=plan.device)
        launch(tiles.kernel_gradient, lambda meta: (groups, math.ceil(x.channels / meta["BLOCK_K"]) * side, taps), read,
               read, *norm.numbers, gradient, sums, plan.pixels, *plan.size, rows, x.channels // in_align,
               read.stride(0) // in_align, filters // out_align, tiles.bucket(plan.pixels, x.channels),
               TAPS=taps, IN_ALIGN=in_align, OUT_ALIGN=out_align, BLOCK_M=64, BLOCK_N=columns)  # fmt: skip
        return sums.sum(0)

    def complete(self, returned: Returned, out: torch.Tensor) -> None:
        """The gradient of a block's input."""
        self._complete(returned, out, None, None)

    def _complete(
        self, returned: Returned, out: torch.Tensor, key: torch.Tensor | None, sums: torch.Tensor | None
    ) -> None:
        source, maps = returned.source.buffer, returned.maps.buffer
        align = math.gcd(self._alignment(returned.source), self._alignment(returned.maps))
        columns = tiles.columns_of_a_tile(out.shape[1], 64)
        launch(tiles.complete, (self._tiles, math.ceil(out.shape[1] / columns)), out, source, returned.scale, maps,
               returned.c, returned.e, returned.mean, key, out, sums, self.plan.pixels, out.shape[1] // align,
               source.shape[-1] // align, maps.shape[-1] // align, returned.source.first // align, self.plan.factor,
               align, self._dropped, self._rows, columns)  # fmt: skip

    def _partial(self, *shape: int) -> torch.Tensor:
        """Room for a sum of each tile."""
        return torch.empty((self._tiles, *shape), dtype=self.plan.sums, device=self.plan.device)

    def _merged(self, moments: torch.Tensor) -> Statistics:
        count, _, channels = moments.shape
        mean, variance = merged = moments.new_empty((2, channels))
        launch(tiles.merge_moments, (math.ceil(channels / 16),), moments, moments, merged, count, self.plan.pixels,
               channels, self._rows, 64, 16)  # fmt: skip
        return mean, variance

    def _alignment(self, maps: Maps) -> int:
        """One for all layers' slices of a buffer, so that their kernels are compiled once."""
        whole = maps.channels == maps.buffer.shape[-1]
        return tiles.alignment(maps.channels) if whole else tiles.alignment(*self.plan.slices)


def _taps(conv: Convolution) -> int:
    return conv.kernel.shape[0] * conv.kernel.shape[1]
