"""Dropout's random bits, cheaply: 8 of them for an element, from a counter and a key.

`bernoulli_`, which `torch.nn.functional.dropout` calls, was a third of a textbook DenseNet training step on the CPU.
Here an element's byte is compared with a threshold. A byte alone would turn a rate of 0.2 into 51/256 = 0.1992. So
every group of 256 elements gets one byte more, which decides whether its threshold is 51 or 52, and the rate comes in
steps of 1/65,536. Any two elements of a group are correlated by that, by 3e-5 at most at rates from 0.2 to 0.8. The
scale of what is kept uses the rate that the thresholds really give, so the expectation is exact.

On the CPU the bytes are a mix of the element's number and a key of 64 bits, which is all that is drawn from a
generator: masks are the same however the elements are cut up, on however many threads, by whichever engine. The mix is
two rounds of Wellons' `lowbias32` (https://nullprogram.com/blog/2018/07/31/). On other devices
operators fill masks from the device's own generator; Triton's kernels mix, from a key that never leaves the device,
drawn from a generator there, or mixed from a seed there (`keys`).
"""

from collections.abc import Callable

import torch

_STEPS = 1 << 16
_GROUP = 256
_AT_ONCE = 1 << 12
"""Groups whose numbers are mixed at once: a mebibyte of them stays in the cache."""

Key = tuple[int, int]


def threshold(rate: float) -> int:
    """How many of 65,536 equally likely values of 16 random bits mean "drop" for this rate."""
    return round(rate * _STEPS)


def scale(rate: float) -> float:
    """What kept elements are multiplied by: 1 / (1 - the rate that `threshold` really gives); 0 if all are dropped."""
    kept = _STEPS - threshold(rate)
    return _STEPS / kept if kept else 0.0


def new_key(generator: torch.Generator | None) -> Key:
    """Two numbers of 32 bits from a generator on the CPU; None is PyTorch's default one."""
    ((first, second),) = new_keys(generator, 1).tolist()
    return first, second


def new_keys(generator: torch.Generator | None, count: int) -> torch.Tensor:
    """So many such keys, the same as if they were drawn one by one: (count, 2), int64."""
    return torch.empty(count, 2, dtype=torch.int64, device="cpu").random_(0, 1 << 32, generator=generator)


def keys(seed: torch.Tensor, count: int) -> torch.Tensor:
    """Keys for so many masks from a seed that stays where it is: (count, 2), int64, each number of 32 bits.

    Args:
        seed: whole numbers of 32 bits, int64, on any device; all of them count, in their order.
        count: how many.
    """
    mixed = _round(torch.arange(2 * count, dtype=torch.int32, device=seed.device))
    for number in seed.to(torch.int32).view(-1).unbind():
        mixed = _round(mixed.bitwise_xor_(number))
    return mixed.to(torch.int64).bitwise_and_(0xFFFFFFFF).view(count, 2)


def draw(mask: torch.Tensor, rate: float, generator: torch.Generator | None) -> None:
    """Fills a mask: 1 where an element is kept (probability 1 - rate), 0 where it is dropped.

    Args:
        mask: contiguous int8 tensor of any shape, written.
        rate: the share to drop, 0 to 1, used in steps of 1/65,536.
        generator: where the bits come from, on the mask's device; None is PyTorch's default generator.
    """
    flat = mask.view(-1)
    if mask.device.type != "cpu":
        _fill(flat, rate, lambda first, groups: _drawn(groups, mask.device, generator))
        return
    key = new_key(generator)
    _fill(flat, rate, lambda first, groups: _mixed_bytes(first, groups, key))


def _fill(mask: torch.Tensor, rate: float, random: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]) -> None:
    # The rarer of the two outcomes is "below the threshold", which is thus never one past the last int8.
    dropped = threshold(rate)
    whole, rest = divmod(min(dropped, _STEPS - dropped), 256)
    every, step = -(-len(mask) // _GROUP), _AT_ONCE if mask.device.type == "cpu" else 1 << 40
    for first in range(0, every, step):
        drawn, extra = random(first, min(step, every - first))
        # As signed bytes, so that 128 is the middle: the comparison that gives int8 is vectorised, in place.
        limits = extra.lt_(rest - 128).add_(whole - 128).view(-1, 1)
        kept = drawn.ge_(limits) if 2 * dropped <= _STEPS else drawn.lt_(limits)
        part = mask[first * _GROUP : (first + step) * _GROUP]
        part.copy_(kept.view(-1)[: len(part)])


def _drawn(groups: int, device: torch.device, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.empty(-(-groups * (_GROUP + 1) // 8), dtype=torch.int64, device=device)
    drawn = words.random_(-(1 << 63), None, generator=generator).view(torch.int8)
    return drawn[: groups * _GROUP].view(groups, _GROUP), drawn[groups * _GROUP : groups * (_GROUP + 1)]


def _mixed_bytes(first: int, groups: int, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.arange(first * _GROUP // 4, (first + groups) * _GROUP // 4)
    drawn = _mix(words, *key).view(torch.int8).view(groups, _GROUP)
    extra = _mix(torch.arange(first, first + groups), *reversed(key)).view(torch.int8)[::4].clone()
    return drawn.bitwise_xor_(-128), extra.bitwise_xor_(-128)  # from unsigned to signed order


def _mix(numbers: torch.Tensor, first: int, second: int) -> torch.Tensor:
    """32 bits for each number, as int32, whose arithmetic wraps as that of unsigned numbers does."""
    mixed = _round(numbers.add_(first).to(torch.int32))
    return _round(mixed.bitwise_xor_(second))


def _round(x: torch.Tensor) -> torch.Tensor:
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(0x7FEB352D)
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(0x846CA68B)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
