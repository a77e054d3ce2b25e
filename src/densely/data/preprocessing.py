"""Pixels into what a network sees, and back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from densely.data.dataset import Images, chunks, remembered
from densely.errors import DataError, UsageError, reason, unknown

Kind = Literal["unit", "standardise"]


@dataclass(frozen=True)
class Preprocessing:
    """Pixels 0..255 into what the network sees; belongs to a trained model as much as its weights do.

    Attributes:
        kind: `"unit"` divides by 255; `"standardise"` then subtracts the mean and divides by the standard deviation
            of each channel.
        mean, std: per channel, in units of [0, 1] pixels. All 0 and all 1 for `"unit"`.

    Raises:
        UsageError: `kind` is unknown.
        DataError: mean and std are not finite numbers of equal count with positive std.
    """

    kind: Kind
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the fields and make them plain floats."""
        if self.kind not in get_args(Kind):
            raise unknown("preprocessing", str(self.kind), get_args(Kind))
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        finite = np.isfinite((*self.mean, *self.std)).all()
        if not self.mean or len(self.mean) != len(self.std) or not finite or min(self.std) <= 0:
            raise DataError(
                f"The preprocessing has mean {self.mean} and std {self.std}: they must be finite, one per channel,"
                " std above 0."
            )

    @classmethod
    def fit(cls, images: Images, kind: Kind) -> "Preprocessing":
        """The preprocessing that suits `images` (uint8, (n, h, w, c)): give it training images only.

        Exact to float64 and in bounded memory, however many images there are. A channel that never varies gets a
        standard deviation of 1.
        """
        channels = images.shape[3]
        if kind != "standardise":
            return cls(kind, (0.0,) * channels, (1.0,) * channels)
        # A byte has 256 values: counting them is exact, while summing squares would round.
        counts = np.array(remembered(images, "levels", lambda: _levels(images).tolist()), dtype=np.int64)
        levels = np.arange(256) / 255
        share = counts / counts.sum(axis=1, keepdims=True)
        mean = share @ levels
        std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
        varies = np.count_nonzero(counts, axis=1) > 1
        return cls(kind, tuple(mean.tolist()), tuple(np.where(varies, std, 1.0).tolist()))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Float32 of the same shape (..., c), for a batch or one image.

        Raises:
            UsageError: the images are not uint8 or have another number of channels.
        """
        if images.dtype != np.uint8 or images.shape[-1] != len(self.mean):
            raise UsageError(
                f"Images of type {images.dtype} and shape {images.shape} do not fit a preprocessing for uint8 with"
                f" {len(self.mean)} channels."
            )
        pixels = np.divide(images, np.float32(255), dtype=np.float32)
        if self.kind == "standardise":
            pixels -= np.array(self.mean, dtype=np.float32)
            pixels /= np.array(self.std, dtype=np.float32)
        return pixels

    def undo(self, pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Uint8 of the same shape (..., c) from preprocessed images, for the eye: rounded, and cut to 0..255."""
        unit = pixels * np.array(self.std, dtype=np.float32) + np.array(self.mean, dtype=np.float32)
        return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The preprocessing that `as_dict` wrote.

        Raises:
            DataError: a field is missing, unknown or not of its type.
        """
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise DataError(f"The preprocessing cannot be read ({reason(error)}): write it again.") from error


def _levels(images: Images) -> NDArray[np.int64]:
    """How often each of the 256 values is there in each channel, (c, 256)."""
    counts = np.zeros((images.shape[3], 256), dtype=np.int64)
    for chunk in chunks(images):
        for channel, of_channel in enumerate(counts):
            of_channel += np.bincount(chunk[..., channel].ravel(), minlength=256)
    return counts
