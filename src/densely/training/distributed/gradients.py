"""The gradients of all processes, added up while the backward pass still runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist

BUCKET = 4 << 20
"""Bytes that travel together: small enough that the first are under way early, large enough that few messages do."""


class _Bucket:
    """Some parameters' gradients side by side, as one message."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        self.flat = torch.zeros(sum(p.numel() for p in parameters), dtype=first.dtype, device=first.device)
        pieces = torch.split(self.flat, [p.numel() for p in parameters])
        self.views = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
        self.missing = len(self.parameters)
        self.work: dist.Work | None = None

    def send(self) -> None:
        """Start the sum; a parameter that nothing has asked about counts as zero."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        torch._foreach_copy_(self.views, gradients)
        self.work = dist.all_reduce(self.flat, async_op=True)

    def receive(self) -> None:
        """Wait for the sum, and give it to the parameters."""
        assert self.work is not None
        self.work.wait()
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view
        self.work, self.missing = None, len(self.parameters)


class GradientSum:
    """Adds up gradients over all processes, part by part, as soon as the backward pass has made them.

    Every process must have the same parameters, in the same order. Between two backward passes the gradients are to be
    set to None.

    Args:
        parameters: leaves that need a gradient, in the order of the forward pass.
        size: bytes of a message, at least (the last may be smaller).
    """

    def __init__(self, parameters: Sequence[torch.Tensor], size: int = BUCKET) -> None:
        self.buckets: list[_Bucket] = []
        group: list[torch.Tensor] = []
        # The backward pass comes to the last parameters first.
        for parameter in reversed(parameters):
            if group and (
                sum(p.nbytes for p in group) >= size or (parameter.dtype, parameter.device) != _kind(group[0])
            ):
                self.buckets.append(_Bucket(group))
                group = []
            group.append(parameter)
        if group:
            self.buckets.append(_Bucket(group))
        self._sent = 0
        where = {id(p): bucket for bucket in self.buckets for p in bucket.parameters}
        self._hooks = [
            p.register_post_accumulate_grad_hook(lambda p: self._made(where[id(p)]))  # type: ignore[no-untyped-call]
            for p in parameters
        ]

    def _made(self, bucket: _Bucket) -> None:
        bucket.missing -= 1
        # In the same order in every process, whatever became ready first.
        while self._sent < len(self.buckets) and not self.buckets[self._sent].missing:
            self.buckets[self._sent].send()
            self._sent += 1

    def wait(self) -> None:
        """After the backward pass: every parameter's `grad` is the sum over all processes."""
        for bucket in self.buckets[self._sent :]:
            bucket.send()
        for bucket in self.buckets:
            bucket.receive()
        self._sent = 0

    def close(self) -> None:
        """Leave the parameters alone from now on."""
        for hook in self._hooks:
            hook.remove()


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, torch.device]:
    return tensor.dtype, tensor.device
