"""What the settings of a training do to a whole one: averages, early stop, accumulation, mixed images."""

from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console
from small import SMALL

from densely import architecture
from densely.evaluation import evaluate
from densely.runs import Run
from densely.training.parts import parts_of
from densely.training.single import train

TINY = {"model": SMALL, "epochs": 2, "limit": 300, "console": Console(quiet=True)}


def trainable(model: keras.Model) -> np.ndarray:
    return np.concatenate([weight.numpy().ravel() for weight in model.trainable_weights])


def column(run: Run, name: str) -> list[float]:
    return [row[name] for row in run.history]


def test_averaging_changes_what_is_scored_not_what_is_trained(tmp_path: Path) -> None:
    plain = train("digits", out=tmp_path / "plain", **TINY)
    averaged = train("digits", ema=0.5, out=tmp_path / "averaged", **TINY)
    assert column(averaged, "loss") == column(plain, "loss")
    assert column(averaged, "val_loss") != column(plain, "val_loss")
    assert not np.array_equal(trainable(averaged.model()), trainable(plain.model()))
    again = evaluate(averaged.model(), parts_of(averaged).test, averaged.preprocessing)
    assert again["loss"] == pytest.approx(averaged.metrics["test"]["loss"], rel=1e-6)


def test_early_stop_goes_back_to_the_best_epoch(tmp_path: Path) -> None:
    # So high a rate jumps about: soon an epoch is worse than the one before it.
    options = {**TINY, "epochs": 30, "learning_rate": 1.0, "schedule": "constant"}
    run = train("digits", early_stop=2, out=tmp_path / "run", **options)
    ranks = [(row["val_accuracy"], -row["val_loss"]) for row in run.history]
    assert len(ranks) < 30
    assert ranks.index(max(ranks)) == len(ranks) - 3
    for final, best in zip(run.model("final").weights, run.model("best").weights, strict=True):
        np.testing.assert_array_equal(final.numpy(), best.numpy())


def test_accumulated_batches_move_the_weights_together(tmp_path: Path) -> None:
    options = {**TINY, "epochs": 1, "batch_size": 50, "val_fraction": 0.0, "seed": 3}
    run = train("digits", accumulate=50, out=tmp_path / "never", **options)
    keras.utils.set_random_seed(3)
    start = architecture.build(run.config.network)
    # Fewer batches than a step takes: nothing has moved yet.
    np.testing.assert_array_equal(trainable(run.model()), trainable(start))
    moved = train("digits", accumulate=2, out=tmp_path / "moved", **options)
    assert not np.array_equal(trainable(moved.model()), trainable(start))


def test_the_average_follows_the_steps_where_one_takes_more_than_an_epoch(tmp_path: Path) -> None:
    options = {**TINY, "batch_size": 50, "val_fraction": 0.0, "accumulate": 7}
    run = train("digits", ema=0.5, out=tmp_path / "run", **options)
    batches = -(-parts_of(run).train.images.shape[0] // 50)
    assert batches < 7 < 2 * batches
    keras.utils.set_random_seed(0)
    start = architecture.build(run.config.network)
    plain = train("digits", out=tmp_path / "plain", **options)
    # One step was taken; the average is then a tenth of the start and nine tenths of what the step led to.
    expected = 0.1 * trainable(start) + 0.9 * trainable(plain.model())
    np.testing.assert_allclose(trainable(run.model()), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixed_images_are_for_training_only(settings: dict[str, float], tmp_path: Path) -> None:
    run = train("digits", out=tmp_path / "run", **settings, **TINY)
    again = evaluate(run.model(), parts_of(run).val, run.preprocessing)
    assert column(run, "val_accuracy")[-1] == pytest.approx(again["accuracy"], abs=1e-6)
    assert column(run, "val_loss")[-1] == pytest.approx(again["loss"], rel=1e-4)


def test_smoothed_labels_and_class_weights_change_the_loss_not_the_score(tmp_path: Path) -> None:
    options = {**TINY, "model": "densenet-bc-16-8"}  # what less has learnt in this time does not tell
    run = train("digits", label_smoothing=0.1, class_weights=True, clip_norm=1.0, out=tmp_path / "run", **options)
    again = evaluate(run.model(), parts_of(run).val, run.preprocessing)
    assert column(run, "val_accuracy")[-1] == pytest.approx(again["accuracy"], abs=1e-6)
    assert column(run, "val_loss")[-1] > again["loss"]
