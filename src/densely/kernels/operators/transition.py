"""A transition's two passes, a cache-sized chunk of images at a time."""

import torch
import torch.nn.functional as F

from densely.kernels import dropout
from densely.kernels.engine import Convolution, Statistics, Sums
from densely.kernels.memory import Scratch
from densely.kernels.normalisation import Normalisation, sent_back
from densely.kernels.operators.gamma import gradient_of_gamma, ill_conditioned, products_with
from densely.kernels.operators.products import Pointwise
from densely.kernels.operators.rows import Affine, drop
from densely.kernels.operators.statistics import Moments
from densely.kernels.plan import TransitionPlan

_pool_backward = torch.ops.aten.avg_pool2d_backward


class OperatorTransition:
    """See `engine.TransitionEngine`.

    Args:
        x: (N, H, W, C), contiguous.
        plan: of the call.
        conv: kernel (1, 1, C, out) and bias.
    """

    def __init__(self, x: torch.Tensor, plan: TransitionPlan, conv: Convolution) -> None:
        self.plan, self.bias = plan, conv.bias
        n, (h, w) = plan.images, plan.size
        self.shape, self.pooled_shape = (n, h, w), (n, h // 2, w // 2)
        self.rows = x.view(-1, plan.channels)
        self.pointwise = Pointwise(conv.kernel, conv.bias, plan.factor, plan.dtype, plan.sums)
        step = max(1, plan.chunk_rows(max(plan.channels, plan.filters)) // (h * w))
        self.chunks = [(first, min(first + step, n)) for first in range(0, n, step)]  # images
        most = min(step, n) * h * w
        self.activation = Scratch(most * plan.channels, plan.dtype, plan.device)
        self.product = Scratch(most * plan.filters, plan.dtype, plan.device)
        self.through = Scratch(most * plan.channels, plan.dtype, plan.device)
        self.wide = Scratch(most * plan.channels, plan.sums, plan.device)

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

    def statistics(self) -> Statistics:
        """Of x."""
        moments = Moments(len(self.chunks), self.plan.channels, self._fold(), self.plan.sums, self.plan.device)
        for i, images in enumerate(self.chunks):
            moments.add(i, self.rows[self._ranges(images)[0]], self.wide)
        return moments.mean_and_variance(len(self.rows))

    def forward(self, norm: Normalisation) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output and dropout's mask."""
        affine = self._affine(norm)
        output = self.plan.empty((*self.pooled_shape, self.plan.filters))
        out = output.view(-1, self.plan.filters)
        mask = None
        if self.plan.rate:
            mask = self.plan.empty((len(self.rows), self.plan.filters), torch.int8)
            dropout.draw(mask, self.plan.rate, self.plan.generator)
        for images in self.chunks:
            before, after = self._ranges(images)
            activation = affine.relu(self.rows[before], self.activation)
            if mask is None:
                self.pointwise.forward(self._pool(activation), out[after])
                continue
            product = self.product.view(mask[before].shape)
            self.pointwise.forward(activation, product)
            drop(product, mask[before])
            out[after] = self._pool(product)
        return output, mask

    def backward(
        self, gradient: torch.Tensor, norm: Normalisation, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, Sums]:
        """The gradient of x, (N, H, W, C), and the parameters'."""
        affine = self._affine(norm)
        incoming = gradient.view(-1, self.plan.filters)
        G = self.plan.empty(self.rows.shape, self.plan.sums)
        D = torch.zeros_like(norm.mean)
        bias = torch.zeros(self.plan.filters, dtype=self.plan.sums, device=self.plan.device)
        direct = ill_conditioned(norm.gamma, norm.beta)
        direct_sum = torch.zeros(len(direct), dtype=self.plan.sums, device=self.plan.device)
        for images in self.chunks:
            before, after = self._ranges(images)
            activation = affine.relu(self.rows[before], self.activation)
            new = incoming[after]
            if mask is None:
                pooled = self._pool(activation)
                if self.bias is not None:
                    bias += new.sum(0, dtype=self.plan.sums)
                through = self._spread(self.pointwise.backward(new, pooled, self.through), activation)
            else:
                new = self._spread(new, self.product.view(mask[before].shape))
                drop(new, mask[before])
                if self.bias is not None:
                    bias += new.sum(0, dtype=self.plan.sums)
                through = self.pointwise.backward(new, activation, self.through)
            d = through if through.dtype == self.plan.sums else self.wide.view(through.shape)
            affine.mask(through, activation, out=d)
            D += d.sum(0)
            if len(direct):
                direct_sum += products_with(d, self.rows[before], direct)
            torch.mul(d, affine.scale, out=G[before])
        gamma = gradient_of_gamma(
            norm.gamma, norm.beta, D, self.pointwise.response(), norm.mean, norm.rstd, direct, direct_sum
        )
        bias_gradient = None if self.bias is None else bias * self.pointwise.factor
        sums = Sums(gamma, D, self.pointwise.kernel_gradient(), bias_gradient)
        return self._complete(G, norm, sums), sums

    def _affine(self, norm: Normalisation) -> Affine:
        return Affine(norm.scale, norm.shift, self.plan.dtype, norm.by_batch)

    def _complete(self, G: torch.Tensor, norm: Normalisation, sums: Sums) -> torch.Tensor:
        """∂x = G - rstd·(A + x̂·B)/M with A = γ·Σd and B = γ·∂γ; see `dense_block.py`."""
        result = G if G.dtype == self.plan.dtype else self.plan.empty(self.rows.shape)
        if norm.by_batch:
            c, e = sent_back(norm, sums.beta, sums.gamma, len(self.rows), self.plan.replicas)
            c -= norm.mean * e
            for images in self.chunks:
                before, _ = self._ranges(images)
                part = G[before].add_(c)
                rows = self.rows[before]
                part.addcmul_(rows if rows.dtype == self.plan.sums else self.wide.view(rows.shape).copy_(rows), e)
        if result is not G:
            result.copy_(G)
        return result.view(*self.shape, self.plan.channels)
