"""The Triton kernels: the operators' results, whatever the tiles; compiled on a GPU, else in Triton's interpreter."""

import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels.test_dense_block import assert_near, everything_ours, make, run_ours
from kernels.test_transition import everything, problem
from torch.utils._python_dispatch import TorchDispatchMode

from densely import fused
from densely.kernels import LayerParameters, dropout, native, transition
from densely.kernels.choice import chosen

pytest.importorskip("triton", reason="Triton is not installed")

from densely.kernels import triton
from densely.kernels.triton import launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSELY_TRITON", "1")
    if DEVICE.type != "cuda":  # the interpreter takes as long for a small tile as for a large one
        monkeypatch.setattr(launch, "rows_of_a_tile", lambda pixels: 64)


@contextlib.contextmanager
def masks_of_the_kernels(seed: int):
    """Operators on the CPU take the keys that a generator on the kernels' device gives."""
    keys = torch.empty((99, 2), dtype=torch.int64, device=DEVICE)
    drawn = iter(keys.random_(0, 1 << 32, generator=torch.Generator(DEVICE).manual_seed(seed)).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropout, "new_key", lambda _: tuple(next(drawn)))
        yield


def everything_by_operators(net, x, gradient, dtype=torch.float64, seed=0, **options) -> dict[str, torch.Tensor]:
    """On the CPU, maps in some dtype, with the kernels' masks."""
    net = copy.deepcopy(net).cpu().to(torch.promote_types(dtype, torch.float32))
    with masks_of_the_kernels(seed), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSELY_TRITON", "0")
        patch.setenv("DENSELY_NATIVE", "0")
        found = everything_ours(net, x.cpu().to(dtype), gradient.cpu().to(dtype), seed=seed, **options)
    return {name: tensor.to(DEVICE) for name, tensor in found.items()}


def assert_all_near(ours, exact, tolerance: float) -> None:
    """Each within a tolerance of its own length, or of a tenth of the longest: some are 0 but for rounding."""
    assert ours.keys() == exact.keys()
    largest = max(t.norm().item() for t in exact.values())
    for name, truth in exact.items():
        assert_near(ours[name], truth, tolerance, floor=0.1 * largest)


@pytest.mark.parametrize(
    ("depth", "start", "growth", "bottleneck", "shape", "options"),
    [
        (1, 20, 12, 48, (2, 5, 6), {"bias": True, "rate": 0.2}),
        (2, 5, 3, 7, (3, 4, 3), {"frozen": [(True, False), (False, True)], "rate": 0.7}),
        (3, 6, 4, 0, (2, 5, 6), {"bias": True, "rate": 0.2}),
        (2, 8, 4, 16, (1, 3, 9), {"eval": True, "bias": True}),
        (2, 17, 18, 0, (1, 1, 1), {"frozen": [(True, True), (False, False)]}),
    ],
)
def test_blocks_are_the_operators_in_float64(depth, start, growth, bottleneck, shape, options):
    """With dropout: both draw the same masks for the same key."""
    net, x = make(
        depth, start, growth, bottleneck, torch.float32, shape, bias=options.get("bias", False),
        rate=options.get("rate", 0.0),
    )  # fmt: skip
    net, x = net.to(DEVICE).train(not options.get("eval")), x.to(DEVICE)
    gradient = torch.randn(*shape, start + depth * growth, device=DEVICE)
    assert chosen(x) == "triton"
    ours = everything_ours(net, x, gradient, frozen=options.get("frozen"), seed=3)
    assert_all_near(ours, everything_by_operators(net, x, gradient, frozen=options.get("frozen"), seed=3), 1e-5)


def test_a_seed_on_the_device_gives_the_masks_of_its_keys():
    net, x = make(2, 6, 4, 8, torch.float32, (2, 3, 3), rate=0.3)
    net, x = net.to(DEVICE), x.to(DEVICE)
    seed = torch.tensor([3, 9], device=DEVICE)
    ours, _ = run_ours(net, x, seed=seed)
    keys = iter(dropout.keys(seed.cpu(), 4).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropout, "new_key", lambda _: tuple(next(keys)))
        patch.setenv("DENSELY_TRITON", "0")
        patch.setenv("DENSELY_NATIVE", "0")
        theirs, _ = run_ours(copy.deepcopy(net).cpu().double(), x.cpu().double(), seed=0)
    assert_near(ours.double().cpu(), theirs, 1e-5)


def test_tiles_change_nothing_but_rounding(monkeypatch):
    net, x = make(1, 20, 4, 8, torch.float32, (2, 5, 5), bias=True, rate=0.2)
    net, x, gradient = net.to(DEVICE), x.to(DEVICE), torch.randn(2, 5, 5, 24, device=DEVICE)
    whole = everything_ours(net, x, gradient, seed=1)
    monkeypatch.setattr(launch, "rows_of_a_tile", lambda pixels: 16)
    monkeypatch.setattr(launch, "columns_of_a_tile", lambda channels, most: 16)
    monkeypatch.setattr(launch, "groups_of_rows", lambda pixels, programs: (2, 64))
    assert_all_near(everything_ours(net, x, gradient, seed=1), whole, 1e-5)


def test_large_means_and_small_gammas_keep_their_accuracy():
    net, x = make(1, 6, 4, 8, torch.float32, (2, 5, 6))
    with torch.no_grad():
        norm1, norm2 = net.layers[0].norm1, net.layers[0].norm2
        norm1.weight[0], norm1.weight[1], norm2.weight[0], norm2.weight[1:4] = 0.0, 1e-9, 0.0, 1e-5
    net, x, gradient = net.to(DEVICE), (x + 30).to(DEVICE), torch.randn(2, 5, 6, 10, device=DEVICE)
    ours = everything_ours(net, x, gradient)
    assert_all_near(ours, everything_by_operators(net, x, gradient), 1e-4)


def test_bfloat16_is_as_exact_as_the_operators():
    """A GPU rounds to the nearest, as PyTorch does; the interpreter cuts bits off, and is twice as far off."""
    net, x = make(2, 12, 8, 16, torch.float32, (2, 4, 4), rate=0.2)
    net, x, gradient = net.to(DEVICE), x.bfloat16().to(DEVICE), torch.randn(2, 4, 4, 28, device=DEVICE).bfloat16()
    ours = everything_ours(net, x, gradient, seed=3)
    peer = everything_by_operators(net, x, gradient, torch.bfloat16, seed=3)
    exact = everything_by_operators(net, x, gradient, seed=3)
    for name, truth in exact.items():
        mistake, allowed = (ours[name] - truth).norm(), (peer[name] - truth).norm()
        assert mistake <= (1.5 if DEVICE.type == "cuda" else 3) * allowed + 0.01 * truth.norm(), name


def test_a_nan_is_not_swallowed():
    net, x = make(1, 16, 4, 0, torch.float32, (1, 3, 3))
    x[0, 0, 0, 0] = float("nan")
    for training in (True, False):
        output, _ = run_ours(net.to(DEVICE).train(training), x.to(DEVICE))
        assert output[0, 0, 0, 16:].isnan().all()


@pytest.mark.parametrize(
    ("shape", "bias", "training", "rate"), [((2, 4, 7), True, True, 0.3), ((1, 5, 2), False, False, 0.0)]
)
def test_transitions_are_the_operators_in_float64(shape, bias, training, rate):
    results = []
    for dtype, device in ((torch.float32, DEVICE), (torch.float64, "cpu")):
        x, layer, moving = problem(*shape, 20, 12, bias)
        x, *layer = (None if t is None else t.detach().to(device, dtype).requires_grad_() for t in (x, *layer))
        moving = type(moving)(*(t.to(device, dtype) for t in moving[:2]))
        with masks_of_the_kernels(seed=2):
            found = everything(
                lambda x, layer, moving=moving: transition(x, layer, moving, training=training, dropout=rate, seed=2),
                x,
                LayerParameters(*layer),
            )
        results.append({str(i): t.to(DEVICE) for i, t in enumerate([*found, *moving[:2]])})
    assert_all_near(*results, 1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_without_gradients_the_same_output(training):
    net, x = make(2, 5, 4, 8, torch.float32, (1, 4, 4), rate=0.2)
    net, x = net.to(DEVICE).train(training), x.to(DEVICE)
    with torch.no_grad():
        without, _ = run_ours(net, x, seed=1)
    assert torch.equal(without, run_ours(net, x, seed=1)[0])


class Watched(TorchDispatchMode):
    """Notes each of PyTorch's own operators that runs inside."""

    def __enter__(self):
        self.names = []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name != "_to_copy" or (kwargs or {}).get("device") is not None:  # another dtype needs no wait
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("bottleneck", "stays"), [(0, False), (8, False), (8, True)])
def test_the_gpu_is_never_waited_for(bottleneck, stays, monkeypatch):
    """No number comes back from the device, no shape depends on one: a step can be captured in a CUDA graph."""
    net, x = make(1, 5, 4, bottleneck, torch.float32, (1, 2, 2), bias=True, rate=0.2)
    net, x = net.to(DEVICE), x.to(DEVICE).requires_grad_()
    # What the interpreter does is no part of it.
    monkeypatch.setattr(triton.block, "launch", lambda *arguments, **settings: None)
    seed = torch.tensor([1, 2], device=DEVICE) if stays else 1
    with Watched() as watched:
        run_ours(net, x, seed=seed)[0].sum().backward()
    assert ("random_" in watched.names) != stays
    assert not {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_to_copy", "unique"} & set(watched.names)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")
@pytest.mark.parametrize("bottleneck", [0, 48])
def test_full_size_on_a_gpu(bottleneck):
    net, x = make(4, 24, 12, bottleneck, torch.float32, (64, 32, 32), rate=0.2)
    net, x, gradient = net.to(DEVICE), x.to(DEVICE), torch.randn(64, 32, 32, 72, device=DEVICE)
    ours = everything_ours(net, x, gradient, seed=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = everything_ours(net, x, gradient, seed=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    # Among so many pixels rounding tips a ReLU here and there.
    assert_all_near(ours, everything_by_operators(net, x, gradient, seed=1), 1e-3)


def test_it_runs_only_where_it_was_asked_for_and_can(monkeypatch):
    x = torch.zeros(1, device=DEVICE)
    assert triton.usable(x)
    assert fused.explain("float32", print) == "Triton kernels"
    assert not triton.usable(x.double())
    monkeypatch.delenv("DENSELY_TRITON")
    assert triton.why_not(DEVICE) == "DENSELY_TRITON is not 1"
    assert chosen(x) == ("native" if native.usable(x) else "operators")
    monkeypatch.setenv("DENSELY_TRITON", "1")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert triton.why_not(torch.device("cpu")) == "Triton runs on GPUs, not on cpu"


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus(capability, tmp_path):
    """With Triton's own compiler, which needs no GPU; in a process of its own, where nothing is interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"DENSELY_TRITON": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run(
        [sys.executable, script, str(capability)], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr
    names = {line.split()[0] for line in done.stdout.splitlines()}
    assert names == {"complete", "data_gradient", "forward", "kernel_gradient", "merge_moments", "take_in"}
