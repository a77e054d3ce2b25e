"""A model that leaves the tool: ONNX, Keras, PyTorch or safetensors, checked before it is announced, with its card.

    exported = densely.export.export(densely.Run.open("runs/digits-1"), "onnx", with_preprocessing=True)

Every format but safetensors opens where Densely is not installed: its network consists of ordinary operators, with the
batch normalisations folded (`folding`). safetensors holds the weights as they were trained, to go on with.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from densely import data
from densely.data import Dataset, Parts
from densely.errors import DataError, DenselyError, UsageError, reason
from densely.export import card
from densely.export.checking import TOLERANCE, Answers, Checked, accuracy, answers
from densely.export.description import Description, describe
from densely.export.folding import fold
from densely.export.formats import FORMATS, Format
from densely.files import flush, write_whole
from densely.model_file import Header, ModelFile
from densely.model_file import write as write_model_file
from densely.runs import Run, Weights

IMAGES = 1000
"""Of the test part, that an export is compared on."""

RANDOM = 64
"""Images, where the run's own are not at hand."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the model.
        card: its card, `README.md` beside it.
        checked: what a comparison with the network in Keras gave.
    """

    path: Path
    card: Path
    checked: Checked


def export(
    trained: Run | ModelFile,
    format: Format = "onnx",
    *,
    out: str | Path | None = None,
    batch: int | Literal["dynamic"] = "dynamic",
    quantize: Literal["int8"] | None = None,
    with_preprocessing: bool = False,
    weights: Weights = "final",
    images: int | None = IMAGES,
    data_dir: str | Path | None = None,
) -> Exported:
    """Write a trained network in another format, with its card: what `densely export` does.

    It is written aside, opened by its own runtime and compared with the network in Keras, image by image; only then is
    it put in its place. It looks at each image once, also where the run's scores are means over several views.

    Args:
        trained: an opened run or model file.
        format: `"onnx"`, `"keras"` (a `.keras` file of Keras's own layers), `"torch"` (a `.pt2` file of
            `torch.export`) or `"safetensors"` (weights, for `densely.build(weights=…)`).
        out: the folder to write to, made if need be; by default `export/FORMAT` in the run folder, or
            `NAME-FORMAT` for a model file (`FORMAT-int8` of quantised ones).
        batch: how many images it takes at a time, or `"dynamic"` for any number.
        quantize: `"int8"` for convolutions in 8-bit integers (ONNX only).
        with_preprocessing: take uint8 images, 0 to 255, in place of preprocessed float32.
        weights: `"final"` or `"best"`.
        images: of the test part, to compare on; None for all.
        data_dir: where built-in data lie. Where the run's data cannot be read, random images are compared.

    Raises:
        UsageError: for settings that do not go together, or a library that is not installed.
        DataError: if it cannot be written.
        DenselyError: if the file does not answer as the network does; then nothing was written.
    """
    _check(format, batch, quantize, with_preprocessing, images)
    folder = Path(out) if out is not None else default_folder(trained, format, quantize)
    name = "model-int8" if quantize else "model"
    path = folder / (name + FORMATS[format].ending)
    card.check_place(folder)
    preprocessing, model = trained.preprocessing, trained.model(weights)
    description = describe(trained, with_preprocessing, batch=batch, numbers=quantize or "float32")
    parts, why = _parts(trained, data_dir, quantize is not None)
    part, shown = _shown(trained, parts, images)
    if shown is None:
        why = why or "the run has no part that it was not trained on"

    def reference(some: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(model.predict_on_batch(preprocessing(some)))

    def taken(some: NDArray[np.uint8]) -> NDArray[Any]:
        return some if with_preprocessing else preprocessing(some)

    pixels = _random(trained) if shown is None else shown.images
    expected = answers(reference, pixels, "dynamic")
    checked: list[Checked] = []

    def write(aside: Path) -> None:
        calibration = None if quantize is None or parts is None else taken(_some(parts.train.images))
        _write(format, trained, model, description, aside, calibration, weights)
        found = answers(_reopened(format, trained, aside), taken(pixels), description.batch)
        difference = float(np.abs(found - expected).max())
        if not np.isfinite(found).all():
            raise DenselyError("The exported network gives answers that are no numbers; nothing was written.")
        if quantize is None and not difference <= TOLERANCE:
            raise DenselyError(
                f"The exported network does not answer as the trained one: probabilities differ by up to "
                f"{difference:.2g}, more than {TOLERANCE}; nothing was written."
            )
        both = None if shown is None else (accuracy(expected, shown.labels), accuracy(found, shown.labels))
        checked.append(Checked(len(pixels), why if shown is None else None, part, difference, both))
        flush(aside)
        # Just before the model is put in its place: what cannot have its card is not announced.
        card.write(folder / card.FILE, trained, format, path.name, aside, description, checked[0], weights)

    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                (folder / card.FILE).unlink(missing_ok=True)
                folder.rmdir()
        if isinstance(error, OSError):
            raise DataError(f"The folder {folder} cannot be made: {error.strerror}.") from None
        raise
    return Exported(path, folder / card.FILE, checked[0])


def onnx_file(trained: Run | ModelFile, path: Path, weights: Weights = "final") -> None:
    """Write the ONNX file that `densely serve` runs, unchecked: any batch of uint8 images.

    Raises:
        UsageError: if the libraries for it are not installed.
    """
    from densely.export import onnx

    onnx.check()
    _write("onnx", trained, trained.model(weights), describe(trained, True), path, None)


def default_folder(trained: Run | ModelFile, format: Format, quantize: str | None = None) -> Path:
    """Where an export goes that nobody gave a place; one in int8 beside the whole one, for each has a card."""
    name = f"{format}-{quantize}" if quantize else format
    return trained.folder / "export" / name if isinstance(trained, Run) else Path(f"{trained.path.stem}-{name}")


def _check(format: str, batch: int | str, quantize: str | None, with_preprocessing: bool, images: int | None) -> None:
    if format not in FORMATS:
        raise UsageError(f"--format must be one of {', '.join(FORMATS)}, not {format!r}.")
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise UsageError(f"--batch must be dynamic, or a number from 1, not {batch!r}.")
    if quantize not in (None, "int8"):
        raise UsageError(f"--quantize can only be int8, not {quantize!r}.")
    if quantize is not None and format != "onnx":
        raise UsageError(f"--quantize int8 is for --format onnx, not for {format}.")
    if format == "safetensors" and (with_preprocessing or batch != "dynamic"):
        raise UsageError("A safetensors file holds weights, not a program: leave --with-preprocessing and --batch out.")
    if images is not None and images < 1:
        raise UsageError(f"--images must be at least 1, not {images}.")
    if format == "onnx":
        from densely.export import onnx

        onnx.check()


def _parts(trained: Run | ModelFile, data_dir: str | Path | None, needed: bool) -> tuple[Parts | None, str]:
    """The run's own images, or why they cannot be had."""
    from densely.training.parts import parts_of

    try:
        if isinstance(trained, ModelFile):
            raise UsageError("A model file names no images.")
        return parts_of(trained, data_dir), ""
    except DenselyError as error:
        if needed:
            raise UsageError(f"--quantize int8 needs training images to see the ranges of the maps. {error}") from None
        return None, reason(error).rstrip(".")


def _shown(trained: Run | ModelFile, parts: Parts | None, images: int | None) -> tuple[str, Dataset | None]:
    """The images to compare on, and the name of their part."""
    if parts is None or isinstance(trained, ModelFile):
        return "", None
    name = "validation" if trained.config.tune or parts.test is None else "test"
    part = parts.test if name == "test" else parts.val
    if part is None:
        return "", None
    if images is not None and images < len(part):
        kept, _ = data.stratified(part.labels, len(part) - images, data.TEST_SEED)
        part = part.take(kept)
    return name, part


def _random(trained: Run | ModelFile) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (RANDOM, *trained.inputs.input_shape), dtype=np.uint8)


def _some(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images to calibrate on, from all over: those of a folder lie class by class."""
    from densely.export.int8 import CALIBRATION

    chosen = np.linspace(0, len(images) - 1, min(len(images), CALIBRATION)).astype(np.int64)
    return np.asarray(images[chosen])


def _write(
    format: Format,
    trained: Run | ModelFile,
    model: Any,
    description: Description,
    path: Path,
    calibration: NDArray[Any] | None,
    weights: Weights = "final",
) -> None:
    if format == "safetensors":
        header = Header(
            name=trained.name,
            network=trained.network,
            inputs=trained.inputs,
            views=trained.views,
            origin=card.origin(trained, weights),
        )
        write_model_file(path, model, header)
        return
    preprocessing = trained.preprocessing if description.with_preprocessing else None
    folded = fold(model, trained.network, trained.inputs.input_shape, preprocessing)
    if calibration is None:
        _module(format).write(folded, description, path)
    else:
        from densely.export import int8

        int8.write(folded, description, path, calibration)


def _reopened(format: Format, trained: Run | ModelFile, path: Path) -> Answers:
    """What was written, opened again by its own runtime."""
    if format == "safetensors":
        model = ModelFile.open(path).model()
        return lambda some: np.asarray(model.predict_on_batch(some))
    opened: Answers = _module(format).reopened(path)
    return opened


def _module(format: Format) -> Any:
    """Who writes and opens a format: loaded when it is wanted, with the libraries that it needs."""
    return import_module(f"densely.export.{FORMATS[format].module}")
