"""torchvision's weights: the converted network against torchvision's own."""

import io
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from conversion.pictures import images
from conversion.refusing import refused
from conversion.torch_files import densenet
from safetensors.torch import save_file

from densely import conversion
from densely.architecture import NETWORKS
from densely.errors import UsageError
from densely.model_file import ModelFile

TINY = {"growth_rate": 4, "block_config": (2, 1, 1, 2), "num_init_features": 8}
SIZE = (48, 48)


def check_equal(network: torch.nn.Module, path: Path) -> ModelFile:
    found = conversion.convert(path, path.with_name("out.safetensors"), size=SIZE)
    pixels = images((4, *SIZE, 3))
    # torchvision's own preprocessing, written out.
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = network((x - mean[:, None, None]) / std[:, None, None])
    assert logits.std(0).mean() > 0.02  # it tells the images apart, by far more than what is allowed here
    model, ours = found.model(), found.preprocessing(pixels)
    np.testing.assert_allclose(model.predict_on_batch(ours), logits.softmax(1).numpy(), atol=1e-5)
    inner = keras.Model(model.input, model.get_layer("logits").output)
    np.testing.assert_allclose(inner.predict_on_batch(ours), logits.numpy(), atol=1e-4 * float(logits.abs().max()))
    return found


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("densenet121", 1000),
        pytest.param("densenet161", 10, marks=pytest.mark.slow),
        pytest.param("densenet169", 3, marks=pytest.mark.slow),
        pytest.param("densenet201", 2, marks=pytest.mark.slow),
    ],
)
def test_a_converted_network_says_what_torchvision_s_says(name: str, classes: int, tmp_path: Path) -> None:
    network = densenet(name, classes)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    found = check_equal(network, tmp_path / "w.pth")
    assert found.name == name.replace("densenet", "densenet-")
    assert found.inputs.class_names[1] == "class 1"
    assert len(found.inputs.class_names) == classes
    if found.name in NETWORKS:
        shape = {"input_shape": (*SIZE, 3), "classes": classes}
        assert found.network == NETWORKS[found.name].model_copy(update=shape)


def old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As in the files that torchvision publishes: a dot before the number, and nothing counted."""
    return OrderedDict(
        (re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name), tensor)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    )


def save_old(state: dict[str, Any], path: Path) -> None:
    torch.save(old_names(state), path, _use_new_zipfile_serialization=False)


def save_safetensors(state: dict[str, Any], path: Path) -> None:
    save_file(dict(reversed(state.items())), path)


def save_training(state: dict[str, Any], path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)


def save_parameters(state: dict[str, Any], path: Path) -> None:
    torch.save({name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()}, path)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (save_old, "densenet121-a639ec97.pth"),
        (save_safetensors, "w.safetensors"),
        (save_training, "w.pt"),
        (save_parameters, "W.PTH"),
    ],
)
def test_every_way_in_which_it_is_saved(write: Callable[..., None], name: str, tmp_path: Path) -> None:
    network = densenet(classes=5, **TINY)
    write(network.state_dict(), tmp_path / name)
    found = check_equal(network, tmp_path / name)
    assert found.name == "custom"
    assert found.network.block_layers == (2, 1, 1, 2)
    assert found.inputs.input_shape == (*SIZE, 3)


def test_half_precision_is_read(tmp_path: Path) -> None:
    network = densenet(classes=5, **TINY).bfloat16()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    check_equal(network.float(), tmp_path / "w.pth")


def changed(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    state = densenet(classes=5, **TINY).state_dict()
    change(state)
    torch.save(state, tmp_path / "w.pth")
    return tmp_path / "w.pth"


LAYER = "features.denseblock1.denselayer2"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop(f"{LAYER}.norm1.bias"), f"{LAYER}.norm1 lacks bias"),
        (lambda s: s.pop(f"{LAYER}.conv1.weight"), "found a batch normalisation of 16 maps"),
        (lambda s: s.update({"features.conv9.weight": torch.ones(1)}), "weights of 'features.conv9'"),
        (lambda s: s.update({"fc.weight": torch.ones(2, 2)}), "weights of 'fc'"),
        (lambda s: s.update({f"{LAYER}.conv.1.weight": torch.ones(2)}), "twice, by an old and a new name"),
        (lambda s: s.update({f"{LAYER}.conv1.scale": torch.ones(2)}), f"{LAYER}.conv1 has scale"),
        (lambda s: s.update({f"{LAYER}.conv1.weight": torch.ones(9, 8, 1, 1)}), "of 12 maps"),
        (lambda s: s.update({f"{LAYER}.conv2.weight": torch.ones(3, 16, 3, 3)}), "expected a bottleneck of 4 × 3 maps"),
        (lambda s: s.update({"features.conv0.weight": torch.ones(8, 3, 7, 6)}), "found a 7×6 convolution"),
        (lambda s: s.update({"features.conv0.weight": torch.ones(8, 1, 7, 7)}), "7×7 convolution of colour images"),
        (lambda s: s.update({"classifier.weight": torch.ones(5, 99)}), "found a classifier of 99 maps into 5"),
        (lambda s: s.update({"classifier.weight": torch.full((5, 16), torch.nan)}), "not finite"),
        (lambda s: s[f"{LAYER}.norm2.running_var"].neg_(), "a variance below 0"),
        (lambda s: s.update({"classifier.bias": torch.ones(5, dtype=torch.int64)}), "is torch.int64, not float32"),
        (lambda s: s.update({"classifier.weight": torch.ones(5, 16).to_sparse()}), "more than a state dict"),
        (lambda s: s.update({"classifier.weight": torch.ones(1).expand(2**20, 2**20)}), "claim more bytes"),
        (lambda s: s.update({"classifier.weight": [1.0]}), "no plain tensor"),
        (lambda s: s.clear(), "at the end, expected a 3×3 or 7×7 convolution"),
    ],
)  # fmt: skip
def test_other_weights_are_refused(change: Callable[[dict[str, Any]], object], words: str, tmp_path: Path) -> None:
    refused(changed(tmp_path, change), words)


# ---- hostile files ---------------------------------------------------------------------------------------------------


class Runs:
    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


class Reserves:
    def __reduce__(self) -> Any:
        return bytearray, (2**40,)


class ReservesTensor:
    def __reduce__(self) -> Any:
        return torch.FloatTensor, (2**40,)


@pytest.mark.parametrize("value", [Runs(), Reserves(), ReservesTensor()])
@pytest.mark.parametrize("new", [True, False])
def test_code_and_memory_by_a_pickle_s_word_are_refused(
    value: object, new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": value}, "w.pth", _use_new_zipfile_serialization=new)
    refused(tmp_path / "w.pth", "more than a state dict of weights needs")
    assert not Path("it-ran").exists()


def test_a_pickle_with_an_archive_behind_it_is_refused(tmp_path: Path) -> None:
    """`torch.load` reads the one by the first bytes; a look at the archive, which a zip has its end for, is no look."""
    good = changed(tmp_path, lambda state: None).read_bytes()
    torch.save({"a": Reserves()}, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes() + good)
    refused(tmp_path / "w.pth", "another at its end")


def rewritten(path: Path, compression: int, change: Callable[[str, bytes], bytes]) -> Path:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))
    return path


def test_a_packed_archive_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda state: state.update({"classifier.weight": torch.zeros(2**20)}))
    refused(rewritten(path, zipfile.ZIP_DEFLATED, lambda name, content: content), "or is compressed")


def test_a_storage_that_claims_more_than_its_member_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda state: None)
    refused(
        rewritten(path, zipfile.ZIP_STORED, lambda name, c: c[:-4] if "/data/" in name else c), "cannot be converted"
    )


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", os.urandom(1000), pickle.dumps({})])
def test_what_is_no_such_file_is_refused(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "cannot be converted")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "{}")
    (tmp_path / "w.pth").write_bytes(file.getvalue())
    refused(tmp_path / "w.pth", "not one of torch.save")


def test_a_model_file_of_densely_is_told(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda state: None)
    conversion.convert(path, tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match=r"m\.safetensors is a model file of Densely already"):
        conversion.convert(tmp_path / "m.safetensors", tmp_path / "n.safetensors")
