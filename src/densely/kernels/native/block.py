"""A dense block's passes over all pixels by the compiled loops."""

from collections.abc import Sequence
from typing import Any

import torch

from densely.kernels import dropout
from densely.kernels.engine import Convolution, Maps, Place, Returned, Statistics, Sums
from densely.kernels.memory import empty
from densely.kernels.native.library import addresses, call, room, slab
from densely.kernels.normalisation import Normalisation, plain
from densely.kernels.plan import LayerParameters, Plan


def bytes_of(elements: int) -> int:
    """That the loops write for a mask of so many elements, a bit each; they run over its end."""
    return elements // 8 + 9


def draw_bits(elements: int, rate: float, generator: torch.Generator | None, out: torch.Tensor | None) -> torch.Tensor:
    """Dropout's mask, a bit an element, of the same elements as `dropout.draw`'s."""
    bits = empty((bytes_of(elements),), torch.uint8, torch.device("cpu")) if out is None else out
    first, second = dropout.new_key(generator)
    call("draw", torch.float32, elements, first, second, dropout.threshold(rate), bits)
    return bits


def parameters(conv: Convolution, factor: float) -> tuple[Any, ...]:
    """A convolution as the loops take it, with the scale of the dropout behind it."""
    bias = None if conv.bias is None else plain(conv.bias, torch.float32)
    return plain(conv.kernel, torch.float32), bias, factor, conv.mask


def gradients(conv: Convolution) -> Sums:
    """Where the loops put the gradients of a convolution and of the normalisation before it."""
    channels = conv.kernel.shape[2]
    bias = None if conv.bias is None else room(conv.kernel.shape[3])
    return Sums(room(channels), room(channels), room(*conv.kernel.shape), bias)


def lying(plan: Plan, channels: int) -> tuple[int, int, int]:
    """The shape of maps in slabs."""
    width = slab(plan.dtype)
    return -(-channels // width), plan.pixels, width


def given(plan: Plan, parameters: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Each layer's parameters, which come in a row, and moving statistics, in the order of `Given`."""
    fields = len(LayerParameters._fields)
    return [
        None if t is None else plain(t, torch.float32)
        for index, running in enumerate(plan.statistics)
        for t in (*parameters[index * fields : (index + 1) * fields], *running[:4])
    ]


class NativeEngine:
    """The passes of one call, see `engine.Engine`; how maps lie, says `source/maps.h`.

    Args:
        plan: shapes, dtypes and options.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.dtype = plan, plan.dtype

    def maps(self, channels: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """In slabs."""
        return self.plan.empty(lying(self.plan, channels), dtype)

    def mask(self, channels: int, out: torch.Tensor | None) -> torch.Tensor:
        """Bits."""
        return draw_bits(self.plan.pixels * channels, self.plan.rate, self.plan.generator, out)

    def take_in(self, x: torch.Tensor, out: Maps, statistics: bool) -> Statistics | None:
        """Into slabs."""
        found = _Found(out.channels if statistics else 0)
        call("take_in", self.dtype, self.plan.pixels, out.channels, x.contiguous(), out.buffer, *found.pointers)
        return found.statistics

    def give_out(self, buffer: torch.Tensor) -> torch.Tensor:
        """Out of slabs."""
        plan = self.plan
        output = plan.empty((plan.images, *plan.size, plan.width))
        call("give_out", self.dtype, plan.pixels, plan.width, buffer, output)
        return output

    def take_gradient(self, gradient: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        """Into G."""
        call("take_gradient", self.dtype, self.plan.pixels, self.plan.width, gradient.contiguous(), G)
        return G

    def pointwise(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """A 1×1 convolution forward."""
        found = _Found(out.channels if statistics else 0)
        call("pointwise_forward", self.dtype, self.plan.pixels, x.channels, out.channels, x.buffer, *norm.numbers,
             *parameters(conv, self.plan.factor), out.buffer, *found.pointers)  # fmt: skip
        return found.statistics

    def spatial(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """A 3×3 convolution forward."""
        found = _Found(out.channels if statistics else 0)
        call("spatial_forward", self.dtype, *self._shape, x.channels, out.first, out.channels, x.buffer, *norm.numbers,
             *parameters(conv, self.plan.factor), out.buffer, *found.pointers)  # fmt: skip
        return found.statistics

    def inference(self, x: torch.Tensor, layers: Sequence[LayerParameters]) -> torch.Tensor:
        """An image at a time through all layers."""
        plan = self.plan
        numbers = given(plan, [t for layer in layers for t in layer])
        output = plan.empty((plan.images, *plan.size, plan.width))
        call("block_inference", self.dtype, *self._shape, plan.start, plan.growth, plan.bottleneck, plan.depth,
             addresses(numbers), float(plan.epsilon), x.contiguous(), output)  # fmt: skip
        return output

    def pointwise_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """A 1×1 convolution backward."""
        sums, maps = gradients(conv), None if returned.c is None else returned.maps.buffer
        call("pointwise_backward", self.dtype, self.plan.pixels, x.channels, conv.kernel.shape[3], x.buffer,
             *norm.numbers, *parameters(conv, self.plan.factor), returned.source.buffer, returned.scale, maps,
             returned.c, returned.e, returned.mean, place.to.buffer, *sums)  # fmt: skip
        return sums

    def spatial_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """A 3×3 convolution backward."""
        sums, new = gradients(conv), returned.maps
        call("spatial_backward", self.dtype, *self._shape, x.channels, new.first, new.channels, x.buffer,
             *norm.numbers, *parameters(conv, self.plan.factor), new.buffer, returned.source.buffer, returned.c,
             returned.e, returned.mean, int(place.source is not None), place.to.buffer, *sums)  # fmt: skip
        return sums

    def complete(self, returned: Returned, out: torch.Tensor) -> None:
        """Out of slabs."""
        call("complete", self.dtype, *out.shape, returned.maps.buffer, returned.source.buffer, returned.c, returned.e,
             returned.mean, out)  # fmt: skip

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.plan.images, *self.plan.size


class _Found:
    """Where statistics are put, of no channels if they are not wanted."""

    def __init__(self, channels: int) -> None:
        self.statistics = (room(channels), room(channels)) if channels else None
        self.pointers = self.statistics or (None, None)
