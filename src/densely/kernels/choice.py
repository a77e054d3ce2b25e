"""Which engine does the work of a call."""

import torch

from densely.kernels import native, triton
from densely.kernels.plan import EngineName


def chosen(x: torch.Tensor) -> EngineName:
    """The fastest that can take such maps, here and now; builds the compiled loops if need be."""
    if triton.usable(x):
        return "triton"
    return "native" if native.usable(x) else "operators"
