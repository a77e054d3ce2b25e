"""What the page of the dense block draws and shows: its formulas against what autograd keeps, its examples run."""

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
N, SIDE, START, GROWTH = 2, 16, 24, 12


def module(path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None and found.loader is not None
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    return module(ROOT / "docs" / "draw_dense_block.py")


def kept(run: Callable[[], Any], own: list[Any]) -> float:
    """Bytes a pixel of distinct storages that autograd keeps, but for what the block itself holds."""
    import torch

    storages: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = run()
    assert output is not None
    known = {t.untyped_storage().data_ptr() for t in own}
    return sum(size for place, size in storages.items() if place not in known) / (N * SIDE * SIDE)


@pytest.mark.parametrize("layers", [4, 9])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_formulas_are_what_autograd_keeps(
    pictures: ModuleType, layers: int, bottleneck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("DENSELY_NATIVE", "0")  # the compiled loops fill whole slabs, of a processor's own width

    from densely.architecture import NetworkSpec
    from densely.layers import DenseBlock

    peers = module(ROOT / "benchmarks" / "peers.py")
    x = torch.randn(N, SIDE, SIDE, START)
    ours = DenseBlock(layers, GROWTH, bottleneck=bottleneck)
    ours.build(x.shape)
    theirs = peers.Block(START, layers, NetworkSpec(growth_rate=GROWTH, bottleneck=bottleneck))
    theirs = theirs.to(memory_format=torch.channels_last)
    sizes = (layers, START, GROWTH, 4 * GROWTH * bottleneck)

    # What is left over are a few numbers a channel: statistics.
    found = kept(lambda: ours(x.clone().requires_grad_(), training=True), [w.value for w in ours.weights])
    assert pictures.kept_by_densely(*sizes) == pytest.approx(found, rel=0.01)
    channels_first = x.permute(0, 3, 1, 2)
    own = [*theirs.parameters(), *theirs.buffers()]
    found = kept(lambda: theirs(channels_first.clone().requires_grad_()), own)
    assert pictures.kept_by_textbook(*sizes) == pytest.approx(found, rel=0.01)


def test_the_page_quotes_the_formulas_and_the_benchmarks(pictures: ModuleType) -> None:
    page = (ROOT / "docs" / "dense-block.md").read_text(encoding="utf-8")
    assert f"{pictures.kept_by_textbook(16):,} against {pictures.kept_by_densely(16):,} bytes" in page
    measured = pictures.MEASURED
    for i, layers in enumerate((12, 24)):
        ours, checkpoint, textbook = (measured[name][i] for name in ("densely", "checkpoint", "textbook PyTorch"))
        assert f"| {layers} | {ours} GiB | {checkpoint} GiB | {textbook} GiB |" in page
        benchmarks = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
        assert re.search(rf"^\| {layers} \|.*\| {ours} GiB \| {textbook} GiB \| {checkpoint} GiB \|$", benchmarks, re.M)


def test_every_picture_is_there(pictures: ModuleType) -> None:
    for name in pictures.PICTURES:
        assert (ROOT / "docs" / "images" / f"{name}.svg").is_file()


def test_the_page_s_examples_run() -> None:
    page = (ROOT / "docs" / "dense-block.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    network: dict[str, Any] = {}
    block: dict[str, Any] = {}
    exec(examples[0], network)
    exec(examples[1], block)
    assert network["model"].output_shape == (None, 10)
    assert tuple(block["y"].shape) == (2, 16, 16, 24 + 4 * 12)
    assert block["x"].grad is not None
    assert "keras" in sys.modules
