"""Dropout's random bits, cheaply: 8 of them for an element, eight elements for one call of the generator.

`bernoulli_`, which `torch.nn.functional.dropout` calls, was a third of a textbook DenseNet training step on the CPU.
Here the generator fills 64-bit words, and every byte of them is compared with a threshold. A byte alone would turn a
rate of 0.2 into 51/256 = 0.1992. So every group of elements gets one byte more, which decides whether its threshold is
51 or 52, and the rate comes in steps of 1/65,536. Any two elements of a group are correlated by that, by 3e-5 at most
at rates from 0.2 to 0.8. The scale of what is kept uses the rate that the thresholds really give, so the expectation
is exact.
"""

import torch

_STEPS = 1 << 16
_GROUP = 256


def threshold(rate: float) -> int:
    """How many of 65,536 equally likely values of 16 random bits mean "drop" for this rate."""
    return round(rate * _STEPS)


def scale(rate: float) -> float:
    """What kept elements are multiplied by: 1 / (1 - the rate that `threshold` really gives); 0 if all are dropped."""
    kept = _STEPS - threshold(rate)
    return _STEPS / kept if kept else 0.0


def words(elements: int) -> int:
    """How many 64-bit random words a mask of so many elements takes."""
    groups = _groups(elements)
    return -(-groups * (_GROUP + 1) // 8)


def draw(mask: torch.Tensor, rate: float, generator: torch.Generator | None, bits: torch.Tensor | None = None) -> None:
    """Fills a mask: 1 where an element is kept (probability 1 - rate), 0 where it is dropped.

    Args:
        mask: contiguous int8 tensor of any shape, written.
        rate: the share to drop, 0 to 1, used in steps of 1/65,536.
        generator: where the bits come from, on the mask's device; None is PyTorch's default generator.
        bits: scratch, at least `words(mask.numel())` int64 on the mask's device; made here unless given.
    """
    elements, groups = mask.numel(), _groups(mask.numel())
    if bits is None:
        bits = torch.empty(words(elements), dtype=torch.int64, device=mask.device)
    bits = bits[: words(elements)].random_(-(1 << 63), None, generator=generator)
    drawn = bits.view(torch.int8)
    extra = drawn[groups * _GROUP : groups * (_GROUP + 1)]
    drawn = drawn[: groups * _GROUP].view(groups, _GROUP)
    # The rarer of the two outcomes is "below the threshold", which is thus never one past the last int8.
    dropped = threshold(rate)
    whole, rest = divmod(min(dropped, _STEPS - dropped), 256)
    first = extra.lt_(rest - 128).add_(whole - 128).view(groups, 1)
    # In place: the comparison that gives int8 is vectorised, the one that gives bool is not.
    kept = drawn.ge_(first) if 2 * dropped <= _STEPS else drawn.lt_(first)
    mask.view(-1).copy_(kept.view(-1)[:elements])


def _groups(elements: int) -> int:
    return -(-elements // _GROUP)
