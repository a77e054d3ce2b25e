"""The old notebook's weights: the converted network against the notebook's, built from plain Keras layers."""

import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from conversion.keras2_files import network, save, trained
from conversion.pictures import images
from conversion.refusing import refused

import densely
from densely import conversion
from densely.architecture import NETWORKS
from densely.errors import DataError, UsageError
from densely.model_file import ModelFile

SMALL = {"depth": 16, "growth_rate": 4, "filters": 8}


def check_equal(original: keras.Model, found: ModelFile) -> None:
    """Both say the same of images that differ in brightness, and then in logits, where nothing is saturated."""
    pixels = images((4, *found.inputs.input_shape))
    expected = original.predict_on_batch(pixels / np.float32(255))
    model = found.model()
    x = found.preprocessing(pixels)
    np.testing.assert_allclose(model.predict_on_batch(x), expected, atol=1e-5)
    last = original.layers[-1]
    if last.activation is not keras.activations.linear:
        kernel, bias = last.get_weights()
        ours = keras.Model(model.input, model.get_layer("logits").output).predict_on_batch(x)
        theirs = keras.Model(original.input, original.layers[-2].output).predict_on_batch(pixels / np.float32(255))
        theirs = theirs @ kernel + bias
        spread = theirs.std(axis=0).mean()
        assert spread > 0.02  # it tells the images apart, by far more than what is allowed here
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 100},
        {"depth": 40, "bottleneck": False, "compression": 1.0, "classes": 7},
        {"depth": 16, "growth_rate": 5, "filters": 10, "bottleneck": False, "compression": 0.5, "channels": 1},
        {"depth": 16, "blocks": 2, "growth_rate": 6, "filters": 9, "compression": 0.37, "bias": False},
        {"depth": 12, "blocks": 4, "compression": 1.0, "classes": 2, "filters": 3},
        {"depth": 8, "blocks": 1, "growth_rate": 1},
    ],
)
def test_a_converted_network_says_what_the_notebook_s_said(options: dict, tmp_path: Path) -> None:
    original = trained(network(**options))
    found = conversion.convert(save(original, tmp_path / "93.h5"), tmp_path / "93.safetensors")
    channels = options.get("channels", 3)
    assert found.inputs.input_shape == (32, 32, channels)
    assert found.network.depth == options["depth"]
    assert found.network.bottleneck == options.get("bottleneck", True)
    check_equal(original, found)
    assert found.model().count_params() == original.count_params()


def test_the_notebook_s_own_network_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(trained(network()), tmp_path / "93.h5")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = densely.convert(path)
    assert found.path == Path("93.safetensors")
    assert found.name == "notebook"
    assert found.network == NETWORKS["notebook"]
    assert found.inputs.class_names[:2] == ("airplane", "automobile")
    assert found.inputs.preprocessing["kind"] == "unit"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.header.origin == f"Converted from 93.h5, weights that Keras 2 saved (SHA-256 {digest})."


def test_names_in_the_file_are_not_trusted(tmp_path: Path) -> None:
    """Layers are taken in the order of the file, whatever they are called; here that of another network's names."""
    original = trained(network(**SMALL))
    path = save(original, tmp_path / "w.h5")
    with h5py.File(path, "r+") as file:
        names = [name.decode() for name in file.attrs["layer_names"]]
        fresh = [f"{'dense' if i % 2 else 'conv2d'}_{len(names) - i}" for i in range(len(names))]
        for name, other in zip(names, fresh, strict=True):
            file.move(name, other)
        file.attrs["layer_names"] = np.array([name.encode() for name in fresh])
    found = conversion.convert(path, tmp_path / "w.safetensors")
    check_equal(original, found)


@pytest.mark.parametrize("kind", [{"chunked": True}, {"h5py3": True}, {"h5py3": True, "chunked": True}])
def test_a_whole_model_says_more_than_its_weights(kind: dict, tmp_path: Path) -> None:
    original = trained(network(**SMALL, size=24, activation="sigmoid", epsilon=0.02))
    items = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 24, 24, 3]}},
        {"class_name": "Conv2D", "config": {"data_format": "channels_last"}},
        {"class_name": "BatchNormalization", "config": {"epsilon": 0.02}},
        {"class_name": "AveragePooling2D", "config": {"pool_size": [2, 2]}},
        {"class_name": "Activation", "config": {"activation": "relu"}},
        {"class_name": "Dense", "config": {"activation": "linear"}},
        {"class_name": "Activation", "config": {"activation": "sigmoid"}},
    ]
    config = {"class_name": "Model", "config": {"layers": items}}
    path = save(original, tmp_path / "m.h5", whole=json.dumps(config), **kind)
    found = conversion.convert(path, tmp_path / "m.safetensors")
    assert found.inputs.input_shape == (24, 24, 3)
    assert found.inputs.multi_label
    assert found.network.norm_epsilon == 0.02
    check_equal(original, found)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"class_name": "MaxPooling2D", "config": {}}, "MaxPooling2D, which the notebook's"),
        ({"class_name": "BatchNormalization", "config": {"epsilon": 0.5}}, "several epsilons, 0.001 and 0.5"),
        ({"class_name": "AveragePooling2D", "config": {"pool_size": [3, 3]}}, "poolings are over"),
        ({"class_name": "Dense", "config": {"activation": "tanh"}}, "ends in tanh, not in softmax or sigmoid"),
        ({"class_name": "Dense", "config": {"activation": "linear"}}, "ends in linear, not in"),
        ({"class_name": "Dense"}, "config"),
    ],
)
def test_a_whole_model_that_says_otherwise_is_refused(item: dict, words: str, tmp_path: Path) -> None:
    first = {"class_name": "BatchNormalization", "config": {"epsilon": 0.001}}
    config = json.dumps({"config": {"layers": [first, item]}})
    path = save(network(**SMALL), tmp_path / "m.h5", whole=config)
    refused(path, words)


def rewrite(path: Path, layer: int, change: Callable[[h5py.Group, list[str]], None]) -> None:
    """Change the group of the n-th layer that has weights."""
    with h5py.File(path, "r+") as file:
        groups = [file[name.decode()] for name in file.attrs["layer_names"]]
        group = [g for g in groups if len(g.attrs["weight_names"])][layer]
        change(group, [name.decode() for name in group.attrs["weight_names"]])


def replaced(group: h5py.Group, name: str, values: np.ndarray) -> None:
    del group[name]
    group[name] = values


# Layers with weights: 0 stem; 1 norm, 2 conv 1×1, 3 norm, 4 conv 3×3; 5 … 8 the second layer; 9 norm, 10 transition; …
@pytest.mark.parametrize(
    ("layer", "arrays", "words"),
    [
        (0, [(5, 5, 3, 8), (8,)], "expected a 3×3 or 7×7 convolution, found a 5×5 convolution from 3 to 8 maps"),
        (0, [(16, 3, 3, 3), (3,)], "found a 16×3 convolution"),
        (1, [(9,)] * 4, "expected a batch normalisation of 8 maps, found a batch normalisation of 9 maps"),
        (1, [(8,)] * 3, "expected those of a convolution, a batch normalisation or a classifier"),
        (1, [(0,)] * 4, "expected those of a convolution"),
        (2, [(1, 1, 8, 15), (15,)], "of 15 maps, found a batch normalisation of 16 maps"),
        (2, [(1, 1, 8, 16)], "of 8 maps with bias, found a 1×1 convolution from 8 to 16 maps without bias"),
        (4, [(3, 3, 16, 5), (5,)], "expected a bottleneck of 4 × 5 maps"),
        (8, [(3, 3, 16, 3), (3,)], "expected a bottleneck of 4 × 3 maps"),
        (10, [(1, 1, 16, 17), (17,)], "expected a transition to at most 16 maps"),
        (-1, [(14, 10)], "expected those of a convolution"),
    ],
)  # fmt: skip
def test_the_first_place_where_shapes_part_is_told(layer: int, arrays: list, words: str, tmp_path: Path) -> None:
    path = save(network(**SMALL), tmp_path / "w.h5")

    def change(group: h5py.Group, names: list[str]) -> None:
        for name in names:
            del group[name]
        fresh = [f"array_{i}" for i in range(len(arrays))]
        group.attrs["weight_names"] = [name.encode() for name in fresh]
        for name, shape in zip(fresh, arrays, strict=True):
            group[name] = np.ones(shape, dtype="float32")

    rewrite(path, layer, change)
    refused(path, words)


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        (slice(0, -1), "at the end, expected a classifier of 16 maps, found nothing more"),
        (slice(0, 1), "found nothing more"),
        (slice(0, 0), "at the end, expected a 3×3 or 7×7 convolution, found nothing more"),
        (slice(1, None), "expected a 3×3 or 7×7 convolution, found a batch normalisation"),
    ],
)
def test_missing_layers_are_told(cut: slice, words: str, tmp_path: Path) -> None:
    path = save(network(**SMALL), tmp_path / "w.h5")
    with h5py.File(path, "r+") as file:
        kept = [name for name in file.attrs["layer_names"] if len(file[name.decode()].attrs["weight_names"])]
        file.attrs["layer_names"] = kept[cut] or np.array([], dtype=float)
    refused(path, words)


def test_numbers_that_no_training_leaves_are_refused(tmp_path: Path) -> None:
    for value, words in ((np.nan, "not finite"), (1e300, "not finite"), (-0.1, "a variance below 0")):
        path = save(network(**SMALL), tmp_path / "w.h5")
        rewrite(path, 1, lambda group, names, value=value: replaced(group, names[3], np.full(8, value)))
        refused(path, words)


# ---- hostile files ---------------------------------------------------------------------------------------------------


def external_link(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]
    group[name] = h5py.ExternalLink(str(secret), "stolen")


def soft_link(group: h5py.Group, name: str, secret: Path) -> None:
    group.move(name, "elsewhere")
    group[name] = h5py.SoftLink(f"{group.name}/elsewhere")


def external_data(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]
    group.create_dataset(name, (8,), "float32", external=[(str(secret), 0, 10**4)])


def virtual_data(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]
    layout = h5py.VirtualLayout((8,), "float32")
    layout[...] = h5py.VirtualSource(str(secret), "stolen", (8,), "float32")
    group.create_virtual_dataset(name, layout)


def huge_claim(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]
    group.create_dataset(name, (2**40,), "float32", chunks=(2**20,))


def bomb(group: h5py.Group, name: str, secret: Path) -> None:
    replaced(group, name, np.zeros(1))
    del group[name]
    group.create_dataset(name, data=np.zeros(2**24, "float32"), compression="gzip")


def text(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]
    group[name] = "12345678"


def whole_numbers(group: h5py.Group, name: str, secret: Path) -> None:
    replaced(group, name, np.ones(8, dtype="int32"))


def compound(group: h5py.Group, name: str, secret: Path) -> None:
    replaced(group, name, np.zeros(8, dtype=[("a", "f4"), ("b", "f4")]))


def a_group(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]
    group.create_group(name)


def gone(group: h5py.Group, name: str, secret: Path) -> None:
    del group[name]


def long_names(group: h5py.Group, name: str, secret: Path) -> None:
    """Thousands of names that are all as long as a text of a megabyte could be."""
    group.attrs["one long text"] = "x" * 2**20
    group.attrs["weight_names"] = ["x"] * 4000


def the_same_again(group: h5py.Group, name: str, secret: Path) -> None:
    replaced(group, name, np.zeros(10_000, "float32"))
    group.attrs["weight_names"] = [name.encode()] * 1000


ATTACKS = [
    external_link, soft_link, external_data, virtual_data, huge_claim, bomb, text, whole_numbers, compound, a_group,
    gone, long_names, the_same_again,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_file_is_refused(attack: Callable[[h5py.Group, str, Path], None], tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["stolen"] = np.ones(8, "float32")
    path = save(network(**SMALL), tmp_path / "w.h5")
    rewrite(path, 1, lambda group, names: attack(group, names[0], secret))
    refused(path, "cannot be converted")


@pytest.mark.skipif(sys.platform != "linux", reason="there is a bound on Linux only")
def test_a_name_that_claims_gigabytes_gets_none(tmp_path: Path) -> None:
    """Names of variable length are in the file as length, address and number; here the length is changed."""
    path = save(network(**SMALL), tmp_path / "w.h5", h5py3=True)
    content = path.read_bytes()
    name = b"layer_0_of_whatever_name"
    heap = content.index(b"GCOL").to_bytes(8, "little")
    at = content.index(len(name).to_bytes(4, "little") + heap)
    path.write_bytes(content[:at] + b"\0\0\0\xf0" + content[at + 4 :])
    before, limits = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, resource.getrlimit(resource.RLIMIT_AS)
    refused(path, "cannot be converted")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # half a gibibyte, in kibibytes
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + os.urandom(4000)])
def test_what_is_no_hdf5_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes(content)
    with pytest.raises((DataError, UsageError), match=r"w\.h5 (cannot be|is no file)"):
        conversion.convert(path, tmp_path / "out.safetensors")


def test_a_file_of_keras_3_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(path)
    refused(path, "Keras 3 wrote it")
