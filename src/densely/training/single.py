"""One training, from the data's name to a run folder with a test score. The only place that calls `fit`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from densely import architecture, runs
from densely.console import tell
from densely.data import Dataset, Parts
from densely.errors import UsageError, reason
from densely.evaluation import held_out_scores, probabilities
from densely.interruption import Interrupted, StopSignals
from densely.runs import Run, RunConfig
from densely.training import graphs
from densely.training import tensorboard as event_files
from densely.training.batches import Batches
from densely.training.conductor import Conductor
from densely.training.determinism import same_bits
from densely.training.distributed.replica import Replica, Shares
from densely.training.distributed.world import PATIENCE, World, joined
from densely.training.live import followed
from densely.training.live.follower import Follower
from densely.training.live.page import LivePage
from densely.training.opening import open_run, run_of
from densely.training.out_of_memory import memory_errors
from densely.training.preparation import Prepared, looking, prepare
from densely.training.progress import ProgressBar
from densely.training.resume import checkpoint, claim, keeper
from densely.training.resume.checkpoint import Checkpoint
from densely.training.resume.claim import Resume, claimed
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
    cache: int | None = None,
    workers: int | None = None,
    network: dict[str, Any] | None = None,
    recipe: str = "auto",
    tune: bool | None = None,
    deterministic: bool | None = None,
    sync_bn: bool | None = None,
    config: str | Path | RunConfig | None = None,
    weights: str | Path | None = None,
    freeze: str | None = None,
    stage_rates: float | None = None,
    resume: Resume = "auto",
    save_every: int | str = SAVE_EVERY,
    report: bool | None = None,
    live: bool = False,
    tensorboard: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    console: Console | None = None,
    peer_timeout: float = PATIENCE,
    **settings: Any,
) -> Run:
    """Train a DenseNet and score it once on its test part: what `densely train` does.

    In a process that torchrun started, or anything that sets its variables, the training is shared by all of them.
    Batch size, order and scores are those of one process. The first one writes the run folder, prints, and scores; the
    others return, silent, when the last step is done.

    Args:
        source: a built-in data set's name (`digits`, `cifar10`, …), a folder of class folders, a CSV of labels, or
            your own `Dataset` or `Parts`. May be left out with `config`.
        model: a network's name or spec; by default that of the weights, else the recipe's.
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
        cache: bytes that the decoded images of a folder or CSV may take in memory; if they do not all fit, they are
            read from disk when they are needed, which changes no result (default: `$DENSELY_CACHE_SIZE`, else a third
            of the free memory).
        workers: processes that read then (default: as many as processors, 8 at most); nor does their number.
        network: fields of `NetworkSpec` to change, e.g. `{"dropout": 0.2}`.
        recipe: a name in `densely.recipes.RECIPES`.
        tune: hold out a validation part and score that; the test part is not looked at (default: a saved config's
            choice, else no).
        deterministic: allow only operators that give the same bits each time (default: a saved config's choice, else
            no). A CPU gives them anyway; a GPU becomes slower by it.
        sync_bn: of several processes, normalise by the statistics of the whole batch, as one process does, not each by
            those of its part (default: a saved config's choice, else no).
        config: a run's `config.toml` (or a `RunConfig`) to run again; what else is given here changes it.
        weights: start from trained weights: a run folder, a `.safetensors` file of Densely's, or the name of weights
            that come with Densely (`"cifar10"`). Network, preprocessing and the size of a folder's images are then
            theirs; the classifier is fresh unless the classes are the same, in the same order.
        freeze: with weights, keep all layers up to this one as they are, e.g. `"dense_block_1"`; see
            `densely.fine_tuning.freeze`.
        stage_rates: with weights, the learning rate of each stage over that of the stage after it (default 1: all the
            same); see `densely.fine_tuning.stage_rates`.
        resume: `"auto"`: a training that was broken off goes on, to the very weights that it would have had, and one
            that is finished in `out` is handed back; `"never"`: only a folder that holds nothing will do.
        save_every: steps (`500`) or minutes (`"5m"`, the default) between two checkpoints.
        report: write `report.html` at the end (default: yes, unless the environment variable `DENSELY_REPORT` is 0).
        live: serve a page on this machine that follows the training; its address is printed.
        tensorboard: write an event file for TensorBoard into the run folder, one point an epoch; needs the extra
            `densely[tensorboard]`.
        callbacks: Keras callbacks of yours, called after Densely's own at the end of a step and of an epoch.
        console: where to print (default: standard output; `rich.console.Console(quiet=True)` for silence).
        peer_timeout: of several processes, seconds after which one that gives no sign ends the training of all.
        **settings: fields of `Recipe` to change, e.g. `epochs=10, learning_rate=0.05`.

    Returns:
        The run, opened: `run.accuracy`, `run.metrics`, `run.model()`, `run.folder`.

    Raises:
        UsageError: for names or values that do not exist or do not fit, or a folder that holds something else.
        DataError: for data that cannot be used, or a disk that is full.
        DenselyError: if the loss is no longer a number, memory runs out, another process trains in the folder, or one
            of those that share the training is gone.
        Interrupted: (a `KeyboardInterrupt`) after SIGINT or SIGTERM; what was reached is on the disk.
    """
    console = console or Console()
    with StopSignals() as signals, joined(signals, peer_timeout) as world:
        keeper.interval(save_every)
        claim.check(resume)
        if tensorboard:
            event_files.check()
        if not world.first:
            console = Console(quiet=True)

        def prepare_here() -> Prepared:
            return prepare(
                source,
                model=model,
                seed=seed,
                limit=limit,
                fold=fold,
                data_dir=data_dir,
                size=size,
                channels=channels,
                skip_bad=skip_bad,
                cache=cache,
                workers=workers,
                network=network,
                recipe=recipe,
                tune=tune,
                deterministic=deterministic,
                sync_bn=sync_bn,
                config=config,
                weights=weights,
                freeze=freeze,
                stage_rates=stage_rates,
                console=console,
                kind=keras.Model if world.size == 1 else Replica,
                **settings,
            )

        prepared = world.in_turn(prepare_here)
        _check_shared(prepared, world)
        if not world.first:
            return _help(prepared, signals, world, callbacks)
        with looking(prepared.parts, console):
            fingerprints = prepared.parts.fingerprints()
        with claimed(out, prepared.config, fingerprints, resume) as folder:
            if (folder / "metrics.json").is_file():
                world.same_for_all({"folder": str(folder), "fit": False})
                world.leave()
                run = Run.open(folder)
                if tensorboard:
                    event_files.write(folder, run.history)
                if not (folder / "report.html").is_file():
                    _report(run, prepared, report, console)
                tell(console, f"This training is finished already.\n{run}")
                return run
            try:
                run, start = open_run(folder, prepared, fingerprints, console, world.size)
                to_fit = not (folder / "final.weights.h5").is_file()
                world.same_for_all({"folder": str(folder), "fit": to_fit})
                with followed(run, live, console) as page, same_bits(prepared.config.deterministic):
                    if to_fit:
                        _fit(
                            run,
                            prepared,
                            signals,
                            world,
                            callbacks,
                            start=start,
                            save_every=save_every,
                            console=console,
                            page=page,
                            tensorboard=tensorboard,
                        )
                    else:
                        world.leave()
                        if tensorboard:
                            event_files.write(folder, run.history)
                    checkpoint.remove_all(folder)
                    _score(run, prepared)
            except Interrupted as stop:
                raise Interrupted(stop.signal, folder, stop.where) from None
            _report(run, prepared, report, console)
    tell(console, run)
    return run


def _check_shared(prepared: Prepared, world: World) -> None:
    """Refuse a batch that not every process can have a part of."""
    size = prepared.config.recipe.batch_size
    if size < world.size:
        raise UsageError(f"A batch of {size} cannot be shared by {world.size} processes: raise --batch-size.")


def _help(prepared: Prepared, signals: StopSignals, world: World, own: Sequence[keras.callbacks.Callback]) -> Run:
    """What a process does that is not the first: its part of every step, and nothing else."""
    told = world.same_for_all(None)
    run = run_of(Path(told["folder"]), prepared)
    if told["fit"]:
        with same_bits(prepared.config.deterministic):
            _fit(run, prepared, signals, world, own, console=Console(quiet=True))
    else:
        world.leave()
    return run


def _fit(
    run: Run,
    prepared: Prepared,
    signals: StopSignals,
    world: World,
    own: Sequence[keras.callbacks.Callback],
    *,
    console: Console,
    start: Checkpoint | None = None,
    save_every: int | str = SAVE_EVERY,
    page: LivePage | None = None,
    tensorboard: bool = False,
) -> None:
    """Train from the start, or from a checkpoint, to `final.weights.h5`."""
    parts, chosen = prepared.parts, prepared.config.recipe
    made = (prepared.preprocessing, chosen, prepared.config.seed)
    part = (world.rank, world.size)
    batches = Batches(parts.train, *made, training=True, part=part)
    watched = parts.test if prepared.config.watches_test else parts.val
    to_watch = Batches(watched, *made, training=False, part=part) if watched else None
    conductor = Conductor(run, prepared.network, batches, writes=world.first, goes_on=start is not None)
    bar = ProgressBar(console)
    events = [event_files.TensorBoard(conductor)] if tensorboard else []
    followers = [Follower(page, conductor)] if page is not None else []
    shares = [Shares(batches, to_watch)] if world.size > 1 else []
    try:
        with (
            signals.deferred(),
            memory_errors(chosen.batch_size),
            world.fitting(prepared.model, prepared.config.sync_bn),
            graphs.capturing(prepared.model, prepared.config, world.size, lambda line: tell(console, line)),
        ):
            start = world.same_start(start)
            callbacks = keras.callbacks.CallbackList(
                # In this order: the keeper writes down what the conductor has done, and ends what the others have
                # shown.
                [
                    conductor,
                    *shares,
                    bar,
                    *events,
                    *followers,
                    *own,
                    Keeper(conductor, save_every, signals, start, world.agreed),
                ],
                add_history=True,
                model=prepared.model,
                epochs=chosen.epochs,
                steps=batches.steps_per_epoch,
            )
            epoch, step = (start.epoch, start.step) if start is not None else (0, 0)
            # What is left of an epoch is a `fit` of its own: Keras fixes the number of steps at its beginning.
            spans = [(step, epoch, epoch + 1), (0, epoch + 1, chosen.epochs)] if step else [(0, epoch, chosen.epochs)]
            for skipped, first, end in spans:
                if first < end and not conductor.finished:
                    batches.skip(skipped)
                    bar.skip(skipped)
                    prepared.model.fit(
                        batches,
                        initial_epoch=first,
                        epochs=end,
                        validation_data=to_watch,
                        callbacks=callbacks,
                        shuffle=False,
                        verbose=0,
                    )
    finally:
        bar.close()
        for file in events:
            file.close()
    if signals.received is not None and world.first:
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
        tell(console, run)
        where = f"while its report was written; the training is finished (densely report {run.folder})"
        raise Interrupted(stop.signal, None, where) from None
    except Exception as error:
        tell(console, f"no report: {reason(error)} (densely report {run.folder} tries again)", style="yellow")
