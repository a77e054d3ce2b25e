"""Elementwise work on a chunk of rows (pixels) by channels, in the fewest and fastest passes PyTorch offers.

Eager PyTorch's 16-bit operators are slow on the CPU: adding two bfloat16 tensors costs more than adding two float32
ones. The 16-bit branches below therefore use what is fast there: the batch-norm kernel for scale and shift, integer
operators on the same bits for ReLU and masks (a bfloat16 or float16 is negative when the int16 on its bits is), and
copies to float32 for sums.
"""

import torch

from densely.kernels.memory import Scratch

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class Affine:
    """y = x·scale + shift for every channel, then ReLU, and the mask that ReLU leaves for the backward pass.

    Args:
        scale: (C,), float32 or float64.
        shift: (C,), the same dtype.
        dtype: what the rows are in.
        finite_if_scale_is: whether a NaN in the rows would show in `scale` or `shift`; batch statistics guarantee it.
    """

    def __init__(self, scale: torch.Tensor, shift: torch.Tensor, dtype: torch.dtype, finite_if_scale_is: bool) -> None:
        self.scale, self.shift, self.dtype = scale, shift, dtype
        self.narrow = dtype.itemsize == 2
        self.on_bits = False
        if self.narrow:
            self.zero, self.one = torch.zeros_like(scale), torch.ones_like(scale)
            # On bits a NaN may pass for a negative number and come out as 0: only where there can be none.
            self.on_bits = (
                scale.device.type == "cpu" and finite_if_scale_is and bool(torch.isfinite(scale + shift).all())
            )

    def relu(self, rows: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """relu(rows·scale + shift).

        Args:
            rows: (R, C), any row stride.
            scratch: in the rows' dtype; the result may live in it.

        Returns:
            (R, C), contiguous, valid until the scratch is used again.
        """
        out = scratch.view(rows.shape)
        if not self.narrow:
            return torch.addcmul(self.shift, rows, self.scale, out=out).relu_()
        if not rows.is_contiguous():
            rows = out.copy_(rows)
        # Not nn.functional's, which refuses an epsilon of 0 in some releases; and not cuDNN's, which asks for 1e-5.
        out = torch.batch_norm(rows, self.scale, self.shift, self.zero, self.one, False, 0.0, 0.0, False)
        if self.on_bits:
            out.view(torch.int16).clamp_min_(0)
            return out
        return out.relu_()

    def mask(self, gradient: torch.Tensor, activation: torch.Tensor, out: torch.Tensor) -> None:
        """out = gradient where activation > 0, else 0.

        Args:
            gradient: (R, C), contiguous, in the rows' dtype; destroyed.
            activation: what `relu` gave; destroyed.
            out: (R, C), contiguous, in the dtype of sums; may be `gradient` itself.
        """
        if self.on_bits:
            # No activation is negative, so as integers they are 0 or at least 1.
            gradient.view(torch.int16).mul_(activation.view(torch.int16).clamp_max_(1))
            if out is not gradient:
                out.copy_(gradient)
        elif out.dtype == gradient.dtype:
            _threshold_backward(gradient, activation, 0, grad_input=out)
        else:
            _threshold_backward(gradient, activation, 0, grad_input=gradient)
            out.copy_(gradient)


def drop(rows: torch.Tensor, mask: torch.Tensor, scratch: Scratch | None = None) -> None:
    """Sets elements to zero where the int8 mask is 0, in place; both contiguous.

    With scratch in the rows' dtype the mask is converted there, not in new memory every time.
    """
    if rows.dtype.itemsize == 2 and rows.device.type == "cpu":
        rows.view(torch.int16).mul_(mask)
    else:
        rows.mul_(mask if scratch is None else cast(mask, scratch))


def cast(rows: torch.Tensor, scratch: Scratch) -> torch.Tensor:
    """The rows in the scratch's dtype: themselves if they have it already, else a contiguous copy in the scratch."""
    return rows if rows.dtype == scratch.dtype else scratch.view(rows.shape).copy_(rows)
