"""What the passes of a dense block, and of a transition, ask of an engine: the work on all pixels.

`operators` does it with PyTorch's public operators, on any device and in any dtype; `native` with loops compiled for
this processor, in float32 and bfloat16; `triton` with kernels for GPUs, in the same. `forward.py` and `backward.py`
say what is done, and in what order.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from densely.kernels.normalisation import Normalisation, sent_back
from densely.kernels.plan import Call, LayerParameters

Statistics = tuple[torch.Tensor, torch.Tensor]
"""Mean and biased variance, (C,) each, in the dtype of sums."""


class Convolution(NamedTuple):
    """A convolution of C channels to out."""

    kernel: torch.Tensor
    """(1, 1, C, out) or (3, 3, C, out), any dtype."""
    bias: torch.Tensor | None
    """(out,)."""
    mask: torch.Tensor | None = None
    """Of the dropout behind it, as the engine draws them."""


class Maps(NamedTuple):
    """Some channels of maps of all M pixels, in a tensor that lies as the engine wants it."""

    buffer: torch.Tensor
    first: int
    last: int

    @property
    def channels(self) -> int:
        """How many."""
        return self.last - self.first


class Returned(NamedTuple):
    """The gradient of a convolution's output y, from what its readers send: source·scale + c + e·(y - mean)."""

    maps: Maps
    """y."""
    source: Maps
    """In the dtype of sums."""
    c: torch.Tensor | None = None
    """(out,); without c and e, statistics send nothing back."""
    e: torch.Tensor | None = None
    """(out,)."""
    mean: torch.Tensor | None = None
    """(out,)."""
    scale: torch.Tensor | None = None
    """(out,); None is 1."""


class Place(NamedTuple):
    """Where d goes, the gradient at a normalisation's output behind its ReLU's mask: to = source + s·d, or to = d."""

    source: Maps | None
    to: Maps


class Sums(NamedTuple):
    """What a convolution and the normalisation before it get from all pixels."""

    gamma: torch.Tensor
    """Σ d·x̂, (C,)."""
    beta: torch.Tensor
    """Σ d, (C,)."""
    kernel: torch.Tensor
    """Of the kernel's shape."""
    bias: torch.Tensor | None
    """(out,) if there is a bias."""


def returned_through(call: Call, norm: Normalisation, maps: Maps, d: Maps, sums: Sums) -> Returned:
    """The gradient of maps that one normalisation alone reads, from d, at its output, and the sums that it got."""
    returned = Returned(maps, d, scale=norm.scale)
    if norm.by_batch:
        c, e = sent_back(norm, sums.beta, sums.gamma, call.pixels, call.replicas)
        returned = returned._replace(c=c, e=e, mean=norm.mean)
    return returned


class Engine(Protocol):
    """The passes over all M pixels of a block. `x` are an operation's inputs, the first channels of some maps."""

    def maps(self, channels: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Room for (M, channels), in the maps' dtype unless told."""
        ...

    def mask(self, channels: int, out: torch.Tensor | None) -> torch.Tensor:
        """Draws dropout's mask for (M, channels), into an earlier one of that size if given."""
        ...

    def take_in(self, x: torch.Tensor, out: Maps, statistics: bool) -> Statistics | None:
        """Copies the block's input (N, H, W, C0), any strides, and finds its statistics if wanted."""
        ...

    def give_out(self, buffer: torch.Tensor) -> torch.Tensor:
        """All maps of a block as its output, (N, H, W, C0 + L·k)."""
        ...

    def take_gradient(self, gradient: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
        """The output's gradient, any strides, in the dtype of sums, as maps: in G or elsewhere."""
        ...

    def pointwise(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """out = dropout(1×1 convolution(norm(x))), all channels of some maps, and its statistics if wanted."""
        ...

    def spatial(
        self, x: Maps, norm: Normalisation, conv: Convolution, out: Maps, statistics: bool
    ) -> Statistics | None:
        """out = dropout(3×3 convolution(norm(x))), and its statistics if wanted."""
        ...

    def inference(self, x: torch.Tensor, layers: Sequence[LayerParameters]) -> torch.Tensor:
        """The whole block by moving statistics, without dropout and with nothing kept."""
        ...

    def pointwise_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """`pointwise` backward."""
        ...

    def spatial_backward(
        self, x: Maps, norm: Normalisation, conv: Convolution, returned: Returned, place: Place
    ) -> Sums:
        """`spatial` backward."""
        ...

    def complete(self, returned: Returned, out: torch.Tensor) -> None:
        """out = ∂y, (M, C) contiguous, in the maps' dtype."""
        ...


class TransitionEngine(Protocol):
    """The two passes of a transition, each by an engine of its own.

    All are made of x, (N, H, W, C), contiguous; the plan; and the convolution, without a mask.
    """

    def statistics(self) -> Statistics:
        """Of x."""
        ...

    def forward(self, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output (N, ⌊H/2⌋, ⌊W/2⌋, out) and dropout's mask, as the engine draws it."""
        ...

    def backward(
        self, gradient: torch.Tensor, norm: Normalisation, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sums]:
        """The gradient of x, (N, H, W, C), from that of the output, contiguous; and what the parameters get."""
        ...
