"""What files of weights are read into, whoever wrote them: layers in order, arrays as Keras keeps them.

Every array is checked here, so that whatever follows may trust its shape, its kind of numbers and that they are finite.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


class Conv(NamedTuple):
    """A convolution.

    Attributes:
        place: where it stands in its file, for messages.
        kernel: (side, side, maps in, maps out).
        bias: (maps out,), if it has one.
    """

    place: str
    kernel: Array
    bias: Array | None

    def __str__(self) -> str:
        height, width, maps_in, maps_out = self.kernel.shape
        bias = "without bias" if self.bias is None else "with bias"
        return f"a {height}×{width} convolution from {maps_in} to {maps_out} maps {bias}"

    @property
    def side(self) -> int:
        """Of its kernel; 0 for one that is not square."""
        return int(self.kernel.shape[0]) if self.kernel.shape[0] == self.kernel.shape[1] else 0

    @property
    def maps_in(self) -> int:
        """Maps that it takes."""
        return int(self.kernel.shape[2])

    @property
    def maps_out(self) -> int:
        """Maps that it gives."""
        return int(self.kernel.shape[3])


class Norm(NamedTuple):
    """A batch normalisation.

    Attributes:
        place: where it stands in its file, for messages.
        gamma, beta, mean, variance: (maps,) each; the last two are the moving statistics.
    """

    place: str
    gamma: Array
    beta: Array
    mean: Array
    variance: Array

    def __str__(self) -> str:
        return f"a batch normalisation of {self.maps} maps"

    @property
    def maps(self) -> int:
        """Maps that it takes and gives."""
        return len(self.gamma)


class Dense(NamedTuple):
    """A classifier.

    Attributes:
        place: where it stands in its file, for messages.
        kernel: (maps, classes).
        bias: (classes,).
    """

    place: str
    kernel: Array
    bias: Array

    def __str__(self) -> str:
        return f"a classifier of {self.kernel.shape[0]} maps into {self.kernel.shape[1]} classes"


Layer = Conv | Norm | Dense


def layer(place: str, arrays: list[Array]) -> Layer:
    """The layer that has these arrays, told by how many they are and by their dimensions.

    Args:
        place: where they stand in their file.
        arrays: in Keras's order and shapes.

    Raises:
        ValueError: if no layer of a DenseNet has such arrays, or they hold what no trained one does.
    """
    for array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(f"{place} holds numbers that are not finite")
    shapes = [array.shape for array in arrays]
    if 0 not in (size for shape in shapes for size in shape):
        match shapes:
            case [(_, _, _, _)]:
                return Conv(place, arrays[0], None)
            case [(_, _, _, maps), (other,)] if maps == other:
                return Conv(place, arrays[0], arrays[1])
            case [(_, classes), (other,)] if classes == other:
                return Dense(place, arrays[0], arrays[1])
            case [(maps,), (_,), (_,), (_,)] if all(shape == (maps,) for shape in shapes):
                if arrays[3].min() < 0:
                    raise ValueError(f"{place} has a variance below 0")
                return Norm(place, *arrays)
    told = ", ".join("×".join(map(str, shape)) or "one number" for shape in shapes)
    raise ValueError(
        f"{place} has arrays of {told}: expected those of a convolution, a batch normalisation or a classifier"
    )
