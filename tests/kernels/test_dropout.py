"""Dropout of the fused block: the rate, the expectation, the seed, one mask for both directions."""

import math

import pytest
import torch
from kernels.test_dense_block import make, run_ours

from densely.kernels import LayerParameters, RunningStatistics, dense_block, dropout


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.1, 0.001, 0.999, 1e-6, 1 - 1e-6])
def test_rate_is_right_to_statistical_error(rate):
    count = 2_000_000
    mask = torch.empty(count, dtype=torch.int8)
    dropout.draw(mask, rate, torch.Generator().manual_seed(1))
    assert set(mask.unique().tolist()) <= {0, 1}
    dropped = 1.0 - mask.sum(dtype=torch.int64).item() / count
    used = dropout.threshold(rate) / 65536
    assert abs(used - rate) <= 2**-17
    assert abs(dropped - used) <= 5 * math.sqrt(used * (1 - used) / count)


def test_scale_undoes_the_rate_in_expectation():
    for rate in (0.0, 0.2, 0.5, 0.9):
        assert dropout.scale(rate) * (1 - dropout.threshold(rate) / 65536) == pytest.approx(1.0, rel=1e-12)
    assert dropout.scale(1.0) == 0.0


def test_neighbours_are_independent():
    mask = torch.empty(1_000_000, dtype=torch.int8)
    dropout.draw(mask, 0.2, torch.Generator().manual_seed(2))
    centred = mask.double() - 0.8
    for lag in (1, 2, 3, 4, 8, 16):
        correlation = (centred[lag:] * centred[:-lag]).mean() / 0.16
        assert abs(correlation) < 5e-3


def mixed(number: int) -> int:
    """Wellons' `lowbias32`, as his page has it."""
    number ^= number >> 16
    number = number * 0x7FEB352D & 0xFFFFFFFF
    number ^= number >> 15
    number = number * 0x846CA68B & 0xFFFFFFFF
    return number ^ number >> 16


@pytest.mark.parametrize("rate", [0.2, 0.7, 0.5, 0.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_masks_are_what_the_mix_says_element_by_element(rate, seed):
    first, second = dropout.new_key(torch.Generator().manual_seed(seed))

    def mix(number: int, first: int, second: int) -> int:
        return mixed(mixed((number + first) & 0xFFFFFFFF) ^ second)

    mask = torch.empty(700, dtype=torch.int8)
    dropout.draw(mask, rate, torch.Generator().manual_seed(seed))
    below = min(rate, 1 - rate) * 65536
    for i in range(700):
        byte = mix(i // 4, first, second) >> 8 * (i % 4) & 0xFF
        extra = mix(i // 256, second, first) & 0xFF  # of its group
        rarer = byte * 256 + extra < round(below)
        assert mask[i] == (rarer if rate > 0.5 else not rarer)


def test_keys_are_two_numbers_of_32_bits():
    generator = torch.Generator().manual_seed(0)
    numbers = [number for _ in range(200) for number in dropout.new_key(generator)]
    assert min(numbers) >= 0 and 0.98 * 2**32 < max(numbers) < 2**32 and len(set(numbers)) == 400


def test_keys_from_a_seed_are_what_the_mix_says():
    for seed in ([5], [7, 2**32 - 1], [0, 1, 2**31]):
        expected = [mixed(i) for i in range(20)]
        for number in seed:
            expected = [mixed(one ^ number) for one in expected]
        assert dropout.keys(torch.tensor(seed), 10).flatten().tolist() == expected


def test_masks_on_a_device_that_has_only_shapes():
    """Nothing is read back, and nothing lies elsewhere."""
    dropout.draw(torch.empty(3, 1000, dtype=torch.int8, device="meta"), 0.2, None)


def test_a_device_s_own_generator_gives_every_byte_alike():
    """What masks on other devices are filled from, here from the processor's generator."""
    for groups in (1, 7, 400):
        drawn, extra = dropout._drawn(groups, torch.device("cpu"), torch.Generator().manual_seed(3))
        assert (drawn.shape, extra.shape, drawn.dtype) == ((groups, 256), (groups,), torch.int8)
    counts = torch.bincount(torch.cat([drawn.flatten(), extra]).long() + 128, minlength=256).double()
    expected = 400 * 257 / 256
    assert len(counts) == 256 and (counts - expected).abs().max() < 5 * math.sqrt(expected)
    again, _ = dropout._drawn(400, torch.device("cpu"), torch.Generator().manual_seed(3))
    assert torch.equal(drawn, again)
    drawn.zero_()
    assert extra.count_nonzero() > 380  # memory of its own


def test_seed_decides_everything():
    block, x = make(rate=0.4)
    outputs = [run_ours(block, x, seed=seed)[0] for seed in (7, 7, 8, torch.Generator().manual_seed(7))]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[3])
    assert not torch.equal(outputs[0], outputs[2])
    torch.manual_seed(5)
    first = run_ours(block, x)[0]
    second = run_ours(block, x)[0]
    torch.manual_seed(5)
    assert torch.equal(run_ours(block, x)[0], first)
    assert not torch.equal(first, second)


def test_keys_from_a_seed_that_stays_on_its_device():
    seeds = [torch.tensor(words) for words in ([5, 0], [5, 1], [6, 0], [5, 0, 1], [0, 5], [2**32 - 1, 0])]
    keys = torch.cat([dropout.keys(seed, 100) for seed in seeds])
    assert keys.shape == (600, 2) and keys.min() >= 0 and keys.max() < 2**32
    assert len(keys.unique(dim=0)) == 600
    assert torch.equal(keys[:3], dropout.keys(seeds[0], 3))
    # Every bit is as often set as not.
    bits = torch.stack([dropout.keys(torch.tensor([7, i]), 64) for i in range(200)])
    shares = torch.stack([(bits >> bit & 1).double().mean() for bit in range(32)])
    assert (shares - 0.5).abs().max() < 5 * 0.5 / math.sqrt(bits.numel())


def test_a_seed_may_be_a_tensor():
    block, x = make(rate=0.4)
    outputs = [run_ours(block, x, seed=torch.tensor(words))[0] for words in ([7, 0], [7, 0], [7, 1])]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_seed_gives_the_same_output_with_and_without_a_graph():
    block, x = make(3, 24, 12, 48, torch.float32, (6, 32, 32), rate=0.2)
    with_graph, _ = run_ours(block, x, seed=1)
    with torch.no_grad():
        without, _ = run_ours(block, x, seed=1)
    assert torch.equal(with_graph, without)


def test_off_in_inference():
    block, x = make(rate=0.4)
    assert torch.equal(run_ours(block.eval(), x, seed=1)[0], run_ours(block, x, dropout=0.0)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_forward_and_backward_use_one_mask_and_keep_the_expectation(dtype, bottleneck):
    """A layer that copies channels: what is dropped gets no gradient, what is kept is scaled the same both ways."""
    channels, shape = 16, (32, 16, 16, 16)
    vector, centre = torch.ones(channels), torch.zeros(3, 3, channels, channels)
    centre[1, 1] = torch.eye(channels)
    zeros = torch.zeros(channels)
    frozen = {"training": True, "epsilon": 0.0, "dropout": 0.2, "seed": 1}
    layer, statistics = LayerParameters(vector, zeros, centre), RunningStatistics(zeros, vector, frozen1=True)
    if bottleneck:
        layer = LayerParameters(vector, zeros, torch.eye(channels).view(1, 1, 16, 16), None, vector, zeros, centre)
        statistics = RunningStatistics(zeros, vector, zeros, vector, True, True)
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    new = dense_block(x, [layer], [statistics], **frozen)[..., channels:]
    (gradient,) = torch.autograd.grad(new.sum(), x)
    assert torch.equal(gradient, new.detach())
    kept = 0.8**2 if bottleneck else 0.8
    deviation = math.sqrt(kept * (1 - kept) / new.numel())
    assert abs((new != 0).double().mean().item() - kept) < 5 * deviation
    assert new.double().mean().item() == pytest.approx(
        1.0, abs=5 * deviation / kept + (4e-3 if dtype.itemsize == 2 else 0)
    )
