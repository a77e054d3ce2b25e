"""Thousands of damaged files of each kind: a sentence that names the file, or a sound result; no traceback, no hang."""

import gzip
import io
import json
import pickle
import resource
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conversion import keras2_files, torch_files
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from scipy.io import savemat

from densely import convert, data
from densely.data import cifar, svhn
from densely.errors import DenselyError
from densely.runs import Run
from densely.training.resume import checkpoint
from densely.training.resume.checkpoint import Checkpoint
from densely.training.single import train

MUTANTS = 2000
SECONDS = 20
"""For one file; a thousand times what a sound one takes."""
MEMORY = 2**30
"""Bytes by which the process may grow over all mutants of a kind."""

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)


def mutant(sound: bytes, rng: np.random.Generator) -> bytes:
    """A damaged copy: bytes changed, cut out, doubled, put in, made extreme, or the end cut off."""
    damaged = bytearray(sound)
    for _ in range(int(rng.integers(1, 6))):
        kind, size = int(rng.integers(7)), int(rng.integers(1, 33))
        at = int(rng.integers(0, max(1, len(damaged))))
        # Headers decide how the rest is read: half of all damage is done there.
        at = at % 256 if rng.random() < 0.5 else at
        if kind == 0:
            damaged[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            del damaged[at : at + size]
        elif kind == 2:
            damaged[at:at] = damaged[at : at + size]
        elif kind == 3:
            damaged[at:at] = rng.bytes(size)
        elif kind == 4:
            damaged[at : at + size] = bytes([int(rng.choice([0, 0x7F, 0x80, 0xFF]))]) * size
        elif kind == 5:
            damaged[at : at + 4] = rng.choice([b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"9999", b"1e99"])
        else:
            del damaged[at:]
    return bytes(damaged)


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No file takes long, and all together do not take much memory."""

    def hangs(*_: object) -> None:
        raise AssertionError(f"one file took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - peak < MEMORY


def check(
    path: Path, read: Callable[[], Any], wrap: Callable[[bytes], bytes] = bytes, sound: bytes | None = None
) -> None:
    """`read` survives `MUTANTS` damaged versions of a file, each put into `wrap`."""
    sound = path.read_bytes() if sound is None else sound
    path.write_bytes(wrap(sound))
    read()
    told: list[str] = []
    for seed in range(MUTANTS):
        path.write_bytes(wrap(mutant(sound, np.random.default_rng(seed))))
        signal.alarm(SECONDS)
        try:
            read()
        except DenselyError as error:
            told.append(str(error))
        except Exception as error:
            raise AssertionError(f"mutant {seed} of {path.name}") from error
        finally:
            signal.alarm(0)
    assert len(told) > MUTANTS / 20
    # What is wrong with sound files that say something impossible is told by the name of the data.
    assert [line for line in told if not (path.name in line or "cifar100/" in line) or "\n" in line] == []


# ---- data ------------------------------------------------------------------------------------------------------------


def batch(n: int) -> dict[bytes, Any]:
    rows = RNG.integers(0, 256, (n, 3072), dtype=np.uint8)
    return {b"data": rows, b"fine_labels": [i % 2 for i in range(n)], b"coarse_labels": [0] * n}


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def pickles() -> dict[str, bytes]:
    names = {b"fine_label_names": [b"a", b"b"], b"coarse_label_names": [b"c"]}
    values = {"train": batch(4), "test": batch(2), "meta": names}
    return {name: pickle.dumps(value, protocol=2) for name, value in values.items()}


def packed(content: bytes) -> bytes:
    return gzip.compress(content, 1)


@pytest.mark.parametrize("member", ["train", "meta"])
def test_pickles(member: str, tmp_path: Path) -> None:
    sound = pickles()
    path = tmp_path / "cifar-100-python.tar.gz"
    wrap = lambda content: packed(archive(**{**sound, member: content}))
    check(path, lambda: cifar.load_cifar100(tmp_path), wrap, sound[member])


def test_tar(tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python.tar.gz"
    check(path, lambda: cifar.load_cifar100(tmp_path), packed, archive(**pickles()))


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python.tar.gz"
    check(path, lambda: cifar.load_cifar100(tmp_path), sound=packed(archive(**pickles())))


@pytest.mark.parametrize("compressed", [False, True])
def test_mat(compressed: bool, tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        savemat(tmp_path / name, {"X": images, "y": np.array([[1], [2], [10], [4]])}, do_compression=compressed)
    check(tmp_path / "train_32x32.mat", lambda: svhn.load(tmp_path))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_images(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{ending}"
    pixels = Image.fromarray(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8))
    pixels.save(path, exif=Image.Exif() if ending == "bmp" else exif())
    check(path, lambda: data.read_image(path, (16, 16)))


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = 6  # turned
    return found


def test_csv(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png", "d.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    path = tmp_path / "labels.csv"
    lines = ["file,labels,part", "a.png,red|square,train", 'b.png,"round",train', "c.png,red,test", "d.png,,test"]
    path.write_text("\n".join(lines) + "\n")
    check(path, lambda: data.load(path))


# ---- run folders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = {"model": "densenet-bc-16-8", "epochs": 1, "limit": 200, "console": Console(quiet=True)}
    return train("digits", out=tmp_path_factory.mktemp("run") / "run", **options)


@pytest.mark.parametrize("name", ["config.toml", "inputs.json", "metrics.json", "history.csv"])
def test_files_of_a_run(name: str, run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))

    def read() -> None:
        opened = Run.open(folder)
        opened.preprocessing, opened.metrics, opened.history  # noqa: B018
        repr(opened)

    check(folder / name, read)


def test_weights(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    check(folder / "final.weights.h5", lambda: Run.open(folder).model())


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_checkpoints(name: str, tmp_path: Path) -> None:
    state = {"best": None, "history": [{"epoch": 1, "loss": 0.5}]}
    for step in (1, 2):
        checkpoint.save(tmp_path, Checkpoint(0, step, {"weight": np.arange(12, dtype=np.float32)}, state))
    path = tmp_path / "checkpoints" / "000000-000002" / name
    sound = path.read_bytes()
    told: list[str] = []
    for seed in range(MUTANTS):
        path.write_bytes(mutant(sound, np.random.default_rng(seed)))
        found = checkpoint.newest(tmp_path, told.append)
        damaged = path.parent.with_name("000000-000002.damaged")
        if damaged.exists():
            damaged.rename(path.parent)
        assert found is not None
        # Whatever a damaged one was, what is used is what was written.
        np.testing.assert_array_equal(found.tensors["weight"], np.arange(12))
        assert json.dumps(found.state) == json.dumps(state)
    assert len(told) > MUTANTS / 2
    assert all("is damaged" in line and "000000-000002" in line for line in told)


# ---- weights of other programs ---------------------------------------------------------------------------------------


def converts(path: Path) -> Callable[[], Any]:
    def read() -> None:
        out = path.with_name("out.safetensors")
        out.unlink(missing_ok=True)
        convert(path, out)

    return read


@pytest.mark.parametrize("kind", [{}, {"h5py3": True}, {"whole": '{"config": {"layers": []}}', "chunked": True}])
def test_weights_of_keras_2(kind: dict[str, Any], tmp_path: Path) -> None:
    network = keras2_files.network(depth=8, blocks=1, growth_rate=2, filters=2, size=8)
    path = keras2_files.save(network, tmp_path / "w.h5", **kind)
    check(path, converts(path))


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_weights_of_torchvision(kind: str, tmp_path: Path) -> None:
    options = {"growth_rate": 1, "block_config": (1, 1), "num_init_features": 2}
    state = torch_files.densenet(classes=2, **options).state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    check(path, converts(path))
