"""The fused dense block against a textbook program: outputs, gradients, moving statistics, memory, and its edges."""

import copy
import gc
import threading

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kernels.textbook import TextbookBlock, parameters_of, statistics_of

from densely.kernels import LayerParameters, RunningStatistics, dense_block, plan
from densely.kernels.native.library import slab as native_slab
from densely.kernels.operators import products

EXACT = {torch.float32: 1e-5, torch.float64: 1e-10}


def channels_last(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 2, 3, 1)


def channels_first(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2)


def assert_close(ours: torch.Tensor | None, theirs: torch.Tensor | None, tolerance: float, floor: float = 1e-3) -> None:
    """The largest difference, relative to the largest value or to `floor`: some gradients are 0 but for rounding."""
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert ours.shape == theirs.shape
        difference = (ours.double() - theirs.double()).abs().max().item()
        assert difference <= tolerance * max(theirs.abs().max().item(), floor)


def assert_near(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float, floor: float = 1e-3) -> None:
    """The difference's length relative to the length of the whole: for what rounding may tip over, here and there.

    A ReLU whose input is within rounding of zero may be open in one program and shut in the other. Among a million
    float32 activations that happens now and then; in bfloat16 it is everyday. One such pixel is far from 1e-5, yet
    nothing is wrong.
    """
    assert ours.shape == theirs.shape
    assert (ours.double() - theirs.double()).norm() <= tolerance * max(theirs.norm().item(), floor)


def make(
    depth=3, start=5, growth=4, bottleneck=8, dtype=torch.float64, shape=(2, 6, 6), seed=0, **options
) -> tuple[TextbookBlock, torch.Tensor]:
    torch.manual_seed(seed)
    block = TextbookBlock(depth, start, growth, bottleneck, **options).to(dtype)
    return block, torch.randn(*shape, start, dtype=dtype)


def run_ours(block: TextbookBlock, x: torch.Tensor, **options):
    frozen = options.pop("frozen", None)
    statistics = statistics_of(block, frozen)
    settings = {"training": block.training, "momentum": block.momentum, "epsilon": block.epsilon, "dropout": block.rate}
    return dense_block(x, parameters_of(block), statistics, **(settings | options)), statistics


def compare(block: TextbookBlock, x: torch.Tensor, tolerance: float = 0.0, close=assert_close) -> None:
    """Forward, backward and moving statistics; the textbook program always in float64."""
    tolerance = tolerance or EXACT[x.dtype]
    block.zero_grad()
    reference = copy.deepcopy(block).double()
    x, x64 = x.detach().requires_grad_(), x.detach().double().requires_grad_()
    ours, statistics = run_ours(block, x)
    theirs = channels_last(reference(channels_first(x64)))
    assert ours.dtype == x.dtype
    assert ours.is_contiguous()
    close(ours, theirs, tolerance)

    gradient = torch.randn(theirs.shape, dtype=x.dtype, device=x.device)
    ours.backward(gradient)
    theirs.backward(gradient.double())
    close(x.grad, x64.grad, tolerance)
    largest = max(p.grad.abs().max().item() for p in reference.parameters())
    for (name, p), q in zip(block.named_parameters(), reference.parameters(), strict=True):
        assert p.grad.dtype == p.dtype
        if name.endswith("conv1.bias") and block.layers[0].norm2 is not None and block.training:
            close(
                p.grad / largest, q.grad / largest, 100 * tolerance, floor=1.0
            )  # a mean that the second BN takes out: 0
        else:
            close(p.grad, q.grad, tolerance, floor=0.1 * largest)
    for mine, layer in zip(statistics, reference.layers, strict=True):
        close(mine.mean1, layer.norm1.running_mean, tolerance)
        close(mine.variance1, layer.norm1.running_var, tolerance)
        if layer.norm2 is not None:
            close(mine.mean2, layer.norm2.running_mean, tolerance)
            close(mine.variance2, layer.norm2.running_var, tolerance)


blocks = st.fixed_dictionaries(
    {
        "depth": st.integers(1, 4),
        "start": st.integers(1, 9),
        "growth": st.integers(1, 7),
        "bottleneck": st.sampled_from([0, 1, 4, 9]),
        "bias": st.booleans(),
        "shape": st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
        "seed": st.integers(0, 99),
    }
)


@given(blocks, st.booleans())
@settings(max_examples=40, deadline=None)
def test_equals_the_textbook_in_float64(options, training):
    block, x = make(**options)
    compare(block.train(training), x)


def everything_ours(
    block: TextbookBlock, x: torch.Tensor, gradient: torch.Tensor, **options
) -> dict[str, torch.Tensor]:
    block, x = copy.deepcopy(block), x.clone().requires_grad_()
    output, statistics = run_ours(block, x, **options)
    output.backward(gradient)
    moved = {f"{i}.{k}": v for i, s in enumerate(statistics) for k, v in s._asdict().items() if torch.is_tensor(v)}
    return {"output": output, "x": x.grad, **{n: p.grad for n, p in block.named_parameters()}, **moved}


def everything_textbook(block: TextbookBlock, x: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    block, x = copy.deepcopy(block).to(x.dtype), x.clone().requires_grad_()
    output = channels_last(block(channels_first(x)))
    output.backward(gradient)
    moved = {
        f"{i}.{kind}{n}": getattr(norm, name)
        for i, layer in enumerate(block.layers)
        for n, norm in ((1, layer.norm1), (2, layer.norm2))
        if norm is not None
        for kind, name in (("mean", "running_mean"), ("variance", "running_var"))
    }
    return {"output": output, "x": x.grad, **{n: p.grad for n, p in block.named_parameters()}, **moved}


def distance_from_any_edge(block: TextbookBlock, x: torch.Tensor) -> float:
    """The smallest absolute input of any ReLU, in float64."""
    block, nearest = copy.deepcopy(block).double(), []
    for module in block.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(lambda _module, _inputs, output: nearest.append(output.abs().min().item()))
    block(channels_first(x.double()))
    return min(nearest)


@given(blocks, st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_float32_is_within_1e_5_or_as_near_as_pytorch_s_own_program(options, training):
    """Few pixels have a tiny variance, which amplifies any rounding, PyTorch's as much as ours."""
    # A single pixel has none at all, and what is left is rounding alone; float64, above, covers it.
    options["shape"] = tuple(max(side, low) for side, low in zip(options["shape"], (1, 3, 3), strict=True))
    # From a single map a bottleneck makes maps that are all alike, and a kernel's gradient is what is left of sums that
    # cancel: there 4 of 750 examples were 1e-5 to 4e-5 off (by operators 2, to 1.2e-4); from two on none beyond 5e-6.
    options["start"] = max(options["start"], 2)
    block, x = make(**options, dtype=torch.float32)
    block.train(training)
    gradient = torch.randn(*x.shape[:3], options["start"] + options["depth"] * options["growth"])
    # Where rounding tips a ReLU, one program's gradient is another's zero: examples on the edge say nothing.
    assume(distance_from_any_edge(block, x) > 1e-4)
    exact = everything_textbook(block, x.double(), gradient.double())
    peer = everything_textbook(block, x, gradient)
    ours = everything_ours(block, x, gradient)
    assert ours.keys() == peer.keys() == exact.keys()
    largest = max(t.norm().item() for t in exact.values())
    for name, truth in exact.items():
        if name.endswith("conv1.bias") and options["bottleneck"] and training:
            # The second BN takes out whatever mean this adds: the gradient is zero, the difference of large sums.
            assert ours[name].norm().item() <= 1e-3 * largest
            continue
        allowed = max(1e-5 * max(truth.norm().item(), 0.1 * largest), 5 * (peer[name] - truth).norm().item())
        assert (ours[name] - truth).norm().item() <= allowed, name


@pytest.mark.parametrize("bottleneck", [0, 48])
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_textbook_over_many_chunks(bottleneck, training):
    block, x = make(4, 24, 12, bottleneck, torch.float64, (10, 32, 32))
    compare(block.train(training), x)


@pytest.mark.parametrize("bottleneck", [0, 48])
def test_equals_the_textbook_over_many_chunks_in_float32(bottleneck):
    block, x = make(4, 24, 12, bottleneck, torch.float32, (10, 32, 32))
    reference = copy.deepcopy(block).double()
    assert_close(run_ours(block, x)[0], channels_last(reference(channels_first(x.double()))), 1e-5)
    compare(block, x, 3e-3, assert_near)


@pytest.mark.parametrize("bottleneck", [0, 4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 7, 3), (3, 8, 16), (1, 33, 9)])
def test_the_smallest_chunks(bottleneck, training, shape, monkeypatch):
    monkeypatch.setattr(plan, "_CPU_CHUNK", 1)
    block, x = make(3, 5, 4, bottleneck, shape=shape)
    compare(block.train(training), x)


@pytest.mark.parametrize("training", [True, False])
def test_products_by_convolution(training, monkeypatch):
    """What AMD processors use."""
    monkeypatch.setenv("DENSELY_NATIVE", "0")
    monkeypatch.setattr(products, "pointwise_by_convolution", lambda: True)
    block, x = make(3, 5, 4, 8, torch.float32, bias=True)
    compare(block.train(training), x)


@pytest.mark.parametrize("bottleneck", [0, 4])
def test_one_pixel(bottleneck):
    block, x = make(bottleneck=bottleneck, shape=(1, 1, 1))
    compare(block, x)


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bottleneck", [0, 48])
def test_bfloat16_is_as_exact_as_pytorchs_autocast(training, bottleneck, native, monkeypatch):
    """Outputs within 1 % of the truth; a gradient's error at most a quarter above autocast's own (1 to 15 %)."""
    monkeypatch.setenv("DENSELY_NATIVE", native)
    block, x = make(4, 24, 12, bottleneck, torch.float32, (4, 16, 16))
    block.train(training)
    exact, textbook = copy.deepcopy(block).double(), copy.deepcopy(block)
    x = x.bfloat16()
    x64, x16, x_ours = x.double().requires_grad_(), x.clone().requires_grad_(), x.clone().requires_grad_()
    truth = exact(channels_first(x64))
    with torch.autocast("cpu", torch.bfloat16):
        theirs = textbook(channels_first(x16))
    ours, _ = run_ours(block, x_ours)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    gradient = torch.randn_like(theirs)
    truth.backward(gradient.double())
    theirs.backward(gradient)
    ours.backward(channels_last(gradient))

    def error(result, true):
        return ((result.double() - true).norm() / true.norm()).item()

    assert error(channels_first(ours), truth) <= 0.01
    assert error(x_ours.grad, x64.grad) <= 1.25 * error(x16.grad, x64.grad)
    for p, q, r in zip(block.parameters(), textbook.parameters(), exact.parameters(), strict=True):
        assert p.grad.dtype == torch.float32
        assert error(p.grad, r.grad) <= 1.25 * error(q.grad, r.grad) + 0.005


def test_autocast_decides_the_dtype():
    block, x = make(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = run_ours(block, x)
    assert output.dtype == torch.bfloat16


def test_bfloat16_keeps_float32_gradients_and_statistics():
    block, x = make(dtype=torch.float32)
    output, statistics = run_ours(block, x.bfloat16())
    output.float().sum().backward()
    assert {p.grad.dtype for p in block.parameters()} == {torch.float32}
    assert statistics[0].variance1.dtype == torch.float32


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_is_not_swallowed(dtype, native, monkeypatch):
    monkeypatch.setenv("DENSELY_NATIVE", native)
    block, x = make(dtype=torch.float32, start=32)
    x[0, 0, 0, 0] = float("nan")
    for training in (True, False):
        output, _ = run_ours(block.train(training), x.to(dtype))
        assert output[0, 0, 0, 32:].isnan().all()


# --------------------------------------------------------------------------------------------- gradients, by gradcheck


def gradcheck(block: TextbookBlock, x: torch.Tensor, frozen=None, **options) -> None:
    statistics = statistics_of(block, frozen)
    parameters = [[None if t is None else t.detach().requires_grad_() for t in layer] for layer in parameters_of(block)]

    def function(x, *flat):
        rest = iter(flat)
        layers = [LayerParameters(*(None if t is None else next(rest) for t in layer)) for layer in parameters]
        fresh = [RunningStatistics(*(t.clone() if isinstance(t, torch.Tensor) else t for t in s)) for s in statistics]
        return dense_block(x, layers, fresh, training=block.training, epsilon=block.epsilon, **options)

    flat = [t for layer in parameters for t in layer if t is not None]
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), *flat))


@pytest.mark.parametrize("bottleneck", [0, 3])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("mode", ["training", "frozen", "partly frozen", "inference"])
def test_gradcheck(bottleneck, rate, mode):
    block, x = make(2, 2, 2, bottleneck, shape=(2, 3, 2), bias=True)
    frozen = {"frozen": [(True, True)] * 2, "partly frozen": [(True, False), (False, True)]}.get(mode)
    gradcheck(block.train(mode != "inference"), x, frozen, dropout=rate, seed=3)


def test_gamma_of_zero_and_channels_without_variance():
    block, x = make(3, 5, 4, 8)
    with torch.no_grad():
        for layer in block.layers:
            layer.norm1.weight[::2] = 0.0
            layer.norm2.weight[1::2] = 0.0
            layer.norm1.weight[1], layer.norm1.bias[1] = 0.0, 0.0
            layer.norm2.weight[3] = 1e-9
    x[..., 1], x[..., 2] = 0.0, 7.5
    compare(block, x)
    for layer in block.layers:
        layer.norm2.weight.data.zero_()
        layer.norm1.weight.data.zero_()
    compare(block, x)


def test_small_gammas_keep_float32_accuracy():
    block, x = make(3, 12, 6, 16, torch.float32, (4, 8, 8))
    with torch.no_grad():
        for layer in block.layers:
            for norm in (layer.norm1, layer.norm2):
                norm.weight.mul_(10.0 ** -torch.randint(0, 7, norm.weight.shape))
    compare(block, x)


def test_large_means_keep_their_variance():
    block, x = make(3, 12, 6, 16, torch.float32, (4, 8, 8))
    compare(block, x + 30.0, tolerance=1e-4)


# ---------------------------------------------------------------------------------------------------- autograd manners


#: By operators, and by the compiled loops where they are.
by_either = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
SAME = {torch.float64: 1e-12, torch.float32: 1e-6}


@by_either
def test_any_strides_in_and_back(dtype):
    block, x = make(dtype=dtype)
    plain = x.clone().requires_grad_()
    output, _ = run_ours(block, plain)
    gradient = torch.randn_like(output)
    output.backward(gradient)

    strided = torch.empty(2, 5, 6, 12, dtype=x.dtype)[..., ::2].permute(0, 3, 2, 1).copy_(x).requires_grad_()
    again, _ = run_ours(block, strided)
    assert_close(again, output, SAME[dtype])
    again.backward(gradient.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
    assert_close(strided.grad, plain.grad, SAME[dtype])
    strided.grad = None
    broadcast, _ = run_ours(block, strided)
    broadcast.sum().backward()  # of one number, everywhere
    (ones,) = torch.autograd.grad(run_ours(block, plain)[0], plain, torch.ones_like(output))
    assert_close(strided.grad, ones, SAME[dtype])


@by_either
def test_only_some_gradients_wanted(dtype):
    block, x = make(bias=True, dtype=dtype)
    full = copy.deepcopy(block)
    output, _ = run_ours(full, x)
    output.square().sum().backward()
    wanted = {"layers.1.norm1.bias", "layers.2.conv2.weight", "layers.1.conv1.bias"}
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(name in wanted)
    output, _ = run_ours(block, x)
    output.square().sum().backward()
    for (name, p), q in zip(block.named_parameters(), full.parameters(), strict=True):
        assert_close(p.grad, q.grad if name in wanted else None, SAME[dtype])


@by_either
def test_only_the_input_wants_a_gradient(dtype):
    block, x = make(dtype=dtype)
    theirs = x.clone().requires_grad_()
    run_ours(block, theirs)[0].square().sum().backward()
    mine = x.clone().requires_grad_()
    run_ours(block.requires_grad_(False), mine)[0].square().sum().backward()
    assert_close(mine.grad, theirs.grad, SAME[dtype])


def test_gradients_accumulate_and_blocks_share_a_graph():
    first, x = make(2, 5, 4, 8)
    second = TextbookBlock(2, 13, 3, 0).double()
    reference = copy.deepcopy(torch.nn.ModuleList([first, second]))
    for _ in range(2):
        y, _ = run_ours(first, x)
        z, _ = run_ours(second, y)
        again, _ = run_ours(first, 2.0 * x)  # one block twice in a graph
        (z.square().sum() + again.sum()).backward()
        theirs = reference[0](channels_first(x))
        (reference[1](theirs).square().sum() + reference[0](2.0 * channels_first(x)).sum()).backward()
    mine = [*first.parameters(), *second.parameters()]
    for p, q in zip(mine, reference.parameters(), strict=True):
        assert_close(p.grad, q.grad, 1e-9)


@by_either
def test_backward_twice_through_a_kept_graph(dtype):
    block, x = make(rate=0.3, dtype=dtype)
    x.requires_grad_()
    output, _ = run_ours(block, x)
    (once,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
    (twice,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(once, twice)


@by_either
def test_second_differentiation_is_refused(dtype):
    block, x = make(dtype=dtype)
    x.requires_grad_()
    output, _ = run_ours(block, x)
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_change_of_the_output_in_place_is_noticed():
    block, x = make()
    output, _ = run_ours(block, x)
    loss = output.square().sum()
    output.detach().add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@by_either
def test_a_change_of_the_weights_in_place_is_noticed(dtype):
    block, x = make(dtype=dtype)
    output, _ = run_ours(block, x)
    with torch.no_grad():
        block.layers[1].conv1.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@by_either
def test_incoming_gradient_is_left_alone(dtype):
    block, x = make(dtype=dtype)
    output, _ = run_ours(block, x.requires_grad_())
    gradient = torch.randn_like(output)
    before = gradient.clone()
    output.backward(gradient)
    assert torch.equal(gradient, before)


def test_threads_do_not_disturb_each_other():
    jobs = [make(3, 24, 12, 16, torch.float32, (4, 16, 16), seed=i) for i in range(4)]
    alone = [run_ours(block, x)[0].detach() for block, x in jobs]
    same = [True] * len(jobs)

    def work(i):
        for _ in range(3):
            output, _ = run_ours(*jobs[i])
            same[i] &= torch.allclose(output, alone[i], rtol=1e-6, atol=1e-6)
            output.sum().backward()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same)


def test_no_reference_cycles():
    block, x = make(dtype=torch.float32)
    gc.collect()
    gc.disable()
    try:
        output, _ = run_ours(block, x)
        alive = torch.utils.weak.WeakTensorKeyDictionary({output: None})
        output.sum().backward()
        del output
        assert len(alive) == 0
    finally:
        gc.enable()


# ---------------------------------------------------------------------------------------------------------- statistics


def test_moving_statistics_move_once_in_training_and_never_else():
    block, x = make(dtype=torch.float32)
    before = statistics_of(block)
    for training, grad in [(True, True), (True, False), (False, True), (False, False)]:
        with torch.set_grad_enabled(grad):
            _, after = run_ours(block, x, training=training)
        expected = 0.9 * before[0].mean1 + 0.1 * x.mean((0, 1, 2)) if training else before[0].mean1
        assert_close(after[0].mean1, expected, 1e-6)
        assert torch.equal(after[1].variance2, before[1].variance2) != training


def test_frozen_statistics_stay():
    block, x = make(3)
    output, after = run_ours(block, x, frozen=[(True, True), (False, True), (True, False)])
    before = statistics_of(block)
    assert torch.equal(after[0].mean1, before[0].mean1)
    assert torch.equal(after[0].variance2, before[0].variance2)
    assert not torch.equal(after[1].mean1, before[1].mean1)
    assert not torch.equal(after[2].mean2, before[2].mean2)
    first = copy.deepcopy(block).eval()
    assert_close(output[..., 5:9], channels_last(first(channels_first(x)))[..., 5:9], 1e-12)


@pytest.mark.parametrize("mode", ["training", "inference", "frozen"])
@pytest.mark.parametrize("bottleneck", [0, 48])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_without_gradients_the_same_output_and_nothing_kept(mode, bottleneck, dtype):
    parameters = torch.promote_types(dtype, torch.float32)
    block, x = make(3, 24, 12, bottleneck, parameters, (3, 64, 64), bias=dtype == torch.float64)
    x, frozen = x.to(dtype), [(mode == "frozen",) * 2] * 3
    with_graph, moved = run_ours(block.train(mode != "inference"), x, frozen=frozen)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t), torch.no_grad():
        without, moved_too = run_ours(block, x, frozen=frozen)
    assert not saved
    assert not without.requires_grad
    assert_close(without, with_graph, {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype])
    assert_close(moved[2].variance1, moved_too[2].variance1, 1e-6)


# -------------------------------------------------------------------------------------------------------------- memory


def saved_bytes(run, parameters) -> int:
    """Bytes of distinct storages that autograd keeps, parameters aside."""
    storages = {}
    known = {p.untyped_storage().data_ptr() for p in parameters}

    def pack(t):
        if t.untyped_storage().data_ptr() not in known:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = run()
    total = sum(storages.values())
    del kept
    return total


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("bottleneck", [0, 16])
def test_saved_bytes_grow_linearly_with_depth(bottleneck, native, monkeypatch):
    monkeypatch.setenv("DENSELY_NATIVE", str(int(native)))

    def measure(depth, ours):
        block, x = make(depth, 48, 12, bottleneck, torch.float32, (4, 32, 32), rate=0.2)
        run = (lambda: run_ours(block, x)[0]) if ours else (lambda: block(channels_first(x)))
        return saved_bytes(run, list(block.parameters()))

    ours = [measure(depth, True) for depth in (8, 16, 32)]
    theirs = [measure(depth, False) for depth in (8, 16, 32)]
    pixels = 4 * 32 * 32
    # Its output and mask, its bottleneck and mask: a byte an element, or where the loops are compiled a bit; and there
    # the bottleneck's maps fill whole slabs.
    mask, slab = (1 / 8, native_slab(torch.float32)) if native else (1, 1)
    a_layer = pixels * (4 * -(-bottleneck // slab) * slab + mask * bottleneck + (4 + mask) * 12)
    assert (ours[2] - ours[1]) / 16 == pytest.approx(a_layer, rel=0.05)
    assert ours[2] - ours[1] == pytest.approx(2 * (ours[1] - ours[0]), rel=0.05)
    assert theirs[2] - theirs[1] > 2.5 * (theirs[1] - theirs[0])
    assert ours[2] < 0.25 * theirs[2]


# -------------------------------------------------------------------------------------------------------------- errors


def test_the_meta_device_gets_a_shape():
    block, x = make(3, 5, 4, 8)
    output, statistics = run_ours(block, x.to("meta"), dropout=0.2, seed=1)
    assert output.is_meta
    assert output.shape == (2, 6, 6, 17)
    assert torch.equal(statistics[0].mean1, block.layers[0].norm1.running_mean)


def test_what_does_not_fit_is_said():
    block, x = make()
    parameters, statistics = parameters_of(block), statistics_of(block)
    with pytest.raises(ValueError, match=r"at least one pixel .* \(0, 6, 6, 5\)"):
        run_ours(block, x[:0])
    with pytest.raises(ValueError, match="floating-point images"):
        run_ours(block, x[0])
    with pytest.raises(ValueError, match=r"Layer 0 .* gamma1 is \(5,\), expected \(4,\)"):
        run_ours(block, x[..., 1:])
    broken = [parameters[0], parameters[1]._replace(kernel2=None), parameters[2]]
    with pytest.raises(ValueError, match=r"Layer 1 .* kernel2 is None"):
        dense_block(x, broken, statistics, training=True)
    with pytest.raises(ValueError, match="statistics for each"):
        dense_block(x, parameters, statistics[:2], training=True)
    with pytest.raises(ValueError, match="dropout rate"):
        run_ours(block, x, dropout=1.0)
