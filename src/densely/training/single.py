"""One training, from the data's name to a run folder with a test score. The only place that calls `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from densely import architecture, runs
from densely.data import Dataset, Parts
from densely.evaluation import evaluate_held_out
from densely.runs import Run, RunConfig
from densely.training.batches import Batches
from densely.training.conductor import Conductor
from densely.training.preparation import Prepared, prepare
from densely.training.progress import ProgressBar


def train(
    source: str | Path | Dataset | Parts | None = None,
    *,
    model: str | architecture.NetworkSpec | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    limit: int | None = None,
    fold: tuple[int, int] | None = None,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    network: dict[str, Any] | None = None,
    recipe: str = "auto",
    tune: bool | None = None,
    config: str | Path | RunConfig | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Run:
    """Train a DenseNet and score it once on its test part: what `densely train` does.

    Args:
        source: a built-in data set's name (`digits`, `cifar10`, …), a folder of class folders, a CSV of labels, or
            your own `Dataset` or `Parts`. May be left out with `config`.
        model: a network's name or spec; by default the recipe's.
        out: the run folder; by default the next free `runs/NAME-1`, `runs/NAME-2`, …
        seed: of initial weights, order, augmentation, dropout and split (default 0). Sets Keras's, NumPy's and
            Python's global seeds.
        limit: use at most this many images of each part that the source has.
        fold: (i, K): of the training data divided in K, the i-th (from 1) is the test part; see
            `densely.training.repeats`.
        data_dir: where built-in data lie (default: `$DENSELY_DATA`, else `~/.cache/densely/data`).
        size: (height, width) to bring the images of a folder or CSV to.
        channels: 1 or 3, to bring the images of a folder or CSV to grey or RGB.
        network: fields of `NetworkSpec` to change, e.g. `{"dropout": 0.2}`.
        recipe: a name in `densely.recipes.RECIPES`.
        tune: hold out a validation part and score that; the test part is not looked at (default: a saved config's
            choice, else no).
        config: a run's `config.toml` (or a `RunConfig`) to run again; what else is given here changes it.
        console: where to print (default: standard output; `rich.console.Console(quiet=True)` for silence).
        **settings: fields of `Recipe` to change, e.g. `epochs=10, learning_rate=0.05`.

    Returns:
        The run, opened: `run.accuracy`, `run.metrics`, `run.model()`, `run.folder`.

    Raises:
        UsageError: for names or values that do not exist or do not fit.
        DataError: for data that cannot be used.
    """
    console = console or Console()
    prepared = prepare(
        source,
        model=model,
        seed=seed,
        limit=limit,
        fold=fold,
        data_dir=data_dir,
        size=size,
        channels=channels,
        network=network,
        recipe=recipe,
        tune=tune,
        config=config,
        console=console,
        **settings,
    )
    parts, chosen = prepared.parts, prepared.config.recipe
    run = _start_run(runs.create_folder(out, prepared.config.data), prepared)
    _announce(console, run, prepared)
    made = (prepared.preprocessing, chosen, prepared.config.seed)
    batches = Batches(parts.train, *made, training=True)
    watched = parts.test if prepared.config.watches_test else parts.val
    bar = ProgressBar(console)
    conductor = Conductor(run, prepared.network, batches)
    try:
        prepared.model.fit(
            batches,
            epochs=chosen.epochs,
            validation_data=Batches(watched, *made, training=False) if watched else None,
            callbacks=[conductor, bar],
            shuffle=False,
            verbose=0,
        )
    except KeyboardInterrupt:
        bar.close()
        console.print(f"Interrupted; {run.folder} keeps what the finished epochs left.", markup=False, soft_wrap=True)
        raise
    finally:
        bar.close()
    conductor.finish()

    # What is scored is what the folder holds: read back, in float32 whatever the training computed in.
    metrics: dict[str, Any] = {"weights": "final", "test_seen_in_training": prepared.config.watches_test}
    metrics |= evaluate_held_out(
        run.model("final"),
        prepared.preprocessing,
        val=parts.val,
        test=None if prepared.config.tune else parts.test,
        views=chosen.views,
    )
    runs.write_json(run.folder / "metrics.json", metrics)
    console.print(str(run), markup=False, highlight=False, soft_wrap=True)
    return run


def _start_run(folder: Path, prepared: Prepared) -> Run:
    """Write all that is known before the first step."""
    parts, config = prepared.parts, prepared.config
    inputs = runs.Inputs(
        class_names=parts.train.class_names,
        multi_label=parts.train.multi_label,
        input_shape=parts.train.input_shape,
        preprocessing=prepared.preprocessing.as_dict(),
    )
    named: list[tuple[Literal["train", "val", "test"], Dataset | None]] = [
        ("train", parts.train),
        ("val", parts.val),
        ("test", parts.test),
    ]
    splits = {
        "fingerprints": {part: dataset.fingerprint() for part, dataset in named if dataset is not None},
        **prepared.record.as_dict(),
    }
    runs.write_config(folder / "config.toml", config)
    runs.write_json(folder / "environment.json", runs.environment(config.seed))
    runs.write_json(folder / "inputs.json", inputs.model_dump())
    runs.write_json(folder / "splits.json", splits)
    return Run(folder, config, inputs)


def _announce(console: Console, run: Run, prepared: Prepared) -> None:
    parts, recipe = prepared.parts, run.config.recipe
    counts = [f"{len(parts.train):,} to train"]
    if parts.val is not None:
        counts.append(f"{len(parts.val):,} to validate")
    if parts.test is not None:
        counts.append(f"{len(parts.test):,} to test")
    height, width, channels = parts.train.input_shape
    parameters = sum(int(np.prod(w.shape)) for w in prepared.network.trainable_weights)
    console.print(
        f"{run.config.data}: {', '.join(counts)}; {parts.train.classes} classes, {height}×{width}×{channels}\n"
        f"{run.config.model}: {parameters:,} parameters; {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"seed {run.config.seed}\nrecipe {recipe.name}: {prepared.why}\nrun folder: {run.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
