"""The two matrix products of a layer on chunks of rows: 1×1 (rows × channels) and 3×3 (images), and their gradients.

Weights arrive in Keras's layout: (1, 1, in, out) and (3, 3, in, out).
"""

import functools

import torch
from torch.nn.functional import conv2d

from densely.kernels.memory import Scratch

_convolution_backward = torch.ops.aten.convolution_backward


@functools.cache
def pointwise_by_convolution() -> bool:
    """Whether a float32 product of tall matrices should go to oneDNN, as a 1×1 convolution, rather than to BLAS.

    PyTorch's BLAS on x86 is MKL, which uses only AVX2 on AMD processors: half the speed of oneDNN. On Intel's own it is
    a fifth faster than oneDNN, and it writes where it is told.
    """
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("architecture") == "x86_64" and "Intel" not in str(capabilities.get("cpu_name"))


class Pointwise:
    """Rows (R, C) times a 1×1 kernel.

    Args:
        kernel: (1, 1, C, out).
        bias: (out,) or None.
        factor: multiplies kernel and bias (the scale of the dropout that follows).
        dtype: what to multiply in.
        sums: what to keep gradients in.
        column_scale: (out,), multiplies the outputs; None for 1.
        column_shift: (out,), added to the outputs after that; None for 0.
    """

    def __init__(
        self,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
        factor: float,
        dtype: torch.dtype,
        sums: torch.dtype,
        column_scale: torch.Tensor | None = None,
        column_shift: torch.Tensor | None = None,
    ) -> None:
        exact = kernel.view(kernel.shape[2:]).to(sums) * factor
        offset = None if bias is None else bias.to(sums) * factor
        if column_scale is not None:
            exact = exact * column_scale
            offset = None if offset is None else offset * column_scale
        if column_shift is not None:
            offset = column_shift if offset is None else offset + column_shift
        self.factor = factor
        self.weight = exact.to(dtype)
        self.bias = None if offset is None else offset.to(dtype)
        self.gradient = torch.zeros_like(exact)
        self.convolve = kernel.device.type == "cpu" and dtype == torch.float32 and pointwise_by_convolution()
        if self.convolve:
            self.filters = self.weight.t().contiguous().view(*reversed(self.weight.shape), 1, 1)

    def forward(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        """out = rows · kernel + bias; both contiguous."""
        if self.convolve:
            out.copy_(_rows(conv2d(_image(rows), self.filters, self.bias), out.shape))
        elif self.bias is None:
            torch.mm(rows, self.weight, out=out)
        else:
            torch.addmm(self.bias, rows, self.weight, out=out)

    def backward(self, gradient: torch.Tensor, rows: torch.Tensor, out: Scratch) -> torch.Tensor:
        """Adds to the kernel's gradient and gives the rows' gradient.

        Args:
            gradient: (R, out channels), contiguous.
            rows: (R, C), what `forward` was given.
            out: what the result may live in.
        """
        if self.convolve:
            both = _convolution_backward(
                _image(gradient), _image(rows), self.filters, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
                [True, True, False],
            )  # fmt: skip
            self.gradient.add_(both[1].view(self.filters.shape[:2]).t())
            return _rows(both[0], rows.shape)
        if self.gradient.dtype == gradient.dtype:
            self.gradient.addmm_(rows.t(), gradient)
        else:
            self.gradient.add_(torch.mm(rows.t(), gradient))
        return torch.mm(gradient, self.weight.t(), out=out.view(rows.shape))

    def response(self) -> torch.Tensor:
        """(C,): Σ over rows of the rows' gradient times the rows, from the kernel and its gradient.

        The output is linear in the rows, so Σ_r (∂L/∂a)·a for one input channel is Σ_out kernel · ∂L/∂kernel: a sum
        over a few thousand numbers in place of one more pass over all the pixels.
        """
        return (self.gradient * self.weight).sum(1)

    def kernel_gradient(self) -> torch.Tensor:
        """(1, 1, C, out), in the dtype of sums."""
        return (self.gradient * self.factor).view(1, 1, *self.gradient.shape)


class Spatial:
    """Images (n·H·W, C) through a 3×3 kernel, stride 1, zero padding that keeps the size.

    Args:
        kernel: (3, 3, C, out).
        bias: (out,) or None.
        factor: multiplies kernel and bias (the scale of the dropout that follows).
        size: (H, W).
        dtype: what to multiply in.
        sums: what to keep gradients in.
    """

    def __init__(
        self,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
        factor: float,
        size: tuple[int, int],
        dtype: torch.dtype,
        sums: torch.dtype,
    ) -> None:
        self.factor, self.size = factor, size
        self.sums = sums
        self.weight = (kernel.to(sums) * factor).to(dtype).permute(3, 2, 0, 1)
        self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.bias = None if bias is None else (bias.to(sums) * factor).to(dtype)
        self.gradient = torch.zeros_like(self.weight, dtype=sums)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(R, out), contiguous: a new tensor."""
        images = _image(rows, self.size)
        return _rows(conv2d(images, self.weight, self.bias, padding=1), (rows.shape[0], self.weight.shape[0]))

    def backward(self, gradient: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Adds to the kernel's gradient and gives the rows' gradient, (R, C), contiguous: a new tensor.

        Args:
            gradient: (R, out), contiguous.
            rows: (R, C), what `forward` was given.
        """
        both = _convolution_backward(
            _image(gradient, self.size), _image(rows, self.size), self.weight, None, [1, 1], [1, 1], [1, 1], False,
            [0, 0], 1, [True, True, False],
        )  # fmt: skip
        self.gradient.add_(both[1])
        return _rows(both[0], rows.shape)

    def response(self) -> torch.Tensor:
        """(C,): Σ over pixels of the rows' gradient times the rows; see `Pointwise.response`."""
        return (self.gradient * self.weight).sum((0, 2, 3))

    def kernel_gradient(self) -> torch.Tensor:
        """(3, 3, C, out), in the dtype of sums."""
        return (self.gradient * self.factor).permute(2, 3, 1, 0).contiguous()


def _image(rows: torch.Tensor, size: tuple[int, int] | None = None) -> torch.Tensor:
    height, width = size or (rows.shape[0], 1)
    return rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _rows(images: torch.Tensor, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    # With one channel or one pixel PyTorch may call the layout "channels first"; reshape copies only then.
    return images.permute(0, 2, 3, 1).reshape(shape).contiguous()
