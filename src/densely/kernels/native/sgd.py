"""A step of SGD by the compiled loops: each number read and written once."""

from collections.abc import Iterable, Sequence

import torch

from densely.kernels.native.library import call, in_use


def takes(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether such tensors can be moved by loops that run already; none are compiled for this."""
    return in_use() is not None and all(
        t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors
    )


def sgd(
    weights: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    velocity: Sequence[torch.Tensor] | None,
    rate: float,
    momentum: float,
    decay: float,
    nesterov: bool,
) -> None:
    """As `densely.kernels.sgd.update`, on tensors that it `takes`."""
    dtype = in_use()
    assert dtype is not None
    moving: Sequence[torch.Tensor | None] = velocity or [None] * len(weights)
    table = [
        (w.data_ptr(), g.data_ptr(), 0 if v is None else v.data_ptr(), w.numel())
        for w, g, v in zip(weights, gradients, moving, strict=True)
    ]
    call(
        "sgd",
        dtype,
        len(table),
        torch.tensor(table, device="cpu"),
        float(rate),
        float(momentum),
        float(decay),
        int(nesterov),
    )
    torch.autograd.graph.increment_version([*weights, *(velocity or ())])
