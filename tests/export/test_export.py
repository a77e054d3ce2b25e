"""Exports opened by the programs that they are for, without Densely's help."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import densely
from densely import export as exporting
from densely.data import Parts
from densely.errors import DenselyError, UsageError
from densely.export import Exported, export
from densely.export.folding import Folded
from densely.model_file import ModelFile
from densely.prediction import predict
from densely.runs import Run

PROGRAMS = ("onnx", "keras", "torch")
FORMATS = (*PROGRAMS, "safetensors")


@pytest.fixture(scope="module")
def exported(digits: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Each export made once."""
    made: dict[str, Exported] = {}

    def one(format: str, **options: object) -> Exported:
        key = format + json.dumps(options)
        if key not in made:
            made[key] = export(digits, format, out=tmp_path_factory.mktemp(format), **options)
        return made[key]

    return one


def asked(path: Path, images: np.ndarray) -> np.ndarray:
    """What a file says of images."""
    if path.suffix == ".onnx":
        return np.asarray(onnxruntime.InferenceSession(path).run(["probabilities"], {"image": images})[0])
    if path.suffix == ".keras":
        return np.asarray(keras.saving.load_model(path).predict_on_batch(images))
    return torch.export.load(path).module()(torch.tensor(images)).numpy()


def metadata(path: Path) -> dict[str, object]:
    if path.suffix == ".onnx":
        return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map["densely"])
    if path.suffix == ".keras":
        return json.loads(zipfile.ZipFile(path).read("densely.json"))
    extra = {"densely.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["densely.json"])


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("format", PROGRAMS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_answers_as_the_network(
    format: str, raw: bool, exported: Callable[..., Exported], digits: Run, digit_parts: Parts
) -> None:
    found = exported(format, with_preprocessing=raw)
    assert digit_parts.test is not None
    images = digit_parts.test.images
    expected = digits.model().predict_on_batch(digits.preprocessing(images))
    for n in (1, 2, 50):
        given = images[:n] if raw else digits.preprocessing(images[:n])
        np.testing.assert_allclose(asked(found.path, given), expected[:n], atol=1e-5)
    assert found.checked.images == 359
    assert found.checked.difference < 1e-5
    assert found.checked.accuracy is not None and len(set(found.checked.accuracy)) == 1
    about = metadata(found.path)
    assert about["class_names"] == [str(i) for i in range(10)]
    assert about["input_shape"] == [8, 8, 1]
    assert about["with_preprocessing"] is raw
    assert about["preprocessing"] == digits.inputs.preprocessing


def test_a_model_file_answers_as_the_network(
    exported: Callable[..., Exported], digits: Run, digit_parts: Parts
) -> None:
    found = exported("safetensors")
    file = ModelFile.open(found.path)
    assert digit_parts.test is not None
    pixels = file.preprocessing(digit_parts.test.images[:40])
    expected = digits.model().predict_on_batch(digits.preprocessing(digit_parts.test.images[:40]))
    np.testing.assert_array_equal(file.model().predict_on_batch(pixels), expected)
    assert file.inputs == digits.inputs
    assert file.views == digits.views
    assert "digits" in file.header.origin


@pytest.mark.parametrize("format", PROGRAMS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_fixed_batch_is_fixed(format: str, digits: Run, digit_parts: Parts, tmp_path: Path) -> None:
    found = export(digits, format, out=tmp_path, batch=3, with_preprocessing=True, images=50)
    assert digit_parts.test is not None
    assert asked(found.path, digit_parts.test.images[:3]).shape == (3, 10)
    assert found.checked.images == 50
    if format != "keras":  # which takes its number for a wish
        with pytest.raises(Exception, match=r"(?i)dim|shape|guard"):
            asked(found.path, digit_parts.test.images[:4])


@pytest.mark.parametrize(
    "format", ["onnx", "keras", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch", "safetensors"))]
)
def test_the_card_s_lines_run_where_densely_is_not_installed(
    format: str, exported: Callable[..., Exported], digits: Run, digit_parts: Parts
) -> None:
    found = exported(format)
    assert digit_parts.test is not None
    # Not square: it has to be cut to size as in training.
    photo = found.path.parent / "photo.png"
    Image.fromarray(digit_parts.test.images[0, ..., 0]).resize((40, 18)).save(photo)
    lines = found.card.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    if format != "safetensors":
        lines = f"import sys; sys.modules['densely'] = None\n{lines}"
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", lines],
        cwd=found.path.parent,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    label, probability = done.stdout.split()
    (best,) = predict(digits, [photo], top=1)[0]
    assert label == best.label
    assert float(probability) == pytest.approx(best.probability, abs=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_inside_tells_of_this_machine(format: str, exported: Callable[..., Exported]) -> None:
    found = exported(format)
    contents = [found.path.read_bytes()]
    if zipfile.is_zipfile(found.path):
        with zipfile.ZipFile(found.path) as file:
            contents = [file.read(name) for name in file.namelist()]
    for place in (Path(densely.__file__).parent, Path.home(), Path(torch.__file__).parents[1]):
        assert not any(str(place).encode() in content for content in contents), place


def test_onnx_gives_maps_whose_means_are_the_logits(exported: Callable[..., Exported], digit_parts: Parts) -> None:
    found = exported("onnx", with_preprocessing=True)
    onnx.checker.check_model(found.path)
    assert digit_parts.test is not None
    session = onnxruntime.InferenceSession(found.path)
    p, maps = session.run(["probabilities", "activation_maps"], {"image": digit_parts.test.images[:5]})
    logits = maps.mean((1, 2))
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(softmax, p, atol=1e-5)
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(found.path).graph.node)


def test_int8_is_smaller_and_nearly_as_good(digits: Run, exported: Callable[..., Exported], digit_parts: Parts) -> None:
    whole, small = exported("onnx"), exported("onnx", quantize="int8")
    assert small.path.name == "model-int8.onnx"
    # A scale or a shift is one row of channels, (1, C, 1, 1); a kernel has more rows.
    kernels = [t for t in onnx.load(small.path).graph.initializer if len(t.dims) == 4 and t.dims[0] > 1]
    assert len(kernels) == 16
    assert {t.data_type for t in kernels} == {onnx.TensorProto.INT8}
    assert small.checked.accuracy is not None
    before, after = small.checked.accuracy
    assert whole.checked.accuracy == (before, before)
    assert after > before - 0.03
    assert small.path.stat().st_size < 0.75 * whole.path.stat().st_size
    assert small.checked.difference > whole.checked.difference
    assert metadata(small.path)["numbers"] == "int8"
    assert digit_parts.test is not None
    for n in (1, 5):
        assert asked(small.path, digits.preprocessing(digit_parts.test.images[:n])).shape == (n, 10)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_several_labels_and_data_that_cannot_be_read_again(several: Run, tmp_path: Path) -> None:
    found = export(several, "onnx", out=tmp_path, with_preprocessing=True)
    images = np.random.default_rng(1).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    expected = several.model().predict_on_batch(several.preprocessing(images))
    np.testing.assert_allclose(asked(found.path, images), expected, atol=1e-5)
    assert found.checked.accuracy is None
    assert "random images" in found.checked.told() and "given in Python" in found.checked.told()
    assert metadata(found.path)["multi_label"] is True
    with pytest.raises(UsageError, match="needs training images"):
        export(several, "onnx", out=tmp_path, quantize="int8")


def test_a_file_that_answers_otherwise_is_not_announced(
    digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = exporting.fold

    def wrong(*args: object, **more: object) -> Folded:
        folded: Folded = fold(*args, **more)  # type: ignore[arg-type]
        folded.classifier.bias[3] += 0.5
        return folded

    monkeypatch.setattr(exporting, "fold", wrong)
    for format in ("keras", "torch"):
        with pytest.raises(DenselyError, match="does not answer as the trained one"):
            export(digits, format, out=tmp_path / format)
        assert not (tmp_path / format).exists()


def test_an_export_of_an_export(
    exported: Callable[..., Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = ModelFile.open(exported("safetensors").path)
    found = export(file, "keras")
    assert found.path == Path("model-keras/model.keras")
    assert found.checked.difference < 1e-5
    assert "random images" in found.card.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "onxx"}, "--format must be one of onnx"),
        ({"format": "keras", "quantize": "int8"}, "--quantize int8 is for --format onnx"),
        ({"quantize": "int4"}, "--quantize can only be int8"),
        ({"batch": 0}, "--batch must be dynamic"),
        ({"format": "safetensors", "with_preprocessing": True}, "weights, not a program"),
        ({"images": 0}, "--images must be at least 1"),
        ({"weights": "worst"}, "holds no worst weights"),
    ],
)
def test_what_does_not_go_together_is_told(digits: Run, tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export(digits, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_answers_that_are_no_numbers_are_not_announced(
    digits: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = exporting.fold

    def broken(*args: object, **more: object) -> Folded:
        folded: Folded = fold(*args, **more)  # type: ignore[arg-type]
        folded.classifier.bias[3] = np.nan
        return folded

    monkeypatch.setattr(exporting, "fold", broken)
    with pytest.raises(DenselyError, match="no numbers"):
        export(digits, "keras", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_have_its_card_is_not_written(digits: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with pytest.raises(UsageError, match=r"README\.md cannot be used"):
        export(digits, "keras", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(UsageError, match="cannot be used: File name too long"):
        export(digits, "keras", out=tmp_path / ("x" * 300))


def test_a_readme_of_somebody_else_s_stays(digits: Run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My own\n")
    with pytest.raises(UsageError, match=r"README\.md is not of an export"):
        export(digits, "keras", out=tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My own\n"
    with pytest.raises(UsageError, match="is no folder"):
        export(digits, "keras", out=tmp_path / "README.md")
