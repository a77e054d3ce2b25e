"""The compiled loops: the operators' results, however many threads; built once, refused where they must be."""

import copy
import stat
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernels.test_dense_block import assert_near, everything_ours, make, run_ours
from kernels.test_transition import everything, problem
from processes import Command

from densely.kernels import dropout
from densely.kernels.native import block, library
from densely.kernels.transition import transition

pytestmark = pytest.mark.skipif(
    library.why_not(torch.float32) is not None, reason=f"no compiled loops: {library.why_not(torch.float32)}"
)

# Not more pixels than that: rounding tips one ReLU in some millions, and then a gradient jumps.
few = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12))
many_small = st.tuples(st.integers(33, 40), st.integers(1, 3), st.integers(1, 4))  # two of them are one task
shapes = few | many_small


@given(
    st.integers(1, 4), st.integers(1, 60), st.integers(1, 30), st.sampled_from([0, 1, 24, 50]), shapes,
    st.booleans(), st.booleans(), st.sampled_from([0.0, 0.2, 0.7]),
    st.sampled_from([(False, False), (True, False), (False, True)]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
@example(2, 5, 4, 0, (1, 2, 128), False, True, 0.0, (False, False), 0)  # more bands than pairs of rows, were it so
@example(2, 5, 4, 8, (4, 4, 150), False, True, 0.0, (False, False), 0)
def test_blocks_are_the_operators_in_float64(
    depth, start, growth, bottleneck, shape, bias, training, rate, frozen, seed
):
    """With dropout: both engines draw the same masks."""
    net, x = make(depth, start, growth, bottleneck, torch.float32, shape, seed, bias=bias, rate=rate)
    net.train(training)
    options = {"seed": seed, "frozen": [frozen] * depth}
    gradient = torch.randn(*shape, start + depth * growth)
    ours = everything_ours(net, x, gradient, **options)
    exact = everything_ours(net.double(), x.double(), gradient.double(), **options)
    largest = max(t.norm().item() for t in exact.values())
    for name, truth in exact.items():
        assert_near(ours[name], truth, 3e-3 if "." in name or name == "x" else 1e-5, floor=0.3 * largest)


@given(
    st.integers(1, 4), st.integers(1, 60), st.integers(1, 30), st.sampled_from([0, 1, 24, 50]), shapes,
    st.booleans(), st.sampled_from([0.0, 0.2]), st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 4),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_in_one_go_a_block_is_its_layers(depth, start, growth, bottleneck, shape, bias, rate, dtype, frozen):
    """Also where x and the first layers want no gradients."""
    net, x = make(depth, start, growth, bottleneck, torch.float32, shape, bias=bias, rate=rate)
    x, gradient = x.to(dtype), torch.randn(*shape, start + depth * growth).to(dtype)
    found = []
    for whole in (True, False):
        block_, x_ = copy.deepcopy(net).train(), x.clone().requires_grad_(not frozen)
        for layer in block_.layers[: min(frozen, depth - 1)]:
            layer.requires_grad_(False)
        with pytest.MonkeyPatch.context() as patch:
            if not whole:
                patch.setattr(sys.modules["densely.kernels.dense_block"], "can_be_whole", lambda *_: False)
            output, statistics = run_ours(block_, x_, seed=3, momentum=0.7, epsilon=0.01)
            assert ("WholeBlock" in type(output.grad_fn).__name__) == whole
            output.backward(gradient)
        moved = [t for s in statistics for t in s if torch.is_tensor(t)]
        found.append([output, x_.grad, *(p.grad for p in block_.parameters()), *moved])
    largest = max(t.float().norm().item() for t in found[0] if t is not None)
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_near(one, other, 1e-6 if dtype == torch.float32 else 1e-3, floor=0.1 * largest)


@given(
    st.integers(1, 4), st.integers(1, 60), st.integers(1, 30), st.sampled_from([0, 1, 24, 50]), shapes,
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_blocks_that_are_only_asked_are_the_operators_in_float64(depth, start, growth, bottleneck, shape, bias, seed):
    net, x = make(depth, start, growth, bottleneck, torch.float32, shape, seed, bias=bias)
    net.eval()
    with torch.no_grad():
        found = run_ours(net, x)[0]
        exact = run_ours(net.double(), x.double())[0]
    assert_near(found, exact, 1e-5)


@given(
    st.integers(1, 60), st.integers(1, 30), st.sampled_from([0, 1, 24, 50]), shapes, st.booleans(), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
@example(12, 6, 24, (2, 21, 14), False, 0)  # several groups of rows in a band
@example(40, 12, 0, (8, 33, 32), True, 1)
@example(24, 12, 48, (41, 8, 8), False, 2)  # two whole images are a task, the last has one
def test_small_whole_numbers_are_exact_in_bfloat16(start, growth, bottleneck, shape, bias, seed):
    """So layers give the very same in either type, odd numbers of channels and pixels left over by pairs included."""
    net, x = make(2, start, growth, bottleneck, torch.float32, shape, seed, bias=bias)
    for name, values in net.state_dict().items():
        some = torch.rand(values.shape) < values.numel() ** -0.4
        values.copy_(torch.randint(-1, 2, values.shape) * some)
        if name.endswith(("running_var", "norm1.weight", "norm2.weight")):
            values.fill_(1)
    x, gradient = torch.randint(-2, 4, x.shape), torch.randint(-1, 2, (*shape, start + 2 * growth))
    torch.use_deterministic_algorithms(True)  # fills what is fresh with NaNs: nothing may be made of it
    try:
        of_float, of_bfloat16 = (
            everything_ours(net.eval(), x.to(dtype), gradient.to(dtype), epsilon=0.0)
            for dtype in (torch.float32, torch.bfloat16)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert of_float["output"].abs().max() <= 256 and of_float["x"].abs().max() <= 256  # beyond, not all are bfloat16s
    for name, values in of_float.items():
        assert torch.equal(values, of_bfloat16[name].float()), name


@given(
    few.map(lambda s: (s[0], s[1] + 1, s[2] + 1)), st.integers(1, 60), st.integers(1, 50), st.booleans(),
    st.booleans(), st.sampled_from([0.0, 0.3]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_transitions_are_the_operators_in_float64(shape, channels, out, bias, training, rate, seed):
    def run(x, layer):
        return transition(x, layer, moving._replace(), training=training, dropout=rate, seed=seed)

    found = []
    for dtype in (torch.float32, torch.float64):
        x, layer, moving = problem(*shape, channels, out, bias, torch.float64, seed)
        x, *layer = (None if t is None else t.detach().to(dtype).requires_grad_() for t in (x, *layer))
        moving = type(moving)(*(t.to(dtype) for t in moving[:2]))
        found.append([*everything(run, x, problem()[1]._make(layer)), *moving[:2]])
    largest = max(t.norm().item() for t in found[1])
    for one, other in zip(*found, strict=True):
        assert_near(one, other, 3e-3, floor=0.3 * largest)


@given(
    few.map(lambda s: (s[0], s[1] + 1, s[2] + 1)), st.integers(1, 60), st.integers(1, 50), st.booleans(),
    st.sampled_from([0.0, 0.5]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_small_whole_numbers_are_exact_in_transitions_in_bfloat16(shape, channels, out, bias, rate, seed):
    torch.manual_seed(seed)
    x, layer, moving = problem(*shape, channels, out, bias, torch.float32, seed)
    whole = [None if t is None else torch.randint(-1, 2, t.shape) * (torch.rand(t.shape) < 0.3) for t in layer]
    gradient = torch.randint(-4, 5, (shape[0], shape[1] // 2, shape[2] // 2, out))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = torch.randint(-2, 4, x.shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()
        parameters = [None if t is None else t.float().requires_grad_() for t in whole]
        still = type(moving)(torch.zeros(channels), torch.ones(channels))
        training = {"training": rate > 0, "seed": seed, "epsilon": 0.0}
        still = still._replace(frozen1=True)  # dropout, and yet the moving statistics
        y = transition(inputs, problem()[1]._make(parameters), still, dropout=rate, **training)
        y.backward(gradient.to(dtype))
        found.append([y, inputs.grad, *(p.grad for p in parameters if p is not None)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other.float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bottleneck", [0, 8])
def test_parameters_of_any_dtype_are_taken_and_get_gradients_in_their_own(dtype, bottleneck):
    net, x = make(2, 5, 4, bottleneck, torch.float32, bias=True)
    other = copy.deepcopy(net).to(dtype)
    net.load_state_dict(other.state_dict())  # the very same numbers
    gradient = torch.randn(2, 6, 6, 13)
    ours, expected = everything_ours(other, x, gradient), everything_ours(net, x, gradient)
    assert torch.equal(ours["output"], expected["output"]) and torch.equal(ours["x"], expected["x"])
    for name, _ in net.named_parameters():
        assert ours[name].dtype == dtype
        assert torch.equal(ours[name], expected[name].to(dtype))
    with torch.no_grad():
        assert torch.equal(run_ours(other.eval(), x)[0], run_ours(net.eval(), x)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bottleneck", [0, 48])
@pytest.mark.parametrize("shape", [(9, 16, 16), (70, 4, 4)])
def test_threads_change_nothing_at_all(dtype, bottleneck, shape):
    net, x = make(4, 24, 12, bottleneck, torch.float32, shape, rate=0.2)
    gradient, before, found = torch.randn(*shape, 72), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(everything_ours(net.train(), x.to(dtype), gradient.to(dtype), seed=1))
            with torch.no_grad():
                found[-1]["asked"] = run_ours(net.eval(), x.to(dtype))[0]
    finally:
        torch.set_num_threads(before)
    for name, result in found[0].items():
        assert all(torch.equal(result, other[name]) for other in found[1:]), name


@given(st.integers(1, 3000), st.floats(0, 1), st.integers(0, 9))
def test_both_engines_draw_the_same_masks(elements, rate, seed):
    bytes_ = torch.empty(elements, dtype=torch.int8)
    dropout.draw(bytes_, rate, torch.Generator().manual_seed(seed))
    bits = block.draw_bits(elements, rate, torch.Generator().manual_seed(seed), None)
    numbers = torch.arange(elements)
    assert torch.equal(bits[numbers // 8] >> (numbers % 8) & 1, bytes_.to(torch.uint8))


# ------------------------------------------------------------------------------------------------------------ building


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing built, nothing loaded; the folder that will hold it."""
    monkeypatch.setenv("DENSELY_KERNELS", str(tmp_path / "kernels"))
    library._load.cache_clear()
    yield tmp_path / "kernels"
    library._load.cache_clear()


def test_it_can_be_turned_off(monkeypatch):
    net, x = make(dtype=torch.float32)
    monkeypatch.setenv("DENSELY_NATIVE", "0")
    assert library.why_not(torch.float32) == "DENSELY_NATIVE=0"
    assert not library.usable(x)
    run_ours(net, x)


def test_without_a_compiler_the_operators_run(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert library.why_not(torch.float32) == "g++ was not found"
    net, x = make(dtype=torch.float32)
    run_ours(net, x)[0].sum().backward()
    assert not fresh.exists()


def test_a_compiler_that_fails_is_told_and_leaves_nothing(fresh, monkeypatch, tmp_path, caplog):
    broken = tmp_path / "c++"
    broken.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec g++ --version\necho 'densely.cpp:1: no such thing' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert library.why_not(torch.float32) == "c++ did not build them: densely.cpp:1: no such thing"
    assert "the slower operators run: densely.cpp:1: no such thing" in caplog.text
    assert [path.suffix for path in fresh.iterdir()] in ([], [".lock"])


def test_a_folder_that_others_can_write_to_is_not_trusted(fresh):
    fresh.mkdir()
    fresh.chmod(0o777)
    assert "can be written to by others" in library.why_not(torch.float32)


def test_two_processes_build_one_library(fresh, tmp_path, monkeypatch):
    quick = tmp_path / "c++"
    quick.write_text('#!/bin/sh\nexec g++ "$@" -O0\n')
    quick.chmod(0o755)
    monkeypatch.setenv("CXX", str(quick))
    script = tmp_path / "build.py"
    script.write_text(
        "import torch; from densely.kernels.native import library; assert library.why_not(torch.float32) is None, "
        "library.why_not(torch.float32)"
    )
    with Command(script=script) as one, Command(script=script) as other:
        assert [process.wait().returncode for process in (one, other)] == [0, 0]
    (made,) = fresh.glob("*.so")
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700
    before = made.stat().st_mtime_ns
    assert library.why_not(torch.float32) is None
    assert made.stat().st_mtime_ns == before
