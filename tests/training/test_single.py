"""Whole trainings, small ones: what a run folder holds, what is held out, what repeats exactly."""

import csv
import inspect
import json
import os
import signal
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from small import SMALL

import densely
from densely import data
from densely.errors import DataError, DenselyError, UsageError
from densely.interruption import Interrupted
from densely.recipes import Recipe
from densely.runs import Run
from densely.training import single
from densely.training.batches import Batches
from densely.training.parts import parts_of
from densely.training.single import train

QUIET = Console(quiet=True)
TINY = {"model": SMALL, "epochs": 2, "console": QUIET}


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train("digits", out=tmp_path_factory.mktemp("runs") / "digits", limit=400, **TINY)


def test_the_run_folder_holds_what_it_promises(digits_run: Run) -> None:
    folder = digits_run.folder
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.toml",
        "environment.json",
        "inputs.json",
        "splits.json",
        "history.csv",
        "best.weights.h5",
        "final.weights.h5",
        "predictions.safetensors",
        "metrics.json",
    }
    config = tomllib.loads((folder / "config.toml").read_text())
    assert config["data"] == "digits"
    assert config["recipe"]["epochs"] == 2
    assert config["network"]["growth_rate"] == 8

    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["keras"] == keras.__version__
    assert environment["machine"]["cores"] >= 1

    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["weights"] == "final"
    assert 0 <= metrics["test"]["accuracy"] <= 1
    assert metrics["test"]["calibration"]["fitted_on"] == "val"
    assert "calibration" not in metrics["val"]

    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["val_loss"]) > 0 for row in rows)


def test_a_report_is_made_up_for_and_one_that_cannot_be_written_costs_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**TINY, "epochs": 1, "limit": 100, "out": tmp_path / "run"}
    train("digits", **options)
    (tmp_path / "run" / "figures").write_text("in the way")
    run = train("digits", **{**options, "console": Console(width=200)}, report=True)
    told = capsys.readouterr().out
    assert "no report: " in told and f"densely report {run.folder} tries again" in told
    assert "finished already" in told and "Test accuracy" in told

    (tmp_path / "run" / "figures").unlink()
    train("digits", **options)
    assert not (tmp_path / "run" / "report.html").exists()
    assert "Report" in repr(train("digits", **options, report=True))


def test_a_signal_while_the_report_is_written_says_that_the_training_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("densely.report.write", lambda *given: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="the training is finished") as caught:
        train("digits", out=tmp_path / "run", limit=100, report=True, **{**TINY, "epochs": 1, "console": Console()})
    assert caught.value.folder is None
    assert "Test accuracy" in capsys.readouterr().out
    assert Run.open(tmp_path / "run").accuracy >= 0


def test_the_scores_are_those_of_the_final_weights_on_unseen_images(digits_run: Run) -> None:
    parts = parts_of(digits_run)
    images = digits_run.preprocessing(parts.test.images)
    guesses = digits_run.model("final").predict_on_batch(images).argmax(axis=1)
    assert digits_run.accuracy == np.mean(guesses == parts.test.labels)

    splits = json.loads((digits_run.folder / "splits.json").read_text())
    assert sorted(splits["train"] + splits["val"]) == list(range(400))
    assert splits["test"] is None  # the source has a test part of its own


def test_the_best_weights_are_those_of_the_best_epoch(digits_run: Run) -> None:
    parts = parts_of(digits_run)
    p = digits_run.model("best").predict_on_batch(digits_run.preprocessing(parts.val.images))
    best = max(row["val_accuracy"] for row in digits_run.history)
    assert np.mean(p.argmax(axis=1) == parts.val.labels) == pytest.approx(best, abs=1e-6)


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> np.ndarray:
        run = train("digits", seed=seed, limit=150, out=tmp_path / name, network={"dropout": 0.2}, **TINY)
        return np.concatenate([w.numpy().ravel() for w in run.model().weights])

    first = weights(3, "a")
    np.testing.assert_array_equal(first, weights(3, "b"))
    assert not np.array_equal(first, weights(4, "c"))


def test_other_seeds_are_scored_on_the_same_test_images(tmp_path: Path) -> None:
    source = data.load("digits").train.take(range(200))  # a Dataset alone: the test part is taken from it
    runs = [train(source, seed=seed, out=tmp_path / str(seed), **TINY) for seed in (0, 1)]
    first, second = (json.loads((run.folder / "splits.json").read_text()) for run in runs)
    assert len(first["test"]) == 40
    assert first["test"] == second["test"]
    assert first["val"] != second["val"]


@pytest.mark.parametrize("decay_on", ["all", "kernels"])
def test_weight_decay_acts_where_it_says(decay_on: str, tmp_path: Path) -> None:
    """With a learning signal of zero (no images could differ), only the decay moves the weights."""
    images = np.zeros((8, 8, 8, 1), np.uint8)
    dataset = data.Dataset(images, np.zeros(8, int), ("only", "other"), "nothing")
    rate, decay = 0.1, 0.3
    options = {"epochs": 1, "batch_size": 8, "learning_rate": rate, "schedule": "constant", "momentum": 0.0}
    keras.utils.set_random_seed(0)
    start = densely.build("densenet-bc-16-8", input_shape=(8, 8, 1), classes=2)
    run = train(
        data.Parts(dataset, None, dataset),
        model="densenet-bc-16-8",
        recipe="paper",
        network={"dropout": 0.0},
        weight_decay=decay,
        decay_on=decay_on,
        out=tmp_path / "run",
        console=QUIET,
        nesterov=False,
        **options,
    )
    end = run.model()
    # The stem sees only zeros: its gradient is exactly nothing but the decay.
    before, after = (m.get_layer("stem_conv").kernel.numpy() for m in (start, end))
    factor = 1 - rate * decay * (2 if decay_on == "kernels" else 1)
    np.testing.assert_allclose(after, before * factor, rtol=1e-5)
    # γ of the first normalisation is multiplied with zeros as well, and only decays where everything does.
    gamma = end.get_layer("dense_block_1").bottlenecks[0].norm.gamma.numpy()
    np.testing.assert_allclose(gamma, 1 - rate * decay if decay_on == "all" else 1.0, rtol=1e-5)


def test_batches_are_a_function_of_seed_epoch_and_step() -> None:
    digits = data.load("digits").train
    unit = data.Preprocessing.fit(digits.images, "unit")
    recipe = Recipe(batch_size=32, shift=1, flip=True)
    one, two = (Batches(digits, unit, recipe, seed=5, training=True) for _ in range(2))
    one.set_epoch(3)
    images = one[7][0]
    for step in (2, 7):  # whatever was asked for before
        two.set_epoch(3)
        found = two[step][0]
    np.testing.assert_array_equal(images, found)
    two.set_epoch(4)
    assert not np.array_equal(images, two[7][0])


def test_the_paper_s_batches_are_preprocessed_then_shifted_and_flipped() -> None:
    digits = data.load("digits").train
    prepare = data.Preprocessing.fit(digits.images, "standardise")
    batches = Batches(digits, prepare, Recipe(batch_size=32, shift=2, flip=True), seed=5, training=True)
    batches.set_epoch(3)
    chosen = data.epoch_order(len(digits), 5, 3)[7 * 32 : 8 * 32]
    expected = data.shift_and_flip(prepare(digits.images[chosen]), data.batch_rng(5, 3, 7), shift=2, flip=True)
    np.testing.assert_array_equal(batches[7][0], expected)
    np.testing.assert_array_equal(batches[7][1], digits.labels[chosen])


def test_flipped_in_turn_two_epochs_show_every_image_both_ways() -> None:
    digits = data.load("digits").train.take(range(70))
    unit = data.Preprocessing.fit(digits.images, "unit")
    batches = Batches(digits, unit, Recipe(batch_size=32, flip=True, flip_in_turn=True), seed=5, training=True)
    shown = []
    for epoch in (4, 5):
        batches.set_epoch(epoch)
        images = np.concatenate([batches[step][0] for step in range(3)])
        shown.append(images[np.argsort(batches.order)])
    plain = unit(digits.images)
    mirrored = (shown[0] != plain).any(axis=(1, 2, 3))
    assert 20 < mirrored.sum() < 50
    turned = mirrored[:, None, None, None]
    np.testing.assert_array_equal(shown[0], np.where(turned, plain[:, :, ::-1], plain))
    np.testing.assert_array_equal(shown[1], np.where(turned, plain, plain[:, :, ::-1]))


@pytest.mark.parametrize("several", [False, True])
def test_batches_of_mixed_images_have_distributions_for_targets(several: bool) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    labels = rng.integers(0, 2, (40, 3), dtype=np.uint8) if several else rng.integers(0, 3, 40)
    dataset = data.Dataset(images, labels, ("a", "b", "c"), "noise")
    unit = data.Preprocessing.fit(images, "unit")
    recipe = Recipe(batch_size=16, policy="trivial", mixup=0.4, cutmix=1.0)
    whole = labels.astype(np.float32) if several else np.eye(3, dtype=np.float32)[labels]

    batches, again = (Batches(dataset, unit, recipe, seed=2, training=True) for _ in range(2))
    targets = np.concatenate([batches[i][1] for i in range(3)])
    assert targets.dtype == np.float32
    assert ((targets > 0) & (targets < 1)).any()
    np.testing.assert_allclose(targets.sum(axis=0), whole.sum(axis=0), rtol=1e-5)  # partners are a permutation
    for one, other in zip(batches[2], again[2], strict=True):
        np.testing.assert_array_equal(one, other)

    held_out = Batches(dataset, unit, recipe, seed=2, training=False)
    np.testing.assert_array_equal(held_out[1][1], whole[16:32])
    np.testing.assert_array_equal(held_out[1][0], unit(images[16:32]))


def test_an_epoch_visits_every_image_once() -> None:
    digits = data.load("digits").train
    marked = data.Dataset(digits.images, np.arange(len(digits)), tuple(map(str, range(len(digits)))), "marked")
    batches = Batches(marked, data.Preprocessing.fit(digits.images, "unit"), Recipe(batch_size=64), 0, training=True)
    seen = np.concatenate([batches[i][1] for i in range(len(batches))])
    assert sorted(seen) == list(range(len(digits)))
    assert list(seen) != list(range(len(digits)))
    held_out = Batches(marked, batches.preprocessing, Recipe(batch_size=64), 0, training=False)
    assert list(np.concatenate([held_out[i][1] for i in range(len(held_out))])) == list(range(len(digits)))


def test_a_folder_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            noise = rng.integers(0, 40, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(noise + np.uint8(level)).save(tmp_path / "photos" / name / f"{i}.png")
    # Brightness is all that tells these classes apart, so it must not be augmented away.
    options = {"model": "densenet-bc-16-8", "batch_size": 8, "policy": "none"}
    run = train(tmp_path / "photos", size=(16, 16), out=tmp_path / "run", epochs=15, console=QUIET, **options)
    assert run.inputs.class_names == ("dark", "light")
    assert run.inputs.input_shape == (16, 16, 3)
    assert run.accuracy == 1.0
    assert parts_of(Run.open(tmp_path / "run")).train.input_shape == (16, 16, 3)

    # The folder has changed since: its scores would be others.
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "dark" / "new.png")
    with pytest.raises(DenselyError, match="changed since"):
        parts_of(run)


def test_several_labels_an_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 3)).astype(np.uint8)
    images = np.zeros((60, 8, 8, 3), np.uint8) + labels[:, None, None, :] * np.uint8(200)
    dataset = data.Dataset(images, labels, ("red", "green", "blue"), "lamps")
    options = {"model": "densenet-bc-16-8", "policy": "none"}  # colour is all there is to learn
    run = train(dataset, epochs=8, batch_size=10, out=tmp_path / "run", console=QUIET, **options)
    assert run.config.network.activation == "sigmoid"
    assert run.accuracy > 0.9
    assert f"Test mAP       {100 * run.metrics['test']['mean_average_precision']:.2f} %" in repr(run)
    with pytest.raises(UsageError, match="given in Python"):
        parts_of(run)


def test_without_validation_only_final_weights_are_kept(tmp_path: Path) -> None:
    run = train("digits", val_fraction=0.0, limit=100, out=tmp_path / "run", **TINY)
    assert "val" not in run.metrics
    assert "calibration" not in run.metrics["test"]
    assert not (run.folder / "best.weights.h5").exists()
    with pytest.raises(UsageError, match="no best weights; there are final weights"):
        run.model("best")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"source": "digitz"}, UsageError, "did you mean digits"),
        ({"source": "digits", "model": "densenet"}, UsageError, "no network named 'densenet'"),
        ({"source": "digits", "model": "densenet-121"}, UsageError, "too small"),
        ({"source": "digits", "network": {"depth": 23}}, UsageError, "depth 23 does not fit"),
        ({"source": "digits", "epochs": 0}, UsageError, "epochs=0"),
        ({"source": "digits", "limit": 0}, UsageError, "limit"),
        ({"source": "digits", "limit": 12}, DataError, "has 1 image"),
        ({"source": "digits", "seed": -1}, UsageError, "seed"),
        ({"source": "digits", "size": (16, 16)}, UsageError, "size"),
        ({"source": "digits", "schedule": "linear"}, UsageError, "schedule"),
        ({"source": "digits", "shift": 8, "fill": "reflect"}, UsageError, "nothing of them is left"),
    ],
)
def test_wrong_use_leaves_nothing_behind(options: dict, error: type, words: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        train(**options, console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_all_that_can_be_prepared_can_be_asked_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two list the same arguments, with the same defaults, and one hands them to the other."""
    own = {"source", "console", "kind", "settings"}
    wanted = {name: one for name, one in inspect.signature(single.prepare).parameters.items() if name not in own}
    asked = inspect.signature(train).parameters
    assert {name: (one.annotation, one.default) for name, one in wanted.items()} == {
        name: (asked[name].annotation, asked[name].default) for name in wanted
    }

    def prepare(source: object, **options: object) -> None:
        assert source == "digits"
        assert {name: options.pop(name) for name in wanted} == given
        assert (options.pop("console"), options.pop("kind"), options) == (QUIET, keras.Model, {"epochs": 3})
        raise NotImplementedError("handed over, and enough")

    given = {name: object() for name in wanted}
    monkeypatch.setattr(single, "prepare", prepare)
    with pytest.raises(NotImplementedError, match="handed over"):
        train("digits", console=QUIET, epochs=3, **given)


def test_training_on_another_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="Training runs on PyTorch, and Keras on jax"):
        train("digits", **TINY)


def test_tuning_never_looks_at_the_test_part_whatever_the_recipe(tmp_path: Path, monkeypatch) -> None:
    """The notebook's recipe watches the test part, but not while settings are chosen."""
    monkeypatch.chdir(tmp_path)
    run = train("digits", recipe="notebook", tune=True, limit=200, **TINY)
    assert set(run.metrics) & {"val", "test"} == {"val"}
    assert not run.metrics["test_seen_in_training"]
    assert run.history[-1]["val_accuracy"] == pytest.approx(run.metrics["val"]["accuracy"], abs=1e-6)
    # The final training, from the same config: all images to train on, the test part watched as the recipe says.
    final = train(config=run.config, tune=False, console=QUIET)
    assert set(final.metrics) & {"val", "test"} == {"test"}
    assert final.metrics["test_seen_in_training"]
    assert len(parts_of(final).train) > len(parts_of(run).train)


def test_a_saved_config_serves_other_data_and_networks(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(f"photos/{name}/{i}.png")
    run = train("photos", network={"dropout": 0.3}, shift=0, policy="none", **TINY)
    assert run.config.size == (32, 32)
    other = train("digits", config=run.config, model="densenet-bc-22-12", limit=100, epochs=1, console=QUIET)
    assert other.config.size is None
    assert (other.config.model, other.config.network.dropout) == ("densenet-bc-22-12", 0.3)


def test_a_training_that_diverges_says_what_to_lower(tmp_path: Path) -> None:
    with pytest.raises(DenselyError, match=r"no longer (a number|numbers) in epoch \d+, step \d+ .* lower --lr"):
        train("digits", model="densenet-bc-16-8", learning_rate=1e20, epochs=3, limit=200, out=tmp_path / "run",
              console=QUIET)  # fmt: skip
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_data_loaded_in_python_get_the_recipe_of_their_name(tmp_path: Path) -> None:
    run = train(data.load("digits"), out=tmp_path / "run", **TINY)
    assert run.config.data == "digits"
    assert not run.config.recipe.flip


def test_an_occupied_folder_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="already holds something"):
        train("digits", out=tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_reach_98_percent_by_default(seed: int, tmp_path: Path) -> None:
    run = train("digits", seed=seed, out=tmp_path / "run")
    assert run.metrics["test"]["n"] >= 350
    assert run.accuracy >= 0.98
