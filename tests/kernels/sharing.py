"""A process of two that share a batch, run by `test_replicas.py` with its rank and the file in which they meet.

Each of them runs a block and a transition on its part; the first compares what both made with a textbook program that
has the whole batch.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from kernels.textbook import TextbookBlock, parameters_of, statistics_of
from torch import nn

from densely.kernels import LayerParameters, RunningStatistics, dense_block, transition
from densely.kernels.replicas import Replicas

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}


def same(what: str, ours: torch.Tensor, theirs: torch.Tensor, scale: float = 1.0) -> None:
    largest = max(theirs.abs().max().item(), 1e-3, scale)
    difference = (ours.double() - theirs.double()).abs().max().item()
    assert difference <= TOLERANCE[ours.dtype] * largest, f"{what}: {difference} of {largest}"


def check(
    parts: tuple[int, int],
    x: torch.Tensor,
    reference: nn.Module,
    parameters: list[torch.Tensor],
    run: Callable[[torch.Tensor, Replicas], torch.Tensor],
    statistics: Callable[[], list[torch.Tensor]],
) -> None:
    """Forward and backward on a part, against the whole batch."""
    rank = dist.get_rank()
    whole = sum(parts)
    first, last = (0, parts[0]) if rank == 0 else (parts[0], whole)
    # Who has no image of its own takes part with another's, and a share of 0.
    own = x[first:last] if first < last else x[:1]
    own = own.detach().clone().requires_grad_()
    theirs_x = x.double().permute(0, 3, 1, 2).detach().requires_grad_()
    theirs = reference(theirs_x)
    torch.manual_seed(1)
    gradient = torch.randn(theirs.permute(0, 2, 3, 1).shape, dtype=x.dtype)
    theirs.backward(gradient.double().permute(0, 3, 1, 2))

    ours = run(own, Replicas((last - first) / whole))
    counts = first < last
    ours.backward(gradient[first:last] if counts else torch.zeros_like(ours))
    if counts:
        same("output", ours, theirs.permute(0, 2, 3, 1)[first:last])
        assert own.grad is not None and theirs_x.grad is not None
        same("x", own.grad, theirs_x.grad.permute(0, 2, 3, 1)[first:last])
    else:
        assert own.grad is not None and not own.grad.any()
    wanted = [p.grad for p in reference.parameters()]
    largest = max(g.abs().max().item() for g in wanted if g is not None)
    for number, (mine, other) in enumerate(zip(parameters, wanted, strict=True)):
        assert mine.grad is not None and other is not None
        total = mine.grad.clone()
        dist.all_reduce(total)
        same(f"gradient {number}", total, other, largest)
    moved = [b for b in reference.buffers() if b.ndim == 1]
    for mine, other in zip(statistics(), moved, strict=True):
        same("moving statistics", mine, other)


def block(parts: tuple[int, int], bottleneck: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ours, x = TextbookBlock(3, 5, 4, bottleneck).to(dtype), torch.randn(sum(parts), 6, 4, 5, dtype=dtype) + 3
    reference = TextbookBlock(3, 5, 4, bottleneck).double()
    reference.load_state_dict(ours.state_dict())
    moving = statistics_of(ours, None)

    def run(own: torch.Tensor, replicas: Replicas) -> torch.Tensor:
        options = {"momentum": ours.momentum, "epsilon": ours.epsilon}
        return dense_block(own, parameters_of(ours), moving, training=True, replicas=replicas, **options)

    def statistics() -> list[torch.Tensor]:
        return [t for layer in moving for t in layer[:4] if t is not None]

    check(parts, x, reference, list(ours.parameters()), run, statistics)


def shrinking(parts: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, conv = nn.BatchNorm2d(6, eps=1e-3, momentum=0.1), nn.Conv2d(6, 3, 1, bias=False)
    reference = nn.Sequential(norm, nn.ReLU(), conv, nn.AvgPool2d(2)).double()
    x = torch.randn(sum(parts), 4, 6, 6, dtype=dtype) + 3
    own = [p.detach().to(dtype).requires_grad_() for p in (norm.weight, norm.bias, conv.weight.permute(2, 3, 1, 0))]
    moving = RunningStatistics(torch.zeros(6, dtype=dtype), torch.ones(6, dtype=dtype))

    def run(mine: torch.Tensor, replicas: Replicas) -> torch.Tensor:
        return transition(mine, LayerParameters(*own), moving, training=True, momentum=0.9, replicas=replicas)

    def statistics() -> list[torch.Tensor]:
        # PyTorch feeds the unbiased variance.
        pixels = x.shape[:3].numel()
        return [moving.mean1, (moving.variance1 - 0.9) * (pixels / (pixels - 1)) + 0.9]

    class Turned:
        """The kernel's gradient as PyTorch has it."""

        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        @property
        def grad(self) -> Any:
            return self.tensor.grad.permute(3, 2, 0, 1).contiguous()  # type: ignore[union-attr]

    check(parts, x, reference, [own[0], own[1], Turned(own[2])], run, statistics)  # type: ignore[list-item]


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[1]), world_size=2)
    for parts in ((2, 1), (3, 3), (4, 0)):
        for dtype in TOLERANCE:
            block(parts, 0, dtype)
            block(parts, 8, dtype)
            shrinking(parts, dtype)
    dist.destroy_process_group()
    print("same")
