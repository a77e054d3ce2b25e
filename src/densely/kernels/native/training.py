"""A dense block's training step in two calls, all layers forward and all back, where no layer needs Python in between.

`forward.py` and `backward.py` do the same layer by layer, for every engine, and say what is done. Here the loops do as
well what stands between two passes over the pixels: operations on some hundred numbers, which PyTorch's operators take
longer to begin than to do: a tenth of a step of DenseNet-BC-100-12.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from densely.kernels import dropout
from densely.kernels.native.block import bytes_of, given, lying
from densely.kernels.native.library import addresses, call, room
from densely.kernels.normalisation import plain
from densely.kernels.plan import LayerParameters, Plan


def can_be_whole(plan: Plan) -> bool:
    """Whether all goes by this process's batch, and the loops can move the moving statistics."""
    norms = (1, 2) if plan.bottleneck else (1,)
    return (
        plan.engine == "native"
        and plan.replicas is None
        and all(plan.by_batch(index, norm) for index in range(plan.depth) for norm in norms)
        and all(t is None or plain(t, torch.float32) is t for running in plan.statistics for t in running[:4])
    )


class _Kept(NamedTuple):
    """What the way back needs; as `source/block.h` lays it out."""

    maps: torch.Tensor
    numbers: torch.Tensor
    inner: torch.Tensor | None
    inner_numbers: torch.Tensor | None
    masks: torch.Tensor | None


class WholeBlock(torch.autograd.Function):
    """As `dense_block._DenseBlock`, and called alike."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, plan: Plan, *parameters: torch.Tensor | None) -> torch.Tensor:
        """The block's output, from x, the plan and all layers' parameters in a row."""
        kept = _room(plan)
        keys = dropout.new_keys(plan.generator, plan.masks) if plan.rate else None
        output = plan.empty((plan.images, *plan.size, plan.width))
        numbers = given(plan, parameters)
        call("block_forward", plan.dtype, *_sizes(plan), addresses(numbers), plan.factor, kept.masks,
             *_rooms(plan), keys, dropout.threshold(plan.rate), float(plan.epsilon), float(plan.momentum),
             float(1 - plan.momentum), x.contiguous(), *kept[:4], output)  # fmt: skip
        torch.autograd.graph.increment_version([t for s in plan.statistics for t in s[:4] if t is not None])
        ctx.plan = plan
        ctx.save_for_backward(*kept, *parameters)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x and the parameters."""
        plan: Plan = ctx.plan
        fields = len(_Kept._fields)
        kept, parameters = _Kept(*ctx.saved_tensors[:fields]), ctx.saved_tensors[fields:]
        for_x, _, *wanted = ctx.needs_input_grad
        # Below the first layer that anybody asks about there is nothing to do.
        lowest = 0 if for_x else wanted.index(True) // len(LayerParameters._fields)
        found = [None if p is None else room(*p.shape) for p in parameters]
        x_gradient = plan.empty((plan.images, *plan.size, plan.start)) if for_x else None
        G = plan.empty(kept.maps.shape, plan.sums)
        d = None if kept.inner is None else plan.empty(kept.inner.shape[1:], plan.sums)
        numbers = given(plan, parameters)
        call("block_backward", plan.dtype, *_sizes(plan), addresses(numbers), plan.factor, kept.masks,
             *_rooms(plan), *kept[:4], gradient.contiguous(), G, d, addresses(found), lowest,
             x_gradient)  # fmt: skip
        gradients = (
            g.to(p.dtype) if asked and g is not None and p is not None else None
            for g, p, asked in zip(found, parameters, wanted, strict=True)
        )
        return x_gradient, None, *gradients


def _room(plan: Plan) -> _Kept:
    inner = inner_numbers = masks = None
    if plan.bottleneck:
        inner = plan.empty((plan.depth, *lying(plan, plan.bottleneck)))
        inner_numbers = room(3, plan.depth, plan.bottleneck)
    if plan.rate:
        masks = plan.empty((plan.depth * sum(_rooms(plan)),), torch.uint8)
    # Nobody normalises the last layer's maps: what would be sent back to them is nothing, times their numbers.
    numbers = room(3, plan.width).zero_()
    return _Kept(plan.empty(lying(plan, plan.width)), numbers, inner, inner_numbers, masks)


def _rooms(plan: Plan) -> tuple[int, int]:
    """Bytes for a mask of bits of a layer's bottleneck maps, and of its new maps: whole lines of a cache."""
    inner, new = (-(-bytes_of(plan.pixels * c) // 64) * 64 if c else 0 for c in (plan.bottleneck, plan.growth))
    return inner, new


def _sizes(plan: Plan) -> tuple[int, ...]:
    return plan.images, *plan.size, plan.start, plan.growth, plan.bottleneck, plan.depth
