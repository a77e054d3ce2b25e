"""Which DenseNet layers in order belong to, from their shapes alone: names in a file promise nothing.

The shapes leave no choice. A network with bottlenecks begins its first block with a 1×1 convolution, one without them
with a 3×3; in the first, a 1×1 convolution before a 3×3 is a bottleneck and any other a transition, in the second every
1×1 convolution is a transition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from densely.conversion.layers import Array, Conv, Dense, Layer, Norm

BOTTLENECK_WIDTH = 4
"""Maps of a bottleneck, in growth rates."""


class Structure(NamedTuple):
    """A network that was recognised.

    Attributes:
        fields: of `NetworkSpec`, as far as shapes tell them.
        channels: of the images.
        arrays: by the names of the network's Keras variables.
    """

    fields: dict[str, Any]
    channels: int
    arrays: dict[str, Array]


def recognise(layers: Sequence[Layer]) -> Structure:
    """The network whose layers these are.

    Raises:
        ValueError: at the first place where they part from a DenseNet, with what was expected and what was found.
    """
    return _Reader(layers).read()


class _Reader:
    """Goes through the layers once, and gives each its name in our network."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.at = 0
        self.arrays: dict[str, Array] = {}
        self.use_bias = False

    def read(self) -> Structure:
        stem = self._conv((3, 7), None)
        self.use_bias = stem.bias is not None
        self._keep("stem_conv", stem)
        maps = stem.maps_out
        if stem.side == 7:
            self._keep("stem_norm", self._norm(maps))
        bottleneck = self._side_ahead() == 1

        blocks, growth_rate = [0], 0
        shrinks: list[tuple[Conv, float]] = []
        while len(self.layers) - self.at > 2:
            name = f"dense_block_{len(blocks)}/layer_{blocks[-1] + 1}"
            norm, conv = self._norm(maps), self._conv((1,) if bottleneck else (1, 3), maps)
            grows = conv.side == 3 or (bottleneck and self._side_ahead() == 3)
            if not grows:
                if not blocks[-1]:
                    self._wrong("a dense block", f"{conv}, a transition with no layer before it", conv.place)
                self._keep(f"transition_{len(blocks)}/compress/norm", norm)
                self._keep(f"transition_{len(blocks)}/compress/conv", conv)
                shrinks.append((conv, self._shrunk(shrinks, conv)))
                maps = conv.maps_out
                blocks.append(0)
                continue
            if bottleneck:
                self._keep(f"{name}_bottleneck/norm", norm)
                self._keep(f"{name}_bottleneck/conv", conv)
                width = conv
                norm, conv = self._norm(width.maps_out), self._conv((3,), width.maps_out)
                if width.maps_out != BOTTLENECK_WIDTH * conv.maps_out:
                    wanted = f"a bottleneck of {BOTTLENECK_WIDTH} × {conv.maps_out} maps"
                    self._wrong(wanted, str(width), width.place)
            growth_rate = growth_rate or conv.maps_out
            if conv.maps_out != growth_rate:
                self._wrong(f"{growth_rate} new maps as in the layers before", str(conv), conv.place)
            self._keep(f"{name}/norm", norm)
            self._keep(f"{name}/conv", conv)
            maps += growth_rate
            blocks[-1] += 1

        if not blocks[-1]:
            self._wrong("a layer of a dense block", *self._here())
        self._keep("final_norm", self._norm(maps))
        classes = self._dense(maps)
        fields = {
            "depth": None,
            "blocks": None,
            "layers": tuple(blocks),
            "growth_rate": growth_rate,
            "stem": "cifar" if stem.side == 3 else "imagenet",
            "stem_filters": stem.maps_out,
            "bottleneck": bottleneck,
            "compression": shrinks[-1][1] if shrinks else 1.0,
            "use_bias": self.use_bias,
            "classes": classes,
        }
        return Structure(fields, stem.maps_in, self.arrays)

    def _norm(self, maps: int) -> Norm:
        found, place = self._next()
        if not isinstance(found, Norm) or found.maps != maps:
            self._wrong(f"a batch normalisation of {maps} maps", *self._told(found, place))
        return found

    def _conv(self, sides: tuple[int, ...], maps: int | None) -> Conv:
        found, place = self._next()
        # The stem says whether convolutions have a bias; all others do as it does.
        biased = maps is not None and isinstance(found, Conv) and (found.bias is not None) != self.use_bias
        if not isinstance(found, Conv) or found.side not in sides or maps not in (None, found.maps_in) or biased:
            kinds = " or ".join(f"{side}×{side}" for side in sides)
            source = "" if maps is None else f" of {maps} maps {'with' if self.use_bias else 'without'} bias"
            self._wrong(f"a {kinds} convolution{source}", *self._told(found, place))
        return found

    def _dense(self, maps: int) -> int:
        found, place = self._next()
        if not isinstance(found, Dense) or found.kernel.shape[0] != maps:
            self._wrong(f"a classifier of {maps} maps", *self._told(found, place))
        self.arrays |= {"logits/kernel": found.kernel, "logits/bias": found.bias}
        return int(found.kernel.shape[1])

    def _shrunk(self, before: list[tuple[Conv, float]], conv: Conv) -> float:
        """θ that gives this transition its maps and all before it theirs."""
        transitions = [(c.maps_in, c.maps_out) for c, _ in before] + [(conv.maps_in, conv.maps_out)]
        middle = sum((max(f / c for c, f in transitions), min((f + 1) / c for c, f in transitions))) / 2
        # What people write first: 1, a half, tenths, hundredths; else anything that gives the same maps is the same.
        for theta in (1.0, 0.5, *(i / 10 for i in range(1, 10)), *(i / 100 for i in range(1, 100)), middle):
            if theta <= 1 and all(int(c * theta) == f for c, f in transitions):
                return theta
        wanted = f"a transition to at most {conv.maps_in} maps"
        if before and conv.maps_out <= conv.maps_in:
            share = before[-1][1]
            wanted = f"a transition to {int(conv.maps_in * share)} maps, a share of {share:g} as before"
        return self._wrong(wanted, str(conv), conv.place)

    def _keep(self, name: str, found: Conv | Norm) -> None:
        if isinstance(found, Norm):
            parts = {"gamma": found.gamma, "beta": found.beta}
            parts |= {"moving_mean": found.mean, "moving_variance": found.variance}
        else:
            parts = {"kernel": found.kernel} | ({} if found.bias is None else {"bias": found.bias})
        self.arrays |= {f"{name}/{part}": array for part, array in parts.items()}

    def _side_ahead(self) -> int:
        """Of the convolution after the normalisation that comes next; 0 if there is none."""
        ahead = self.layers[self.at + 1] if self.at + 1 < len(self.layers) else None
        return ahead.side if isinstance(ahead, Conv) else 0

    def _next(self) -> tuple[Layer | None, str]:
        found = self.layers[self.at] if self.at < len(self.layers) else None
        self.at += 1
        return found, found.place if found is not None else "the end"

    def _here(self) -> tuple[str, str]:
        found, place = self._next()
        return self._told(found, place)

    @staticmethod
    def _told(found: Layer | None, place: str) -> tuple[str, str]:
        return ("nothing more" if found is None else str(found)), place

    @staticmethod
    def _wrong(expected: str, found: str, place: str) -> NoReturn:
        raise ValueError(f"at {place}, expected {expected}, found {found}")
