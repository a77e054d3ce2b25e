"""One file, opened with suspicion: its weights come back to the bit, and nothing else comes in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from densely import model_file
from densely.architecture import NetworkSpec, build
from densely.errors import DataError, DenselyError, UsageError
from densely.evaluation import Views
from densely.model_file import Header, ModelFile, open_trained
from densely.runs import Inputs

NETWORK = NetworkSpec(layers=(2, 1), growth_rate=4, bottleneck=True, input_shape=(8, 8, 3), classes=3)
HEADER = Header(
    name="small",
    network=NETWORK,
    inputs=Inputs(
        class_names=("a", "b", "ç"),
        multi_label=False,
        input_shape=(8, 8, 3),
        preprocessing={"kind": "unit", "mean": [0.0] * 3, "std": [1.0] * 3},
    ),
    views=Views(True, 1),
    origin="A test",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "small.safetensors"
    model_file.write(path, build(NETWORK), HEADER)
    return path


def with_header(source: Path, target: Path, change: Any, **arrays: Any) -> Path:
    """The file with another header, or other arrays (`None` leaves one out)."""
    kept = {**load_file(source), **{name.replace("__", "/"): value for name, value in arrays.items()}}
    header = change(json.loads(HEADER.model_dump_json()))
    metadata = {} if header is None else {"densely": header if isinstance(header, str) else json.dumps(header)}
    save_file({name: value for name, value in kept.items() if value is not None}, target, metadata)
    return target


def with_inputs(header: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**header, "inputs": {**header["inputs"], **changes}}


@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 0), ("float16", 1e-3)])
def test_weights_come_back(kind: Any, tolerance: float, tmp_path: Path) -> None:
    model = build(NETWORK)
    path = tmp_path / "m.safetensors"
    model_file.write(path, model, HEADER, kind)
    file = open_trained(path)
    assert isinstance(file, ModelFile)
    assert file.header == HEADER
    assert (file.name, file.network, file.views) == ("small", NETWORK, Views(True, 1))
    for before, after in zip(model.weights, file.model().weights, strict=True):
        np.testing.assert_allclose(np.asarray(after), np.asarray(before), rtol=tolerance, atol=tolerance)


def test_float16_is_half_as_large_and_refuses_what_it_cannot_hold(whole: Path, tmp_path: Path) -> None:
    model = build(NETWORK)
    path = tmp_path / "m.safetensors"
    model_file.write(path, model, HEADER, "float16")
    assert path.stat().st_size < 0.75 * whole.stat().st_size
    model.get_layer("logits").bias.assign([1e6, 0, 0])
    with pytest.raises(DataError, match="logits/bias do not fit into float16"), np.errstate(over="ignore"):
        model_file.write(path, model, HEADER, "float16")
    assert ModelFile.open(path).model() is not None


@pytest.mark.parametrize(
    ("change", "arrays", "said"),
    [
        (lambda header: None, {}, "Densely did not write it"),
        (lambda header: "{", {}, "cannot be read"),
        (lambda header: [1], {}, "cannot be read"),
        (lambda header: {**header, "format": 2}, {}, "format"),
        (lambda header: {**header, "more": 1}, {}, "more"),
        (lambda header: {**header, "name": "a/b"}, {}, "name='a/b'"),
        (lambda header: {**header, "views": [True, 8]}, {}, "cannot be moved by 8 pixels"),
        (lambda header: {**header, "views": [True, -1]}, {}, "cannot be moved by -1 pixels"),
        (lambda header: with_inputs(header, input_shape=[200_000, 200_000, 3]), {}, "not those of the network"),
        (lambda header: with_inputs(header, input_shape=[0, 8, 3]), {}, "not those of the network"),
        (lambda header: with_inputs(header, class_names=["a", "a", "b"]), {}, "2 different names"),
        (lambda header: with_inputs(header, class_names=["a", "b", "\x1b[31mred"]), {}, "control a terminal"),
        (lambda header: with_inputs(header, multi_label=True), {}, "does not go with multi_label"),
        (
            lambda header: with_inputs(header, preprocessing={"kind": "unit", "mean": [0.0], "std": [1.0]}),
            {},
            "1 channels, not for 3",
        ),
        (lambda header: header, {"final_norm__moving_variance": np.full(28, -1, np.float32)}, "variances below zero"),
        (lambda header: {**header, "network": {**header["network"], "classes": 4}}, {}, "the network has 4 classes"),
        (lambda header: {**header, "network": {**header["network"], "growth_rate": 9000}}, {}, "damaged"),
        (lambda header: {**header, "network": {**header["network"], "growth_rate": 3}}, {}, "belongs to another"),
        (lambda header: header, {"logits__bias": None}, "lacks logits/bias"),
        (lambda header: header, {"logits__more": np.zeros(1, np.float32)}, "has logits/more"),
        (lambda header: header, {"logits__bias": np.zeros(3, np.int32)}, "logits/bias is I32"),
        (lambda header: header, {"logits__bias": np.zeros(4, np.float32)}, "belongs to another"),
        (lambda header: header, {"logits__bias": np.float32([1, np.nan, 1])}, "not finite"),
    ],
)
def test_what_does_not_fit_is_named(whole: Path, tmp_path: Path, change: Any, arrays: Any, said: str) -> None:
    path = with_header(whole, tmp_path / "changed.safetensors", change, **arrays)
    with pytest.raises(DataError, match=said):
        ModelFile.open(path).model()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model file"):
        open_trained(tmp_path / "nowhere.safetensors")
    with pytest.raises(UsageError, match="no run folder"):
        open_trained(tmp_path / "nowhere")
    (tmp_path / "own.keras").touch()
    with pytest.raises(UsageError, match=r"own\.keras is a Keras file, .*keras\.saving\.load_model"):
        open_trained(tmp_path / "own.keras")
    (tmp_path / "text.h5").write_text("neither")
    with pytest.raises(UsageError, match="no run folder"):
        open_trained(tmp_path / "text.h5")
    (tmp_path / "text.safetensors").write_text("not one")
    with pytest.raises(DataError, match="no safetensors file"):
        open_trained(tmp_path / "text.safetensors")


def test_there_are_only_final_weights(whole: Path) -> None:
    with pytest.raises(UsageError, match="leave --weights out"):
        ModelFile.open(whole).model("best")


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_told_in_a_sentence_or_changes_numbers_only(
    whole: Path, tmp_path: Path, place: int, value: int, cut: bool
) -> None:
    content = bytearray(whole.read_bytes())
    place %= len(content)
    content[place] = value
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content[:place] if cut else content)
    said, weights = "", []
    try:
        weights = ModelFile.open(path).model().weights
    except DenselyError as error:
        said = str(error)
    assert "\n" not in said
    assert all(np.isfinite(np.asarray(v)).all() for v in weights)
