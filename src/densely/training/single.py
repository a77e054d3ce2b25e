"""One training, from the data's name to a run folder with a test score. The only place that calls `fit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from densely import architecture, runs
from densely.data import Dataset, Parts
from densely.errors import reason
from densely.evaluation import held_out_scores, probabilities
from densely.runs import Run, RunConfig
from densely.training import tensorboard as event_files
from densely.training.batches import Batches
from densely.training.conductor import Conductor
from densely.training.determinism import same_bits
from densely.training.live import followed
from densely.training.live.follower import Follower
from densely.training.live.page import LivePage
from densely.training.memory import memory_errors
from densely.training.opening import open_run
from densely.training.preparation import Prepared, prepare
from densely.training.progress import ProgressBar
from densely.training.resume import checkpoint, claim, keeper
from densely.training.resume.checkpoint import Checkpoint
from densely.training.resume.claim import Resume, claimed
from densely.training.resume.interruption import Interrupted, StopSignals
from densely.training.resume.keeper import SAVE_EVERY, Keeper


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
    skip_bad: bool | None = None,
    network: dict[str, Any] | None = None,
    recipe: str = "auto",
    tune: bool | None = None,
    deterministic: bool | None = None,
    config: str | Path | RunConfig | None = None,
    resume: Resume = "auto",
    save_every: int | str = SAVE_EVERY,
    report: bool | None = None,
    live: bool = False,
    tensorboard: bool = False,
    console: Console | None = None,
    **settings: Any,
) -> Run:
    """Train a DenseNet and score it once on its test part: what `densely train` does.

    Args:
        source: a built-in data set's name (`digits`, `cifar10`, …), a folder of class folders, a CSV of labels, or
            your own `Dataset` or `Parts`. May be left out with `config`.
        model: a network's name or spec; by default the recipe's.
        out: the run folder; by default the newest `runs/NAME-N` in which this very training was broken off, else the
            next free one.
        seed: of initial weights, order, augmentation, dropout and split (default 0). Sets Keras's, NumPy's and
            Python's global seeds.
        limit: use at most this many images of each part that the source has.
        fold: (i, K): of the training data divided in K, the i-th (from 1) is the test part; see
            `densely.training.repeats`.
        data_dir: where built-in data lie (default: `$DENSELY_DATA`, else `~/.cache/densely/data`).
        size: (height, width) to bring the images of a folder or CSV to.
        channels: 1 or 3, to bring the images of a folder or CSV to grey or RGB.
        skip_bad: leave out images of a folder or CSV that cannot be read; they are told, and listed in `splits.json`
            (default: a saved config's choice, else no: the first of them is an error).
        network: fields of `NetworkSpec` to change, e.g. `{"dropout": 0.2}`.
        recipe: a name in `densely.recipes.RECIPES`.
        tune: hold out a validation part and score that; the test part is not looked at (default: a saved config's
            choice, else no).
        deterministic: allow only operators that give the same bits each time (default: a saved config's choice, else
            no). A CPU gives them anyway; a GPU becomes slower by it.
        config: a run's `config.toml` (or a `RunConfig`) to run again; what else is given here changes it.
        resume: `"auto"`: a training that was broken off goes on, to the very weights that it would have had, and one
            that is finished in `out` is handed back; `"never"`: only a folder that holds nothing will do.
        save_every: steps (`500`) or minutes (`"5m"`, the default) between two checkpoints.
        report: write `report.html` at the end (default: yes, unless the environment variable `DENSELY_REPORT` is 0).
        live: serve a page on this machine that follows the training; its address is printed.
        tensorboard: write an event file for TensorBoard into the run folder, one point an epoch; needs the extra
            `densely[tensorboard]`.
        console: where to print (default: standard output; `rich.console.Console(quiet=True)` for silence).
        **settings: fields of `Recipe` to change, e.g. `epochs=10, learning_rate=0.05`.

    Returns:
        The run, opened: `run.accuracy`, `run.metrics`, `run.model()`, `run.folder`.

    Raises:
        UsageError: for names or values that do not exist or do not fit, or a folder that holds something else.
        DataError: for data that cannot be used, or a disk that is full.
        DenselyError: if the loss is no longer a number, memory runs out, or another process trains in the folder.
        Interrupted: (a `KeyboardInterrupt`) after SIGINT or SIGTERM; what was reached is on the disk.
    """
    console = console or Console()
    keeper.interval(save_every)
    claim.check(resume)
    if tensorboard:
        event_files.check()
    with StopSignals() as signals:
        prepared = prepare(
            source,
            model=model,
            seed=seed,
            limit=limit,
            fold=fold,
            data_dir=data_dir,
            size=size,
            channels=channels,
            skip_bad=skip_bad,
            network=network,
            recipe=recipe,
            tune=tune,
            deterministic=deterministic,
            config=config,
            console=console,
            **settings,
        )
        fingerprints = prepared.parts.fingerprints()
        with claimed(out, prepared.config, fingerprints, resume) as folder:
            if (folder / "metrics.json").is_file():
                run = Run.open(folder)
                if tensorboard:
                    event_files.write(folder, run.history)
                if not (folder / "report.html").is_file():
                    _report(run, prepared, report, console)
                console.print(f"This training is finished already.\n{run}", markup=False, soft_wrap=True)
                return run
            try:
                run, start = open_run(folder, prepared, fingerprints, console)
                with followed(run, live, console) as page, same_bits(prepared.config.deterministic):
                    if not (folder / "final.weights.h5").is_file():
                        _fit(run, prepared, start, save_every, signals, console, page, tensorboard)
                    elif tensorboard:
                        event_files.write(folder, run.history)
                    checkpoint.remove_all(folder)
                    _score(run, prepared)
            except Interrupted as stop:
                raise Interrupted(stop.signal, folder, stop.where) from None
            _report(run, prepared, report, console)
    console.print(str(run), markup=False, highlight=False, soft_wrap=True)
    return run


def _fit(
    run: Run,
    prepared: Prepared,
    start: Checkpoint | None,
    save_every: int | str,
    signals: StopSignals,
    console: Console,
    page: LivePage | None,
    tensorboard: bool,
) -> None:
    """Train from the start, or from a checkpoint, to `final.weights.h5`."""
    parts, chosen = prepared.parts, prepared.config.recipe
    made = (prepared.preprocessing, chosen, prepared.config.seed)
    batches = Batches(parts.train, *made, training=True)
    watched = parts.test if prepared.config.watches_test else parts.val
    conductor = Conductor(run, prepared.network, batches)
    bar = ProgressBar(console)
    events = [event_files.TensorBoard(conductor)] if tensorboard else []
    followers = [Follower(page, conductor)] if page is not None else []
    callbacks = keras.callbacks.CallbackList(
        # In this order: the keeper writes down what the conductor has done, and ends what the others have shown.
        [conductor, bar, *events, *followers, Keeper(conductor, save_every, signals, start)],
        add_history=True,
        model=prepared.model,
        epochs=chosen.epochs,
        steps=batches.steps_per_epoch,
    )
    epoch, step = (start.epoch, start.step) if start is not None else (0, 0)
    # What is left of an epoch is a `fit` of its own: Keras fixes the number of steps at its beginning.
    spans = [(step, epoch, epoch + 1), (0, epoch + 1, chosen.epochs)] if step else [(0, epoch, chosen.epochs)]
    try:
        with signals.deferred(), memory_errors(chosen.batch_size):
            for skipped, first, end in spans:
                if first < end and not conductor.finished:
                    batches.skip(skipped)
                    bar.skip(skipped)
                    prepared.model.fit(
                        batches,
                        initial_epoch=first,
                        epochs=end,
                        validation_data=Batches(watched, *made, training=False) if watched else None,
                        callbacks=callbacks,
                        shuffle=False,
                        verbose=0,
                    )
    finally:
        bar.close()
        for file in events:
            file.close()
    if signals.received is not None:
        raise Interrupted(signals.received, run.folder, "after the last epoch")


def _score(run: Run, prepared: Prepared) -> None:
    """Write what the final weights say of the held-out parts, then its scores.

    From what the folder holds: the weights are read back, and compute in float32 whatever the training computed in.
    """
    parts, config = prepared.parts, prepared.config
    val, test = parts.val, None if config.tune else parts.test
    model, views = run.model("final"), config.recipe.views
    scored = {name: part for name, part in (("val", val), ("test", test)) if part is not None}
    p = {name: probabilities(model, part.images, prepared.preprocessing, views=views) for name, part in scored.items()}
    scores = held_out_scores(p, val=val, test=test)
    labels = {name: part.labels for name, part in scored.items()}
    runs.write_predictions(run.folder / "predictions.safetensors", p, labels)
    # The last of all files: where it is, the training has been scored.
    metrics = {"weights": "final", "test_seen_in_training": config.watches_test, **scores}
    runs.write_json(run.folder / "metrics.json", metrics)


def _report(run: Run, prepared: Prepared, wanted: bool | None, console: Console) -> None:
    """Write the page of a run that is scored; what goes wrong with it must not cost the training's own end."""
    if wanted is None:
        wanted = os.environ.get("DENSELY_REPORT", "1").lower() not in ("0", "false", "f", "no", "n", "off")
    if not wanted:
        return
    from densely import report

    try:
        report.write(run, prepared.parts)
    except Interrupted as stop:
        console.print(str(run), markup=False, highlight=False, soft_wrap=True)
        where = f"while its report was written; the training is finished (densely report {run.folder})"
        raise Interrupted(stop.signal, None, where) from None
    except Exception as error:
        told = f"no report: {reason(error)} (densely report {run.folder} tries again)"
        console.print(told, style="yellow", markup=False, highlight=False, soft_wrap=True)
