"""Mean and biased variance of every channel, gathered chunk by chunk while the chunk is in the cache.

Plain sums of x and x² lose the variance when a mean is large. So every chunk is asked for its own mean and variance
(what a batch normalisation layer does, the one kernel of PyTorch that finds both fast, and in 16 bits too), and the
chunks' are merged. `torch.var_mean` over rows would do the same at a twentieth of the speed.
"""

import torch

from densely.kernels.memory import Scratch


class Moments:
    """Means and variances of rows that arrive in chunks.

    Channels are few, and a loop over twelve of them wastes the vector unit. A contiguous chunk of R rows of C is
    therefore read as R/fold rows of fold·C, and the fold copies of a channel are merged with the rest, at the end.

    Args:
        chunks: how many chunks will come.
        channels: C.
        fold: how many rows to read as one; divides the rows of every chunk.
        dtype: what to sum in: float32 or float64.
        device: where.
    """

    def __init__(self, chunks: int, channels: int, fold: int, dtype: torch.dtype, device: torch.device) -> None:
        self.channels, self.fold = channels, fold
        self.means = torch.empty((chunks, fold * channels), dtype=dtype, device=device)
        self.variances = torch.empty_like(self.means)
        self.rows = [0] * chunks
        # Moving statistics that nobody reads: their dtype is how the kernel learns what to sum 16-bit rows in.
        self.unused = self.means.new_zeros(fold * channels), self.means.new_ones(fold * channels)

    def add(self, index: int, rows: torch.Tensor, scratch: Scratch) -> None:
        """Takes in one chunk.

        Args:
            index: the chunk's number, each exactly once.
            rows: (R, C); contiguous if fold > 1.
            scratch: in the dtype to sum in.
        """
        if not rows.is_contiguous():  # the kernel would crawl
            rows = scratch.view(rows.shape).copy_(rows)
        images = rows.view(1, -1, 1, self.fold * self.channels).permute(0, 3, 1, 2)
        mean, variance = torch.batch_norm_update_stats(images, *self.unused, 0.0)
        self.means[index], self.variances[index] = mean, variance
        self.rows[index] = rows.shape[0]

    def mean_and_variance(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance, each (C,), of all `count` rows."""
        share = self.means.new_tensor(self.rows).div_(count * self.fold).view(-1, 1, 1)
        means = self.means.view(-1, self.fold, self.channels)
        # The mean of means relative to the first, so that what is averaged is small and nothing is rounded away.
        mean = (share * (means - means[0, 0])).sum((0, 1)) + means[0, 0]
        within = self.variances.view(means.shape)
        return mean, (share * (within + (means - mean).square())).sum((0, 1))
