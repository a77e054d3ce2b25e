"""Trainings that start from trained weights: what is theirs, what the config keeps, what is refused."""

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densely import data, model_file, runs
from densely.architecture import NetworkSpec
from densely.data import Dataset, Parts
from densely.errors import DataError, UsageError
from densely.model_file import Header
from densely.runs import Run
from densely.training.preparation import prepare
from densely.training.repeats import repeat
from densely.training.single import train

QUIET = Console(quiet=True)
NETWORK = NetworkSpec(layers=(1, 1, 1), growth_rate=8, stem_filters=16, compression=0.5, stem="whitened")


def digits(some: range, each: int | None = None) -> Parts:
    """Some of the ten digits, so many training images of each."""

    def chosen(part: Dataset, most: int | None) -> Dataset:
        where = [np.flatnonzero(part.labels == digit)[:most] for digit in some]
        labels = np.concatenate([np.full(len(found), i) for i, found in enumerate(where)])
        names = tuple(str(digit) for digit in some)
        return Dataset(part.images[np.concatenate(where)], labels, names, f"digits {some.start} to {some.stop - 1}")

    parts = data.load("digits")
    return Parts(chosen(parts.train, each), None, chosen(parts.test, None))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on 0 to 4, standardised by their mean and deviation."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    return train(digits(range(5)), out=folder, model=NETWORK, **{**FEW, "epochs": 8, "batch_size": 32})


#: Muon; a mirrored digit is no digit.
FEW = {"recipe": "few-shot", "epochs": 8, "batch_size": 10, "shift": 0, "flip": False, "flip_test": False,
       "policy": "none", "precision": "float32", "console": QUIET}  # fmt: skip


def arrays(run: Run) -> dict[str, bytes]:
    return {variable.path: variable.numpy().tobytes() for variable in run.model().weights}


def test_a_network_that_knows_other_digits_learns_new_ones_from_a_few(first: Run, tmp_path: Path) -> None:
    assert first.accuracy > 0.9  # or there is nothing to start from
    few = digits(range(5, 10), each=10)
    options = {**FEW, "ema": 0.9, "freeze": "dense_block_1", "stage_rates": 0.5}
    run = train(few, weights=first.folder, out=tmp_path / "run", **options)
    assert run.accuracy > 0.4  # chance: 0.2, with a standard error of 0.03
    assert run.network.classes == 5 and run.inputs.class_names == tuple("56789")
    assert run.inputs.preprocessing == first.inputs.preprocessing

    before, after = arrays(first), arrays(run)
    moved = {path.split("/")[0] for path in before if before[path] != after[path]}
    kept = {path.split("/")[0] for path in before} - moved
    # To the bit, moving statistics and averaged weights too; the whitened stem was not fitted again.
    assert kept == {"whitening", "stem_conv", "dense_block_1"}


def test_the_first_step_starts_from_the_weights(first: Run) -> None:
    prepared = prepare(digits(range(5, 10), each=10), weights=str(first.folder), **FEW)
    of_it = {variable.path: variable.numpy().tobytes() for variable in prepared.network.weights}
    differ = {path for path, value in arrays(first).items() if of_it[path] != value}
    assert differ == {"logits/kernel", "logits/bias"}
    assert prepared.preprocessing == first.preprocessing
    assert prepared.config.model == first.config.model
    # The same classes, which the classifier knows already.
    again = prepare(digits(range(5), each=10), weights=first.folder, **FEW)
    assert {variable.path: variable.numpy().tobytes() for variable in again.network.weights} == arrays(first)
    assert again.config.start is not None and not again.config.start.new_head


def test_the_config_keeps_where_it_started_and_makes_the_same_run_again(first: Run, tmp_path: Path) -> None:
    few = digits(range(5, 10), each=5)
    options = {**FEW, "epochs": 1, "freeze": "stem_conv", "stage_rates": 0.4}
    run = train(few, weights=first.folder, out=tmp_path / "run", **options)
    written = tomllib.loads((run.folder / "config.toml").read_text())["start"]
    assert written == {
        "weights": str(first.folder.resolve()),
        "sha256": written["sha256"],
        "new_head": True,
        "freeze": "stem_conv",
        "stage_rates": 0.4,
    }
    again = train(few, config=run.folder / "config.toml", out=tmp_path / "again", console=QUIET)
    assert again.config == run.config
    assert arrays(again) == arrays(run)
    # What is given beside a config goes first.
    other = prepare(few, config=run.config, freeze="dense_block_1", stage_rates=1, console=QUIET).config.start
    assert other == run.config.start.model_copy(update={"freeze": "dense_block_1", "stage_rates": 1.0})


def test_a_training_without_weights_is_written_down_as_ever(tmp_path: Path) -> None:
    options = {"model": NETWORK, "epochs": 1, "limit": 60, "console": QUIET, "out": tmp_path / "run"}
    run = train("digits", **options)
    assert run.config.start is None
    assert "start" not in (run.folder / "config.toml").read_text()
    # A folder of an earlier version, broken off before it was scored, goes on.
    (run.folder / "metrics.json").unlink()
    assert train("digits", **options).config == run.config


def test_weights_that_have_changed_are_refused(first: Run, tmp_path: Path) -> None:
    few, source = digits(range(5, 10), each=5), tmp_path / "source"
    shutil.copytree(first.folder, source)
    config = prepare(few, weights=source, **FEW).config
    model = first.model()
    model.get_layer("final_norm").gamma.assign_add(model.get_layer("final_norm").gamma)
    runs.write_weights(source / "final.weights.h5", model)
    with pytest.raises(DataError, match=r"final\.weights\.h5 has changed since the config was written"):
        prepare(few, config=config, console=QUIET)
    (source / "final.weights.h5").unlink()
    with pytest.raises(DataError, match=r"final\.weights\.h5 is missing"):
        prepare(few, config=config, console=QUIET)
    shutil.rmtree(source)
    with pytest.raises(UsageError, match="There is no run folder"):
        prepare(few, config=config, console=QUIET)


def test_images_of_a_folder_are_brought_to_the_weights_size_and_channels(first: Run, tmp_path: Path) -> None:
    for name in ("dark", "light"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            colour = (i, i, 2 * i) if name == "dark" else (250 - i, 200, 250)
            Image.new("RGB", (40, 30), colour).save(tmp_path / "photos" / name / f"{i}.png")
    config = prepare(tmp_path / "photos", weights=first.folder, **FEW).config
    assert (config.size, config.channels, config.network.input_shape) == ((8, 8), 1, (8, 8, 1))
    larger = prepare(tmp_path / "photos", weights=first.folder, size=(16, 12), **FEW).config
    assert larger.network.input_shape == (16, 12, 1)
    with pytest.raises(UsageError, match="channels=1, not 3"):
        prepare(tmp_path / "photos", weights=first.folder, channels=3, **FEW)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"freeze": "dense_block_1"}, "--freeze is for trained weights"),
        ({"stage_rates": 0.5}, "--stage-rates is for trained weights"),
        ({"weights": "FIRST", "stage_rates": 0.0}, "--stage-rates must be above 0 and at most 1, not 0"),
        ({"weights": "FIRST", "stage_rates": 0.5, "optimizer": "adamw"}, "AdamW has one rate for all stages"),
        ({"weights": "FIRST", "freeze": "dense_block_7"}, "did you mean dense_block_"),
        (
            {"weights": "FIRST", "preprocessing": "unit"},
            "their own preprocessing, standardise: leave --preprocessing out",
        ),
        ({"weights": "FIRST", "model": "densenet-bc-16-8"}, "are of another network"),
        ({"weights": "FIRST", "network": {"growth_rate": 9}}, r"growth_rates=\(8, 8, 8\), not \(9, 9, 9\)"),
        ({"weights": "cifar10"}, "channels=3, not 1"),
        ({"weights": "cifar11"}, "There is no run folder cifar11"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    options: dict, said: str, first: Run, tmp_path: Path
) -> None:
    given = {key: first.folder if value == "FIRST" else value for key, value in options.items()}
    with pytest.raises(UsageError, match=said):
        train(digits(range(5, 10), each=5), out=tmp_path / "run", **{**FEW, **given})
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained on the built-in digits."""
    return train("digits", out=tmp_path_factory.mktemp("runs") / "whole", model=NETWORK, limit=300, epochs=1, **QUIETLY)


QUIETLY = {"console": QUIET, "recipe": "paper", "val_fraction": 0.1}


@pytest.mark.parametrize("options", [{"fold": (1, 3)}, {"tune": True, "seed": 7}])
def test_a_score_on_images_that_the_weights_have_seen_is_refused(options: dict, whole: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"have been trained on images of the .* part, whose score would say nothing"):
        train("digits", weights=whole.folder, epochs=1, out=tmp_path / "run", **QUIETLY, **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [{}, {"seed": 7}, {"limit": 300}, {"limit": 300, "tune": True}])
def test_a_score_on_images_that_they_have_not_seen_is_not(options: dict, whole: Run) -> None:
    found = prepare("digits", weights=whole.folder, epochs=1, **QUIETLY, **options)
    assert not found.config.start.new_head


def test_weights_that_come_along_are_not_cross_validated_on_their_own_images(cifar_dir: Path) -> None:
    more = {"weights": "cifar10", "limit": 100, "data_dir": cifar_dir, "epochs": 1, "console": QUIET}
    with pytest.raises(UsageError, match="The weights of cifar10 have been trained on images of the test part"):
        prepare("cifar10-50", fold=(1, 3), **more)
    assert prepare("cifar10", **more).config.start.weights == "cifar10"


def test_seeds_start_from_the_same_weights(first: Run, tmp_path: Path) -> None:
    file = tmp_path / "first.safetensors"
    model_file.write(file, first.model(), Header(name="mine", network=first.network, inputs=first.inputs))
    options = {**FEW, "epochs": 1, "freeze": "dense_block_3"}
    found = repeat(digits(range(5, 10), each=5), seeds=2, weights=file, out=tmp_path / "all", **options).runs
    one, other = (arrays(run) for run in found)
    assert {path for path in one if one[path] != other[path]} >= {"logits/kernel"}
    same = {path: value for path, value in one.items() if path.split("/")[0] not in ("final_norm", "logits")}
    assert same.items() <= other.items() and same.items() <= arrays(first).items()
    assert {run.config.model for run in found} == {"mine"}
