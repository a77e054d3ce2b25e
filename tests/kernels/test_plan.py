"""What a call is to do: its chunks, its memory, its random numbers, and what is refused in whole sentences."""

import math
import re

import pytest
import torch
from kernels.test_dense_block import make, run_ours
from kernels.textbook import parameters_of, statistics_of

from densely.kernels import LayerParameters, RunningStatistics, dropout, plan
from densely.kernels.memory import Scratch
from densely.kernels.plan import (
    Options,
    Plan,
    TransitionPlan,
    dropout_source,
    in_autocast,
    make_plan,
    make_transition_plan,
)
from densely.kernels.replicas import Replicas


def planned(
    shape=(2, 6, 6), start=5, growth=4, bottleneck=8, depth=3, dtype=torch.float32, training=True, rate=0.0, seed=None,
    engine="operators", device="cpu", bias=True, frozen=None, replicas=None,
) -> Plan:  # fmt: skip
    block, x = make(depth, start, growth, bottleneck, dtype, (1, 1, 1), bias=bias)
    x = x.expand(*shape, start).to(device)
    given = parameters_of(block), statistics_of(block, frozen)
    return make_plan(x, *given, Options(training, 0.9, 1e-3, rate, seed, replicas), engine)


def layer_of(c=3, out=2, kernel=None, **more) -> LayerParameters:
    return LayerParameters(torch.ones(c), torch.zeros(c), torch.ones(kernel or (1, 1, c, out)), **more)


MOVING = RunningStatistics(torch.zeros(3), torch.ones(3))


def transition_planned(
    shape=(2, 4, 4, 3), layer=None, rate=0.0, seed=None, engine="operators", replicas=None
) -> TransitionPlan:
    x, layer = torch.ones(shape), layer or layer_of()
    return make_transition_plan(x, layer, MOVING, Options(True, 0.9, 1e-3, rate, seed, replicas), engine)


# -------------------------------------------------------------------------------------------------------------- chunks

SHAPES = [(1, 1, 1), (7, 1, 1), (3, 5, 7), (2, 8, 12), (40, 32, 32), (5, 64, 64), (1, 300, 300)]


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_rows_are_read_as_one_as_divide_every_image_and_fit(shape):
    made, pixels = planned(shape), math.prod(shape[1:])
    for channels in (1, 3, 4, 16, 64, 127, 128, 129, 600):
        fits = [f for f in (2, 4, 8, 16, 32, 64) if pixels % f == 0 and f * channels <= 256]
        assert made.fold(channels) == max([1, *fits])


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_are_as_large_as_they_may_be(shape, dtype, device):
    made, pixels, image = planned(shape, dtype=dtype, device=device), math.prod(shape), math.prod(shape[1:])
    budget = 2**21 if device == "cpu" else 2**26
    for channels in (1, 16, 100, 600, 10_000, 20_000_000):
        row = channels * (8 if dtype == torch.float64 else 4)  # as if in the dtype of sums
        rows = made.row_step(channels)
        assert rows == pixels or rows % 64 == 0
        assert rows * row <= budget or rows == min(64, pixels)
        assert rows == pixels or (rows + 64) * row > budget
        whole = made.image_step(channels)
        assert whole % image == 0 and whole <= pixels
        assert whole * row <= budget or whole == image
        assert whole == pixels or (whole + image) * row > budget
        # A convolution has an operand on either side.
        assert made.spatial_step(channels) == made.image_step(max(channels, 4))


def test_chunks_are_all_rows_in_their_order():
    made = planned((3, 5, 7))
    rows = torch.arange(105 * 2).view(105, 2)
    for step, count in [(1, 105), (52, 3), (53, 2), (104, 2), (105, 1), (200, 1)]:
        assert made.count(step) == count
        numbers, ours, none, too = zip(*made.chunks(step, rows, None, 2 * rows), strict=True)
        assert numbers == tuple(range(count)) and none == (None,) * count
        assert torch.equal(torch.cat(ours), rows) and torch.equal(torch.cat(too), 2 * rows)
        assert {len(chunk) for chunk in ours[:-1]} <= {step}


@pytest.mark.parametrize("chunk", [1, 2000, 1 << 21])
@pytest.mark.parametrize("mode", ["training", "asked"])
@pytest.mark.parametrize("bottleneck", [0, 3, 8])
@pytest.mark.parametrize(("start", "growth"), [(20, 4), (2, 9)])
def test_scratch_has_room_for_the_largest_chunk_and_no_more(start, growth, bottleneck, mode, chunk, monkeypatch):
    monkeypatch.setattr(plan, "_CPU_CHUNK", chunk)
    monkeypatch.setenv("DENSELY_NATIVE", "0")
    asked_for, view = [], Scratch.view
    monkeypatch.setattr(Scratch, "view", lambda self, shape: asked_for.append(math.prod(shape)) or view(self, shape))
    block, x = make(3, start, growth, bottleneck, torch.float32, (4, 9, 10))
    if mode == "training":
        run_ours(block, x.bfloat16())[0].sum().backward()
    else:
        with torch.no_grad():
            run_ours(block.eval(), x.bfloat16())
    made = planned((4, 9, 10), start, growth, bottleneck, dtype=torch.bfloat16, training=mode == "training")
    assert made.scratch_elements() == max(asked_for)


def test_tensors_are_in_the_maps_dtype_unless_told():
    made = planned(dtype=torch.bfloat16, device="meta")
    for tensor, dtype in [(made.empty((2, 3)), torch.bfloat16), (made.empty((2, 3), torch.int8), torch.int8)]:
        assert (tensor.shape, tensor.dtype, tensor.device.type) == ((2, 3), dtype, "meta")
    for scratch, dtype in [(made.scratch(), torch.bfloat16), (made.scratch(torch.float32), torch.float32)]:
        assert scratch.dtype == scratch.flat.dtype == dtype and scratch.flat.device.type == "meta"
        assert len(scratch.flat) == made.scratch_elements()


# ------------------------------------------------------------------------------------------------- dtypes and dropout


def test_autocast_decides_the_dtype_of_all_but_float64():
    x = torch.ones(2, dtype=torch.float32)
    assert in_autocast(x) is x
    with torch.autocast("cpu", torch.bfloat16):
        assert in_autocast(x).dtype == in_autocast(x.half()).dtype == torch.bfloat16
        assert in_autocast(x.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_in_float32_or_better(dtype):
    made = planned(dtype=dtype)
    assert made.dtype == dtype
    assert made.sums == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_where_random_numbers_come_from():
    cpu, generator, words = torch.device("cpu"), torch.Generator(), torch.tensor([3, 1])
    for engine in ("operators", "native", "triton"):
        assert dropout_source(None, cpu, engine) == (None, None)
        assert dropout_source(generator, cpu, engine) == (generator, None)
        made, left = dropout_source(7, cpu, engine)
        assert made.initial_seed() == 7 and left is None
    for engine in ("operators", "native"):
        made, left = dropout_source(words, cpu, engine)
        assert made.initial_seed() == dropout.keys(words, 1)[0, 0].item() and left is None
    none, left = dropout_source(words, cpu, "triton")
    assert none is None and left is words


@pytest.mark.parametrize("kind", [planned, transition_planned])
def test_dropout_is_on_in_training_with_a_rate(kind):
    made = kind(rate=0.25, seed=7)
    assert made.rate == 0.25 and made.generator.initial_seed() == 7
    assert kind(rate=0.0, seed=7).generator is None and kind().rate == 0.0
    words = torch.tensor([1, 2])
    assert kind(rate=0.25, seed=words, engine="triton").seed is words
    for rate in (1.0, -0.1):
        with says(f"The dropout rate must be at least 0 and below 1, not {rate}."):
            kind(rate=rate)


def test_dropout_is_off_where_nothing_is_trained():
    made = planned(training=False, rate=0.25, seed=7)
    assert (made.rate, made.generator, made.seed) == (0.0, None, None) and made.asked


# ------------------------------------------------------------------------------------------------------------- refused


def says(message: str):
    """Refused with exactly these words."""
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def refused(message: str, x: torch.Tensor, layers, statistics) -> None:
    with says(message):
        make_plan(x, layers, statistics, Options(True, 0.9, 1e-3, 0.0, None, None), "operators")


def test_inputs_that_no_block_takes():
    block, x = make(dtype=torch.float32)
    given = parameters_of(block), statistics_of(block)
    said = "A dense block takes floating-point images (N, H, W, C), not "
    refused(said + "(6, 6, 5) of torch.float32.", x[0], *given)
    refused(said + "(2, 6, 6, 5) of torch.int64.", x.long(), *given)
    said = "A dense block needs at least one pixel and one channel, but x is "
    refused(said + "(0, 6, 6, 5).", x[:0], *given)
    refused(said + "(2, 6, 6, 0).", x[..., :0], *given)
    said = "A dense block needs statistics for each of its layers, ≥ 1: "
    refused(said + "0, 0.", x, [], [])
    refused(said + "3, 2.", x, given[0], given[1][:2])


@pytest.mark.parametrize("bottleneck", [0, 8])
@pytest.mark.parametrize("index", [0, 2])
def test_every_tensor_of_another_shape_is_named(bottleneck, index):
    block, x = make(3, 5, 4, bottleneck, torch.float32, bias=True)
    parameters, statistics = parameters_of(block), statistics_of(block)
    for given in (parameters, statistics):
        for name, value in given[index]._asdict().items():
            if not isinstance(value, torch.Tensor) or (index == 0 and name.startswith("kernel")):
                continue  # flags; and the first layer's kernels say what growth and bottleneck are
            others = [value[:-1], *([] if name.startswith("bias") else [None])]
            for other in others:
                broken = {id(g): list(g) for g in (parameters, statistics)}
                broken[id(given)][index] = given[index]._replace(**{name: other})
                refused(
                    f"Layer {index} of the dense block: {name} is {None if other is None else tuple(other.shape)}, "
                    f"expected {tuple(value.shape)} ({5 + 4 * index} channels in, growth 4, "
                    f"bottleneck {bottleneck or 'none'}).",
                    x, *broken.values(),
                )  # fmt: skip


def test_a_plain_layer_has_nothing_of_a_second():
    block, x = make(1, 5, 4, 0, torch.float32)
    (layer,), statistics = parameters_of(block), statistics_of(block)
    said = "Layer 0 of the dense block: gamma2 is (4,), expected None (5 channels in, growth 4, bottleneck none)."
    refused(said, x, [layer._replace(gamma2=torch.ones(4))], statistics)


def test_biases_may_be_left_out_and_one_layer_is_enough():
    assert planned(bias=False).depth == 3
    alone = planned(depth=1)
    assert (alone.depth, alone.growth, alone.bottleneck, alone.width) == (1, 4, 8, 9)


@pytest.mark.parametrize("shape", [(4, 4, 3), (2, 1, 4, 3), (2, 4, 1, 3), (0, 4, 4, 3)])
def test_inputs_that_no_transition_takes(shape):
    with says(f"A transition takes images (N, H, W, C) of at least 2 by 2 pixels, not {shape}."):
        transition_planned(shape)
    assert transition_planned((1, 2, 2, 3)).size == (2, 2)


@pytest.mark.parametrize("kernel", [(1, 1, 4, 2), (3, 3, 3, 2), (1, 2, 3, 2)])
def test_layers_that_no_transition_has(kernel):
    said = "A transition of 3 channels has one 1×1 kernel, not "
    with says(f"{said}{kernel}."):
        transition_planned(layer=layer_of(kernel=kernel))
    with says(said + "(1, 1, 3, 2)."):
        transition_planned(layer=layer_of(kernel2=torch.ones(3, 3, 2, 2)))


def test_a_plan_says_all_of_its_call():
    replicas = Replicas(0.5)
    for made in (transition_planned((2, 4, 6, 3), replicas=replicas), planned((2, 4, 6), replicas=replicas)):
        assert (made.images, made.size, made.momentum, made.epsilon) == (2, (4, 6), 0.9, 1e-3)
        assert made.replicas is replicas and made.training and made.engine == "operators"
    made = transition_planned()
    assert (made.channels, made.filters, made.statistics) == (3, 2, MOVING)
    assert transition_planned((1, 2, 2, 1), layer_of(1)).channels == 1


@pytest.mark.parametrize("training", [True, False])
def test_what_is_frozen_goes_by_its_moving_statistics_in_training_too(training):
    frozen = [(True, False), (False, True), (False, False), (True, True)]
    made = planned(depth=4, training=training, frozen=frozen)
    assert [(made.by_batch(i, 1), made.by_batch(i, 2)) for i in range(4)] == [
        (training and not first, training and not second) for first, second in frozen
    ]
    assert made.asked != training
    assert planned(depth=1, frozen=[(True, True)]).asked
    assert planned(depth=1, bottleneck=0, frozen=[(True, False)]).asked
    assert not planned(depth=1, frozen=[(True, True)], rate=0.5).asked
