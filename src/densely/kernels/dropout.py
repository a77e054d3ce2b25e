"""Dropout's random bits, cheaply: 16 of them for an element, four elements for one call of the generator.

`bernoulli_`, which `torch.nn.functional.dropout` calls, was a third of a textbook DenseNet training step on the CPU.
Here the generator fills 64-bit words and every 16 bits of them are compared with a threshold. Sixteen bits, not
eight: eight would turn a rate of 0.2 into 51/256 = 0.1992. The scale of what is kept uses the rate that the threshold
really gives, so the expectation is exact.
"""

import torch

_STEPS = 1 << 16


def threshold(rate: float) -> int:
    """How many of the 65,536 values of 16 random bits mean "drop" for this rate."""
    return round(rate * _STEPS)


def scale(rate: float) -> float:
    """What kept elements are multiplied by: 1 / (1 - the rate that `threshold` really gives); 0 if all are dropped."""
    kept = _STEPS - threshold(rate)
    return _STEPS / kept if kept else 0.0


def words(elements: int) -> int:
    """How many 64-bit random words a mask of so many elements takes."""
    return -(-elements // 4)


def draw(mask: torch.Tensor, rate: float, generator: torch.Generator | None, bits: torch.Tensor | None = None) -> None:
    """Fills a mask: 1 where an element is kept (probability 1 - rate), 0 where it is dropped.

    Args:
        mask: contiguous int8 tensor of any shape, written.
        rate: the share to drop, 0 to 1, used in steps of 1/65,536.
        generator: where the bits come from, on the mask's device; None is PyTorch's default generator.
        bits: scratch, at least `words(mask.numel())` int64 on the mask's device; made here unless given.
    """
    elements = mask.numel()
    if bits is None:
        bits = torch.empty(words(elements), dtype=torch.int64, device=mask.device)
    bits = bits[: words(elements)]
    bits.random_(-(1 << 63), None, generator=generator)
    drawn = bits.view(torch.int16)[:elements].view(mask.shape)
    first_kept = threshold(rate) - (_STEPS >> 1)  # the int16 at which "keep" begins
    if first_kept == _STEPS >> 1:  # one past the last int16: nothing is kept
        mask.zero_()
    elif first_kept == -(_STEPS >> 1):
        mask.fill_(1)
    else:
        # Clamping to two neighbours and subtracting the lower gives 0 or 1 at half the cost of a comparison.
        torch.sub(drawn.clamp_(first_kept - 1, first_kept), first_kept - 1, out=mask)
