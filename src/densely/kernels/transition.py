"""A transition as one autograd function: normalise, ReLU, 1×1 convolution, dropout, 2×2 average pooling.

Between two dense blocks (section 3 of arXiv 1608.06993) stands the widest normalisation of the network. As in the
blocks, its output is not kept but made again in the backward pass, a cache-sized chunk of images at a time. Without
dropout the pooling moves in front of the convolution: both are linear, so the result is the same, and the product has a
quarter of the rows.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from densely.kernels import dropout
from densely.kernels.forward import normalisation
from densely.kernels.gamma import gradient_of_gamma, ill_conditioned, products_with
from densely.kernels.memory import Scratch, empty
from densely.kernels.plan import LayerParameters, RunningStatistics, chunk_rows, dropout_generator
from densely.kernels.products import Pointwise
from densely.kernels.rows import Affine, drop
from densely.kernels.statistics import Moments

_pool_backward = torch.ops.aten.avg_pool2d_backward


class _Options(NamedTuple):
    statistics: RunningStatistics
    training: bool
    momentum: float
    epsilon: float
    rate: float
    """Of dropout; 0 when it is off."""
    generator: torch.Generator | None

    @property
    def by_batch(self) -> bool:
        return self.training and not self.statistics.frozen1


def transition(
    x: torch.Tensor,
    layer: LayerParameters,
    statistics: RunningStatistics,
    *,
    training: bool,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    dropout: float = 0.0,
    seed: int | torch.Generator | None = None,
) -> torch.Tensor:
    """Run a transition; equal to its layers run one by one. Differentiable once.

    Args:
        x: (N, H, W, C), any strides, H and W at least 2.
        layer: `gamma1`, `beta1` (C,), `kernel1` (1, 1, C, out) and perhaps `bias1` (out,).
        statistics: the moving statistics, written in place in training unless frozen.
        training, momentum, epsilon, dropout, seed: as in `dense_block`.

    Returns:
        (N, ⌊H/2⌋, ⌊W/2⌋, out), contiguous, in the dtype computed in.

    Raises:
        ValueError: if shapes do not fit together.
        RuntimeError: from a second differentiation.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    channels = x.shape[-1]
    if x.ndim != 4 or min(x.shape[1:3]) < 2 or x.numel() == 0:
        raise ValueError(f"A transition takes images (N, H, W, C) of at least 2 by 2 pixels, not {tuple(x.shape)}.")
    if layer.kernel1.shape[:3] != (1, 1, channels) or layer.kernel2 is not None:
        raise ValueError(f"A transition of {channels} channels has one 1×1 kernel, not {tuple(layer.kernel1.shape)}.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"The dropout rate must be at least 0 and below 1, not {dropout}.")
    rate = dropout if training else 0.0
    generator = dropout_generator(seed, x.device) if rate else None
    options = _Options(statistics, training, momentum, epsilon, rate, generator)
    parameters = (layer.gamma1, layer.beta1, layer.kernel1, layer.bias1)
    with torch.autocast(device, enabled=False):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
            output: torch.Tensor = _Transition.apply(x, options, *parameters)  # type: ignore[no-untyped-call]
            return output
        with torch.no_grad():
            return _Pass(x.contiguous(), options, *parameters).forward()[0]


class _Transition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, options: _Options, *parameters: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()
        output, mean, rstd, mask = _Pass(x, options, *parameters).forward()
        ctx.save_for_backward(x, mean, rstd, mask, *parameters)
        ctx.options = options
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, mean, rstd, mask, *parameters = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            gradients = _Pass(x, ctx.options, *parameters).backward(gradient.contiguous(), mean, rstd, mask)
        x_gradient, *rest = gradients
        return (
            x_gradient if ctx.needs_input_grad[0] else None,
            None,
            *(None if p is None or g is None else g.to(p.dtype) for g, p in zip(rest, parameters, strict=True)),
        )


class _Pass:
    """One pass over a contiguous x, forward or backward."""

    def __init__(
        self,
        x: torch.Tensor,
        options: _Options,
        gamma: torch.Tensor,
        beta: torch.Tensor,
        kernel: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> None:
        self.options, self.dtype, self.device = options, x.dtype, x.device
        self.sums = torch.float64 if x.dtype == torch.float64 else torch.float32
        self.gamma, self.beta, self.bias = gamma.to(self.sums), beta.to(self.sums), bias
        n, h, w, self.channels = x.shape
        self.shape, self.pooled_shape = (n, h, w), (n, h // 2, w // 2)
        self.rows = x.view(-1, self.channels)
        self.filters = kernel.shape[3]
        factor = dropout.scale(options.rate) if options.rate else 1.0
        self.pointwise = Pointwise(kernel, bias, factor, x.dtype, self.sums)
        step = max(1, chunk_rows(max(self.channels, self.filters), self.sums, self.device) // (h * w))
        self.chunks = [(first, min(first + step, n)) for first in range(0, n, step)]  # images
        most = min(step, n) * h * w
        self.activation = Scratch(most * self.channels, self.dtype, self.device)
        self.product = Scratch(most * self.filters, self.dtype, self.device)
        self.through = Scratch(most * self.channels, self.dtype, self.device)
        self.wide = Scratch(most * self.channels, self.sums, self.device)

    def _affine(self, mean: torch.Tensor, rstd: torch.Tensor) -> Affine:
        return normalisation(self.gamma, self.beta, mean, rstd, self.dtype, self.options.by_batch)

    def _images(self, rows: torch.Tensor, pooled: bool = False) -> torch.Tensor:
        """Rows as (n, C, h, w), channels last."""
        h, w = (self.pooled_shape if pooled else self.shape)[1:]
        return rows.view(-1, h, w, rows.shape[1]).permute(0, 3, 1, 2)

    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(self._images(rows), 2)
        return pooled.permute(0, 2, 3, 1).reshape(-1, rows.shape[1])

    def _spread(self, pooled: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The gradient of `rows` from that of their pooling."""
        spread: torch.Tensor = _pool_backward(
            self._images(pooled, pooled=True), self._images(rows), [2, 2], [2, 2], [0, 0], False, True, None
        )
        return spread.permute(0, 2, 3, 1).reshape(rows.shape).contiguous()

    def _ranges(self, images: tuple[int, int]) -> tuple[slice, slice]:
        """Rows of some images, before and after the pooling."""
        first, last = images
        before, after = self.shape[1] * self.shape[2], self.pooled_shape[1] * self.pooled_shape[2]
        return slice(first * before, last * before), slice(first * after, last * after)

    def _fold(self) -> int:
        """How many rows to sum as one: more and shorter sums round less. Divides the rows of every image."""
        fold, pixels = 1, self.shape[1] * self.shape[2]
        while pixels % (2 * fold) == 0 and fold < 16:
            fold *= 2
        return fold

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        running, options = self.options.statistics, self.options
        if not options.by_batch:
            # Copies: they must still be the same numbers in the backward pass.
            variance = running.variance1.to(self.sums)
            return running.mean1.to(self.sums, copy=True), (variance + options.epsilon).rsqrt_()
        moments = Moments(len(self.chunks), self.channels, self._fold(), self.sums, self.device)
        for i, images in enumerate(self.chunks):
            moments.add(i, self.rows[self._ranges(images)[0]], self.wide)
        mean, variance = moments.mean_and_variance(len(self.rows))
        for moving, batch in ((running.mean1, mean), (running.variance1, variance)):
            moving.mul_(options.momentum).add_(batch.to(moving.dtype), alpha=1 - options.momentum)
        return mean, (variance + options.epsilon).rsqrt_()

    def forward(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Output, mean, 1/√(variance + ε), dropout's mask."""
        mean, rstd = self._statistics()
        affine = self._affine(mean, rstd)
        output = empty((*self.pooled_shape, self.filters), self.dtype, self.device)
        out = output.view(-1, self.filters)
        mask = empty((len(self.rows), self.filters), torch.int8, self.device) if self.options.rate else None
        for images in self.chunks:
            before, after = self._ranges(images)
            activation = affine.relu(self.rows[before], self.activation)
            if mask is None:
                self.pointwise.forward(self._pool(activation), out[after])
                continue
            product = self.product.view(mask[before].shape)
            self.pointwise.forward(activation, product)
            dropout.draw(mask[before], self.options.rate, self.options.generator)
            drop(product, mask[before])
            out[after] = self._pool(product)
        return output, mean, rstd, mask

    def backward(
        self, gradient: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Gradients of x, γ, β, kernel and bias."""
        affine = self._affine(mean, rstd)
        incoming = gradient.view(-1, self.filters)
        G = empty(self.rows.shape, self.sums, self.device)
        D = torch.zeros_like(mean)
        bias = torch.zeros(self.filters, dtype=self.sums, device=self.device)
        direct = ill_conditioned(self.gamma, self.beta)
        direct_sum = torch.zeros(len(direct), dtype=self.sums, device=self.device)
        for images in self.chunks:
            before, after = self._ranges(images)
            activation = affine.relu(self.rows[before], self.activation)
            new = incoming[after]
            if mask is None:
                pooled = self._pool(activation)
                if self.bias is not None:
                    bias += new.sum(0, dtype=self.sums)
                through = self._spread(self.pointwise.backward(new, pooled, self.through), activation)
            else:
                new = self._spread(new, self.product.view(mask[before].shape))
                drop(new, mask[before])
                if self.bias is not None:
                    bias += new.sum(0, dtype=self.sums)
                through = self.pointwise.backward(new, activation, self.through)
            d = through if through.dtype == self.sums else self.wide.view(through.shape)
            affine.mask(through, activation, out=d)
            D += d.sum(0)
            if len(direct):
                direct_sum += products_with(d, self.rows[before], direct)
            torch.mul(d, affine.scale, out=G[before])
        gamma = gradient_of_gamma(self.gamma, self.beta, D, self.pointwise.response(), mean, rstd, direct, direct_sum)
        x_gradient = self._complete(G, D, gamma, mean, rstd)
        return x_gradient, gamma, D, self.pointwise.kernel_gradient(), bias * self.pointwise.factor

    def _complete(
        self, G: torch.Tensor, D: torch.Tensor, gamma: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor
    ) -> torch.Tensor:
        """∂x = G - rstd·(A + x̂·B)/M with A = γ·Σd and B = γ·∂γ; see `dense_block.py`."""
        result = G if G.dtype == self.dtype else empty(self.rows.shape, self.dtype, self.device)
        if self.options.by_batch:
            e = rstd * rstd * (self.gamma * gamma) / -len(self.rows)
            c = rstd * (self.gamma * D) / -len(self.rows) - mean * e
            for images in self.chunks:
                before, _ = self._ranges(images)
                part = G[before].add_(c)
                rows = self.rows[before]
                part.addcmul_(rows if rows.dtype == self.sums else self.wide.view(rows.shape).copy_(rows), e)
        if result is not G:
            result.copy_(G)
        return result.view(*self.shape, self.channels)
