"""What the passes of a dense block, and of a transition, need to know: shapes, dtypes, options, chunks of pixels."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal, NamedTuple

import torch

from densely.kernels import dropout
from densely.kernels.memory import Scratch, empty
from densely.kernels.replicas import Replicas

EngineName = Literal["operators", "native", "triton"]

Seed = int | torch.Generator | torch.Tensor | None
"""Of dropout, see `dense_block`."""

# Bytes of one operand's chunk, as if it were in the dtype of sums. Measured on two cores with 2 MiB of second-level
# cache each: half as much is slower (more calls), twice as much no faster.
_CPU_CHUNK = 1 << 21
_OTHER_CHUNK = 1 << 26  # a GPU wants few, large launches


class LayerParameters(NamedTuple):
    """One layer's parameters; C channels come in, k go out.

    A plain layer is BN, ReLU, 3×3 convolution, dropout, and has only the first four. A bottleneck layer is BN,
    ReLU, 1×1 convolution to b channels, dropout, BN, ReLU, 3×3 convolution to k, dropout. Any floating dtype;
    gradients come in the parameter's own.
    """

    gamma1: torch.Tensor
    """(C,)."""
    beta1: torch.Tensor
    """(C,)."""
    kernel1: torch.Tensor
    """(3, 3, C, k), or with a bottleneck (1, 1, C, b)."""
    bias1: torch.Tensor | None = None
    """(k,), or with a bottleneck (b,)."""
    gamma2: torch.Tensor | None = None
    """(b,), with a bottleneck, as are `beta2` and `kernel2`."""
    beta2: torch.Tensor | None = None
    """(b,)."""
    kernel2: torch.Tensor | None = None
    """(3, 3, b, k)."""
    bias2: torch.Tensor | None = None
    """(k,)."""


class RunningStatistics(NamedTuple):
    """One layer's moving means and variances, written in place by a training forward pass unless frozen."""

    mean1: torch.Tensor
    """(C,)."""
    variance1: torch.Tensor
    """(C,)."""
    mean2: torch.Tensor | None = None
    """(b,) with a bottleneck, as is `variance2`."""
    variance2: torch.Tensor | None = None
    """(b,)."""
    frozen1: bool = False
    """Whether the first BN normalises by its moving statistics in training too, and leaves them alone: what Keras does
    after `trainable = False`."""
    frozen2: bool = False
    """The same for the second."""


class Options(NamedTuple):
    """What a block and a transition are told alike, besides tensors: the arguments that `dense_block` explains."""

    training: bool
    momentum: float
    epsilon: float
    dropout: float
    seed: Seed
    replicas: Replicas | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Everything about one call but the tensors to differentiate, as far as a block and a transition have it alike."""

    images: int
    size: tuple[int, int]
    """(H, W)."""
    dtype: torch.dtype
    """Of maps and products."""
    sums: torch.dtype
    """Of statistics and gradients: float32, or float64 for float64 maps."""
    device: torch.device
    training: bool
    momentum: float
    epsilon: float
    rate: float
    """Of dropout; 0 when it is off."""
    generator: torch.Generator | None
    seed: torch.Tensor | None
    """Of dropout, on the device, in place of a generator; Triton's kernels alone have one."""
    engine: EngineName
    """Who does it."""
    replicas: Replicas | None
    """The processes whose images are normalised together; None for this one's alone."""

    @property
    def pixels(self) -> int:
        """M = N·H·W."""
        return self.images * math.prod(self.size)

    @property
    def factor(self) -> float:
        """What dropout multiplies the elements by that it keeps."""
        return dropout.scale(self.rate)

    def chunk_rows(self, channels: int) -> int:
        """How many rows of so many channels a chunk may have, at least one."""
        budget = _CPU_CHUNK if self.device.type == "cpu" else _OTHER_CHUNK
        return max(1, budget // (channels * self.sums.itemsize))

    def empty(self, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
        """An uninitialised tensor on the maps' device, in their dtype unless told."""
        return empty(shape, dtype or self.dtype, self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(Call):
    """One call of a dense block."""

    start: int
    """C0."""
    growth: int
    """k."""
    bottleneck: int
    """b, or 0 for plain layers."""
    statistics: tuple[RunningStatistics, ...]

    @property
    def depth(self) -> int:
        """L."""
        return len(self.statistics)

    @property
    def masks(self) -> int:
        """How many of dropout's masks there are in all."""
        return self.depth * (2 if self.bottleneck else 1)

    @property
    def slices(self) -> tuple[int, ...]:
        """Counts of channels that all slices of the maps begin and end at sums of."""
        return self.start, self.growth

    @property
    def width(self) -> int:
        """Channels that go out."""
        return self.channels(self.depth)

    def channels(self, layer: int) -> int:
        """Channels that come into a layer."""
        return self.start + layer * self.growth

    def by_batch(self, layer: int, which: int) -> bool:
        """Whether a layer's first or second BN normalises by the batch."""
        statistics = self.statistics[layer]
        return self.training and not (statistics.frozen1 if which == 1 else statistics.frozen2)

    @property
    def asked(self) -> bool:
        """Whether all goes by moving statistics and nothing is dropped."""
        which = (1, 2) if self.bottleneck else (1,)
        return not self.rate and not any(self.by_batch(i, n) for i in range(self.depth) for n in which)

    def fold(self, channels: int) -> int:
        """How many rows of so few channels to read as one: a power of two ≤ 64 that divides every chunk."""
        fold, pixels = 1, math.prod(self.size)
        while pixels % (2 * fold) == 0 and 2 * fold <= 64 and 2 * fold * channels <= 256:
            fold *= 2
        return fold

    def row_step(self, channels: int) -> int:
        """Rows of a chunk, 64 or a multiple, for work that does not look at a pixel's neighbours."""
        return min(self.pixels, max(64, self.chunk_rows(channels) // 64 * 64))

    def image_step(self, channels: int) -> int:
        """Rows of a chunk that holds whole images, at least one."""
        pixels = math.prod(self.size)
        return pixels * min(self.images, max(1, self.chunk_rows(channels) // pixels))

    def spatial_step(self, channels: int) -> int:
        """Rows of a chunk of whole images for a 3×3 convolution of so many channels to k."""
        return self.image_step(max(channels, self.growth))

    def chunks(self, step: int, *tensors: torch.Tensor | None) -> Iterator[tuple[Any, ...]]:
        """Tensors of M rows cut into chunks: (chunk number, a chunk of each tensor or None where there is none)."""
        count = self.count(step)
        # One split is far cheaper than a slice for every chunk.
        pieces = [repeat(None, count) if tensor is None else torch.split(tensor, step) for tensor in tensors]
        return zip(range(count), *pieces, strict=True)

    def count(self, step: int) -> int:
        """How many chunks there are."""
        return -(-self.pixels // step)

    def scratch(self, dtype: torch.dtype | None = None) -> Scratch:
        """Room for the largest operand of any chunk, in the maps' dtype unless told."""
        return Scratch(self.scratch_elements(), dtype or self.dtype, self.device)

    def scratch_elements(self) -> int:
        """Elements of the largest operand of any chunk."""
        asked, most = self.asked, self.row_step(self.start) * self.start
        for channels in map(self.channels, range(self.depth)):
            spatial = self.bottleneck or channels
            most = max(most, self.spatial_step(spatial) * max(spatial, self.growth))
            if self.bottleneck:
                most = max(most, self.row_step(channels) * max(channels, self.bottleneck))
                if asked:  # whole images go through the layer at once
                    most = max(most, self.image_step(channels) * channels)
        return most


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitionPlan(Call):
    """One call of a transition."""

    channels: int
    """C."""
    filters: int
    """Channels that go out."""
    statistics: RunningStatistics

    @property
    def masks(self) -> int:
        """How many of dropout's masks there are in all."""
        return 1

    @property
    def slices(self) -> tuple[int, ...]:
        """Counts of channels that all slices of the maps begin and end at sums of."""
        return self.channels, self.filters

    @property
    def by_batch(self) -> bool:
        """Whether it normalises by the batch."""
        return self.training and not self.statistics.frozen1


def in_autocast(x: torch.Tensor) -> torch.Tensor:
    """Maps in the dtype that they are computed in: autocast's where it is on, as of a convolution."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


def dropout_source(
    seed: Seed, device: torch.device, engine: EngineName
) -> tuple[torch.Generator | None, torch.Tensor | None]:
    """The generator that a seed stands for (None is PyTorch's default one), or the seed where an engine leaves it."""
    if isinstance(seed, torch.Tensor):
        if engine == "triton":
            return None, seed
        seed = int(dropout.keys(seed, 1)[0, 0])
    return torch.Generator(device).manual_seed(seed) if isinstance(seed, int) else seed, None


def make_plan(
    x: torch.Tensor,
    layers: Sequence[LayerParameters],
    statistics: Sequence[RunningStatistics],
    options: Options,
    engine: EngineName,
) -> Plan:
    """Checks what `dense_block` was given, and puts it in order.

    Raises:
        ValueError: says what does not fit.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"A dense block takes floating-point images (N, H, W, C), not {tuple(x.shape)} of {x.dtype}.")
    if x.numel() == 0:
        raise ValueError(f"A dense block needs at least one pixel and one channel, but x is {tuple(x.shape)}.")
    if not layers or len(layers) != len(statistics):
        raise ValueError(
            f"A dense block needs statistics for each of its layers, ≥ 1: {len(layers)}, {len(statistics)}."
        )
    shared = _shared(x, options, engine)
    growth = (layers[0].kernel1 if layers[0].kernel2 is None else layers[0].kernel2).shape[-1]
    bottleneck = 0 if layers[0].kernel2 is None else layers[0].kernel1.shape[-1]
    start = x.shape[3]
    for index, (layer, running) in enumerate(zip(layers, statistics, strict=True)):
        _check_layer(index, layer, running, start + index * growth, growth, bottleneck)
    return Plan(**shared, start=start, growth=growth, bottleneck=bottleneck, statistics=tuple(statistics))


def make_transition_plan(
    x: torch.Tensor,
    layer: LayerParameters,
    statistics: RunningStatistics,
    options: Options,
    engine: EngineName,
) -> TransitionPlan:
    """Checks what `transition` was given, and puts it in order.

    Raises:
        ValueError: says what does not fit.
    """
    channels = x.shape[-1]
    if x.ndim != 4 or min(x.shape[1:3]) < 2 or x.numel() == 0:
        raise ValueError(f"A transition takes images (N, H, W, C) of at least 2 by 2 pixels, not {tuple(x.shape)}.")
    if layer.kernel1.shape[:3] != (1, 1, channels) or layer.kernel2 is not None:
        raise ValueError(f"A transition of {channels} channels has one 1×1 kernel, not {tuple(layer.kernel1.shape)}.")
    shared = _shared(x, options, engine)
    return TransitionPlan(**shared, channels=channels, filters=layer.kernel1.shape[3], statistics=statistics)


def _shared(x: torch.Tensor, options: Options, engine: EngineName) -> dict[str, Any]:
    """The fields of `Call`."""
    rate = options.dropout
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"The dropout rate must be at least 0 and below 1, not {rate}.")
    active = options.training and rate > 0.0
    generator, on_device = dropout_source(options.seed, x.device, engine) if active else (None, None)
    return {
        "images": x.shape[0],
        "size": (x.shape[1], x.shape[2]),
        "dtype": x.dtype,
        "sums": torch.float64 if x.dtype == torch.float64 else torch.float32,
        "device": x.device,
        "training": options.training,
        "momentum": options.momentum,
        "epsilon": options.epsilon,
        "rate": rate if active else 0.0,
        "generator": generator,
        "seed": on_device,
        "engine": engine,
        "replicas": options.replicas,
    }


def _check_layer(
    index: int, layer: LayerParameters, running: RunningStatistics, channels: int, growth: int, bottleneck: int
) -> None:
    first = (1, 1, channels, bottleneck) if bottleneck else (3, 3, channels, growth)
    expected: dict[str, tuple[int, ...]] = {
        "gamma1": (channels,), "beta1": (channels,), "mean1": (channels,), "variance1": (channels,), "kernel1": first,
        "bias1": first[3:],
    }  # fmt: skip
    if bottleneck:
        expected |= dict.fromkeys(("gamma2", "beta2", "mean2", "variance2"), (bottleneck,))
        expected |= {"kernel2": (3, 3, bottleneck, growth), "bias2": (growth,)}
    given = {**layer._asdict(), **running._asdict()}
    for name, value in given.items():
        if not isinstance(value, torch.Tensor | None):
            continue
        shape = None if value is None else tuple(value.shape)
        if shape != expected.get(name) and not (shape is None and name.startswith("bias")):
            raise ValueError(
                f"Layer {index} of the dense block: {name} is {shape}, expected {expected.get(name)} "
                f"({channels} channels in, growth {growth}, bottleneck {bottleneck or 'none'})."
            )
