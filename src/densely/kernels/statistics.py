"""Mean and biased variance of every channel, gathered chunk by chunk while the chunk is in the cache.

Plain sums of x and x² lose the variance when a mean is large, so everything is shifted by a rough mean first: that of
the first chunk. `torch.var_mean` over rows would do the same at a twentieth of the speed.
"""

import torch

from densely.kernels.memory import Scratch
from densely.kernels.rows import cast


class Moments:
    """Shifted sums of rows that arrive in chunks.

    Channels are few, and a loop over twelve of them wastes the vector unit. A contiguous chunk of R rows of C is
    therefore read as R/fold rows of fold·C, and the fold copies of a channel are added up once, at the end.

    Args:
        chunks: how many chunks will come.
        channels: C.
        fold: how many rows to read as one; divides the rows of every chunk.
        dtype: what to sum in: float32 or float64.
        device: where.
    """

    def __init__(self, chunks: int, channels: int, fold: int, dtype: torch.dtype, device: torch.device) -> None:
        self.channels, self.fold = channels, fold
        self.sums = torch.empty((chunks, fold * channels), dtype=dtype, device=device)
        self.squares = torch.empty_like(self.sums)
        self.shift = self.wide_shift = torch.empty(0)

    def add(self, index: int, rows: torch.Tensor, scratch: Scratch) -> None:
        """Takes in one chunk.

        Args:
            index: the chunk's number, each exactly once, 0 first.
            rows: (R, C); contiguous if fold > 1.
            scratch: in the dtype to sum in.
        """
        wide = rows if self.fold == 1 else rows.view(-1, self.fold * self.channels)
        source = cast(wide, scratch)  # an operator on two dtypes would take PyTorch's slow path; a copy does not
        centred = scratch.view(wide.shape)
        if index == 0:
            self.shift = source.sum(0).view(self.fold, self.channels).sum(0).div_(rows.shape[0])
            self.wide_shift = self.shift.repeat(self.fold)
        torch.sub(source, self.wide_shift, out=centred)
        torch.sum(centred, 0, out=self.sums[index])
        torch.mul(centred, centred, out=centred)
        torch.sum(centred, 0, out=self.squares[index])

    def mean_and_variance(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance, each (C,), of all `count` rows."""
        offset = self._total(self.sums).div_(count)
        variance = self._total(self.squares).div_(count).sub_(offset * offset).clamp_min_(0)
        return offset + self.shift, variance

    def _total(self, sums: torch.Tensor) -> torch.Tensor:
        return sums.sum(0).view(self.fold, self.channels).sum(0)
