"""The same block on a GPU: the textbook's numbers, its gradients and statistics. Skipped where there is none."""

import keras
import numpy as np
import pytest
import torch
from kernels.test_dense_block import assert_near, compare, make, run_ours

import densely

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, not in TF32's 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bottleneck", [0, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_the_textbook_in_float64(bottleneck: int, training: bool, bias: bool) -> None:
    block, x = make(bottleneck=bottleneck, bias=bias)
    compare(block.cuda().train(training), x.cuda())


@pytest.mark.parametrize("bottleneck", [0, 48])
def test_equals_the_textbook_in_float32_at_full_size(bottleneck: int) -> None:
    block, x = make(depth=6, start=24, growth=12, bottleneck=bottleneck, dtype=torch.float32, shape=(64, 32, 32))
    compare(block.cuda(), x.cuda(), 1e-4, assert_near)


def test_equals_the_textbook_in_several_chunks() -> None:
    block, x = make(depth=3, start=96, growth=12, bottleneck=48, shape=(200, 32, 32))
    compare(block.cuda(), x.cuda())


def test_bfloat16_stays_near_float32() -> None:
    block, x = make(depth=4, start=24, growth=12, bottleneck=48, dtype=torch.float32, shape=(16, 32, 32))
    ours, _ = run_ours(block.cuda(), x.cuda())
    with torch.autocast("cuda", torch.bfloat16):
        half, _ = run_ours(block, x.cuda())
    assert half.dtype == torch.bfloat16
    assert_near(half.float(), ours, 2e-2)


def test_dropout_drops_its_share_and_a_seed_repeats_it() -> None:
    block, x = make(depth=1, start=8, growth=16, bottleneck=0, rate=0.2, shape=(8, 32, 32))
    one, other, third = (run_ours(block.cuda(), x.cuda(), seed=seed)[0][..., 8:] for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert (one == 0).double().mean().item() == pytest.approx(0.2, abs=0.01)


def test_a_network_gives_the_reference_path_its_outputs_and_weights() -> None:
    x = np.random.default_rng(0).normal(size=(32, 16, 16, 3)).astype("float32")
    y = np.arange(32) % 4
    results = []
    for fused in (None, False):
        keras.utils.set_random_seed(0)
        network = densely.build("densenet-bc-22-12", input_shape=(16, 16, 3), classes=4, fused=fused)
        network.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        for _ in range(3):
            network.train_on_batch(x, y)
        results.append([network.predict(x, verbose=0), *(w.numpy() for w in network.weights)])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
