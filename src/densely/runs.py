"""The run folder: what is in it, how it is written, how it is opened again.

    config.toml              what was asked for, every default written out
    environment.json         versions, machine, seed, revision: where it ran
    inputs.json              class names, input shape, preprocessing: what `predict` needs besides the weights
    splits.json              which image of the source went into which part
    history.csv              one line an epoch
    best.weights.h5          the weights of the epoch with the highest validation accuracy
    final.weights.h5         the weights after the last epoch; these are scored
    checkpoints/             while it trains: the whole state (`densely.training.resume.checkpoint`)
    tensorboard/             with `--tensorboard`: the history once more, as an event file
    predictions.safetensors  the final weights' probabilities for the validation and the test part, and the labels
    metrics.json             the scores, written last: a folder without it holds a training that did not finish
    report.html              the run as a page, with its pictures in figures/ (`densely.report`)

Whole files are written aside and renamed, so a reader never meets half a file.
"""

from __future__ import annotations

import contextlib
import csv
import glob
import itertools
import json
import os
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from densely.architecture import NetworkSpec, build
from densely.console import counted
from densely.cost import parameters
from densely.data import Preprocessing
from densely.errors import DataError, UsageError, from_validation, reason
from densely.evaluation.views import Views
from densely.files import write_whole
from densely.recipes import Recipe

if TYPE_CHECKING:
    import keras

Weights = Literal["final", "best"]


class Start(BaseModel):
    """The trained weights that a training starts from, and how it treats them.

    Attributes:
        weights: the path of a run folder or model file, or the name of weights that come with Densely.
        sha256: of the file with the weights, so that the same training starts from the same.
        new_head: whether the classifier is fresh, because the classes are other ones.
        freeze: the last layer of those that are not trained; `None` trains all.
        stage_rates: the learning rate of a stage over that of the stage after it; 1: all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weights: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    new_head: bool
    freeze: str | None = None
    stage_rates: float = Field(default=1.0, gt=0, le=1)


class RunConfig(BaseModel):
    """What defines a training, with nothing left to defaults.

    Attributes:
        data: name of a built-in data set, or the path of a folder of images, or a name given in Python.
        size: (height, width) that a folder's images were brought to; `None` for built-in sets.
        channels: that a folder's images were brought to; `None` for built-in sets.
        skip_bad: whether files that could not be read as images were left out.
        limit: at most this many images of the training data and of the test part; `None` for all.
        fold: (i, K): the i-th of K folds of the training data was the test part; `splits.json` then counts the images
            of the other folds.
        seed: of initial weights, order, augmentation, dropout and the split.
        tune: whether the validation part was scored in place of the test part.
        deterministic: whether only operators were allowed that give the same bits each time.
        sync_bn: whether batch normalisation took its statistics from the whole batch where several processes shared
            it; in one process it always does.
        model: name of the network that was asked for.
        network: the network itself.
        recipe: how it was trained.
        start: the weights that it started from; `None` for fresh ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    size: tuple[int, int] | None = None
    channels: int | None = None
    skip_bad: bool = False
    limit: int | None = Field(default=None, ge=1)
    fold: tuple[int, int] | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    tune: bool = False
    deterministic: bool = False
    sync_bn: bool = False
    model: str
    network: NetworkSpec
    recipe: Recipe
    start: Start | None = None

    @property
    def data_name(self) -> str:
        """What the data are called: a built-in or given name as it is, a folder or table without its path."""
        return name_for(self.data) if self.size else self.data

    @property
    def scored(self) -> Literal["val", "test"]:
        """Which part was scored: its name in `metrics.json`, in `predictions.safetensors` and of `Parts`."""
        return "val" if self.tune else "test"

    @property
    def watched(self) -> str:
        """Which part was looked at after every epoch, in words."""
        return "test" if self.watches_test else "validation"

    @property
    def watches_test(self) -> bool:
        """Whether the test part was looked at after every epoch; while settings are chosen, it never is."""
        return self.recipe.validate_on_test and not self.tune


class Inputs(BaseModel):
    """What a model expects and what its outputs mean.

    Attributes:
        class_names: in the order of its outputs.
        multi_label: whether an image may have several labels: then each output has a probability of its own.
        input_shape: (height, width, channels) of the images.
        preprocessing: what has been, or has to be, done to uint8 pixels, as `Preprocessing.as_dict` writes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_names: tuple[str, ...]
    multi_label: bool
    input_shape: tuple[int, int, int]
    preprocessing: dict[str, Any]


class Run:
    """A run folder, opened.

    Attributes:
        folder: where it is.
        config: what was trained, and how.
        inputs: class names, input shape and preprocessing.
    """

    def __init__(self, folder: Path, config: RunConfig, inputs: Inputs) -> None:
        self.folder = folder
        self.config = config
        self.inputs = inputs

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a run folder.

        Raises:
            UsageError: if it does not exist or is no run folder.
            DataError: if one of its files is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"There is no run folder {folder}: give the folder that a training printed.")
        if not (folder / "config.toml").is_file():
            inside = sorted(folder.glob("*/config.toml"), key=lambda file: file.stat().st_mtime)
            hint = f"; the newest in it is {inside[-1].parent}" if inside else ""
            raise UsageError(f"{folder} is no run folder: it has no config.toml{hint}.")
        config = read_config(folder / "config.toml")
        with reading(folder / "inputs.json"):
            inputs = Inputs(**read_json(folder / "inputs.json"))
            if inputs.input_shape != config.network.input_shape or len(inputs.class_names) != config.network.classes:
                raise ValueError("its images or classes are not those of config.toml")
        return cls(folder, config, inputs)

    @property
    def name(self) -> str:
        """Of the network."""
        return self.config.model

    @property
    def network(self) -> NetworkSpec:
        """The network that was trained."""
        return self.config.network

    @property
    def views(self) -> Views:
        """At what of each image the scores look."""
        return self.config.recipe.views

    @property
    def metrics(self) -> dict[str, Any]:
        """The scores in `metrics.json`, fractions between 0 and 1.

        Raises:
            UsageError: if the training did not finish.
        """
        path = self.folder / "metrics.json"
        if not path.is_file():
            raise UsageError(f"The training in {self.folder} did not finish: it has no metrics.json.")
        found = read_json(path)
        if not isinstance(found, dict):
            raise DataError(f"{path} cannot be read: it holds no scores.")
        return found

    @property
    def accuracy(self) -> float:
        """Accuracy of the final weights, between 0 and 1: of the test part, or of the validation part with `tune`."""
        metrics = self.metrics
        with reading(self.folder / "metrics.json"):
            return float(metrics[self.config.scored]["accuracy"])

    @property
    def predictions(self) -> dict[str, np.ndarray]:
        """What the final weights said of the parts that were scored.

        Returns:
            As `val` and `test` the probabilities, float32 `(N, classes)`; as `val_labels` and `test_labels` the truth.

        Raises:
            UsageError: if the training did not finish, or a version wrote it that kept none.
            DataError: if the file is damaged.
        """
        path = self.folder / "predictions.safetensors"
        if not path.is_file():
            raise UsageError(f"{self.folder} holds no predictions: its training did not finish, or was an older one.")
        metrics, classes = self.metrics, len(self.inputs.class_names)
        with reading(path):
            try:
                found = {name: np.asarray(value) for name, value in load_file(path).items()}
            except SafetensorError as error:
                raise ValueError(str(error)) from None
            for name in found.keys() & {"val", "test"}:
                n, p, labels = metrics[name]["n"], found[name], found[f"{name}_labels"]
                if p.shape != (n, classes) or p.dtype != np.float32 or not np.isfinite(p).all():
                    raise ValueError(f"{name} is {p.dtype} {p.shape}, not finite float32 {(n, classes)}")
                if labels.shape != ((n, classes) if self.inputs.multi_label else (n,)):
                    raise ValueError(f"{name}_labels is {labels.shape}, for {n} images")
        return found

    @property
    def history(self) -> list[dict[str, float]]:
        """One row an epoch: epoch, learning_rate, loss, accuracy, val_loss, val_accuracy, seconds."""
        path = self.folder / "history.csv"
        with reading(path), path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns uint8 images into the model's input."""
        path = self.folder / "inputs.json"
        try:
            return Preprocessing.from_dict(self.inputs.preprocessing)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def model(self, weights: Weights = "final") -> keras.Model:
        """The trained network, from `(N, H, W, C)` preprocessed images to `(N, classes)` probabilities.

        The network is built from the config and only then given its weights; no code in the folder is run.

        Args:
            weights: `"final"` (those that were scored) or `"best"` (highest validation accuracy).

        Raises:
            UsageError: if the folder does not hold these weights.
            DataError: if the file is damaged or belongs to another network.
        """
        path = self.folder / f"{weights}.weights.h5"
        if not path.is_file():
            other = "best" if weights == "final" else "final"
            instead = f"; there are {other} weights" if (self.folder / f"{other}.weights.h5").is_file() else ""
            if instead and not (self.folder / "metrics.json").is_file():
                instead += " (--weights best), and the command that began the training goes on with it"
            raise UsageError(f"{self.folder} holds no {weights} weights{instead}.")
        _check_claims(path, parameters(self.config.network))
        model = build(self.config.network)
        try:
            with warnings.catch_warnings():
                # Keras only warns where a file lacks weights that the network has, and leaves them at random.
                warnings.simplefilter("error", UserWarning)
                model.load_weights(path)
        except Exception as error:  # a hostile file can fail in any way
            raise DataError(f"{path} is damaged or belongs to another network: {reason(error)}") from None
        return model

    def __repr__(self) -> str:
        scores = [f"{name:<15}{value}  ({note})" for name, value, note in self.scored()]
        page = self.folder / "report.html"
        report = [f"Report         {page}"] if page.is_file() else []
        return "\n".join([*scores, f"Run folder     {self.folder}", *report])

    def _repr_html_(self) -> str:
        from densely import display

        return display.card(self)

    def scored(self) -> list[tuple[str, str, str]]:
        """The scores for the eye: each with its name, value and what it is of; none while it trains.

        Raises:
            DataError: if `metrics.json` is damaged.
        """
        name = "Val." if self.config.tune else "Test"
        scores = self.metrics.get(self.config.scored) if (self.folder / "metrics.json").is_file() else None
        with reading(self.folder / "metrics.json"):
            return [] if scores is None else self._told(name, scores)

    def _told(self, part: str, scores: dict[str, Any]) -> list[tuple[str, str, str]]:
        seen = "; watched during training" if self.config.watches_test else ""
        accuracy = f"{100 * scores['accuracy']:.2f} %"
        if not self.inputs.multi_label:
            of = f"{round(scores['accuracy'] * scores['n']):,} of {counted(scores['n'], 'image')}"
            if "accuracy_ci95" in scores:  # which runs of earlier versions lack
                low, high = scores["accuracy_ci95"]
                of += f"; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
            return [(f"{part} accuracy", accuracy, f"{of}{seen}")]
        found = [(f"{part} accuracy", accuracy, f"of all yes-or-no answers for {counted(scores['n'], 'image')}{seen}")]
        precision = scores.get("mean_average_precision")
        if precision is not None:
            found.append((f"{part} mAP", f"{100 * precision:.2f} %", "mean average precision of the classes"))
        return found


def _check_claims(path: Path, count: int) -> None:
    """Before memory is given to it: that a file of weights is as large as `count` of them, and as what it claims."""
    import h5py

    size, declared = path.stat().st_size, 0

    def add(name: str, item: Any) -> None:
        nonlocal declared
        declared += item.nbytes if isinstance(item, h5py.Dataset) else 0

    try:
        with h5py.File(path, "r") as file:
            file.visititems(add)
    except Exception as error:  # a hostile file can fail in any way
        raise DataError(f"{path} is damaged: {reason(error)}") from None
    # Keras writes four bytes a parameter, and compresses nothing.
    if declared > size or 4 * count > size:
        raise DataError(
            f"{path} is damaged or belongs to another network: it has {size:,} bytes, for {declared:,} bytes of arrays "
            f"and a network of {count:,} weights."
        )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file of a run folder raises into one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing: the run folder is not complete.") from None
    except ValidationError as error:
        raise DataError(str(from_validation(str(path), error))) from None
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from None


def name_for(data: str) -> str:
    """What the run folders of a source are called, before their number."""
    path = Path(data).resolve()
    return (path.stem if path.is_file() else path.name) or "run"


def numbered(name: str) -> list[Path]:
    """The folders `runs/NAME-1`, `runs/NAME-2`, … that exist, in order."""
    found = {}
    for path in Path("runs").glob(f"{glob.escape(name)}-*"):
        number = path.name.removeprefix(f"{name}-")
        if number.isdecimal() and path.is_dir():
            found[int(number)] = path
    return [found[number] for number in sorted(found)]


def create_numbered(name: str) -> Path:
    """The next free `runs/NAME-1`, `runs/NAME-2`, …, made.

    Raises:
        DataError: if it cannot be created.
    """
    root = Path("runs")
    try:
        root.mkdir(exist_ok=True)
        for number in itertools.count(1):
            folder = root / f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
    except OSError as error:
        raise DataError(f"The run folder {error.filename} cannot be created: {error.strerror}.") from None
    raise AssertionError  # numbers do not end


#: Bytes that HDF5 writes around each weight, at most.
AROUND_A_WEIGHT = 8192


def _find_room(path: Path, model: keras.Model) -> None:
    """Fill a file as large as that of the weights will be: HDF5 ends the whole process where the disk is full.

    Raises:
        OSError: there is no room.
    """
    size = sum(weight.numpy().nbytes + AROUND_A_WEIGHT for weight in model.weights)
    block = bytes(2**20)
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])


def write_weights(path: Path, model: keras.Model) -> None:
    """Write a model's weights, whole; the name must end in `.weights.h5`."""

    def write(aside: Path) -> None:
        _find_room(aside, model)
        model.save_weights(aside)
        _check_claims(aside, model.count_params())  # HDF5 may keep quiet about what it could not write

    write_whole(path, write)


def write_predictions(path: Path, p: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> None:
    """Write the probabilities of each part and its labels, whole."""
    plain = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in p.items()}
    plain |= {f"{name}_labels": np.ascontiguousarray(values) for name, values in labels.items()}

    content = save(plain)  # `save_file` would let nobody else read it
    write_whole(path, lambda aside: aside.write_bytes(content))


def read_json(path: Path) -> Any:
    """Read JSON of a run folder.

    Raises:
        DataError: if it is missing or damaged.
    """
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_fingerprints(folder: Path) -> dict[str, str]:
    """Of the parts that a run was trained and scored on.

    Raises:
        DataError: if `splits.json` is missing or damaged.
    """
    with reading(folder / "splits.json"):
        return {str(part): str(sum_) for part, sum_ in read_json(folder / "splits.json")["fingerprints"].items()}


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented and whole."""
    write_whole(path, lambda aside: aside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def write_config(path: Path, config: RunConfig) -> None:
    """Write a config as TOML; what is `None` is left out, TOML has no word for it."""
    text = tomli_w.dumps(config.model_dump(exclude_none=True, mode="json"))
    write_whole(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def read_config(path: str | Path | RunConfig) -> RunConfig:
    """Read a saved config; one that is read already is handed back.

    Raises:
        UsageError: if there is no such file.
        DataError: if it is damaged, or not a config.
    """
    if isinstance(path, RunConfig):
        return path
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"There is no config {path}: give the config.toml of a run.")
    with reading(path):
        return RunConfig(**tomllib.loads(path.read_text(encoding="utf-8")))


def differences(before: RunConfig, now: RunConfig) -> list[str]:
    """What differs between two configs, each as `recipe.epochs=20, not 40`: before, then now."""
    one, other = flat(before.model_dump()), flat(now.model_dump())
    # What one of them has no word for (the weights that it does not start from) is None there.
    pairs = {key: (one.get(key), other.get(key)) for key in one | other}
    return [f"{key}={then!r}, not {given!r}" for key, (then, given) in pairs.items() if then != given]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots in its keys: `recipe.epochs`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


class HistoryFile:
    """`history.csv`, one row an epoch, on the disk before the next epoch starts.

    Args:
        path: of the file; None keeps the rows in memory only.
        rows: that it begins with.
        begin: whether to write the file now, in place of one that may be there.

    Attributes:
        rows: what it holds, with the file's columns.
    """

    columns = ("epoch", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")

    def __init__(self, path: Path | None, rows: Sequence[dict[str, Any]] = (), begin: bool = True) -> None:
        self.path = path
        self.rows = list(rows)
        if path is not None and begin:
            write_whole(path, self._write_all)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row; columns that it lacks stay empty."""
        self.rows.append({column: row[column] for column in self.columns if column in row})
        if self.path is None:
            return
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self.columns, lineterminator="\n").writerow(self.rows[-1])
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path} cannot be written: {error.strerror or error}.") from None

    def _write_all(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
