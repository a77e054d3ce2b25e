"""`densely train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import densely
from densely.commands.options import (
    Channels,
    DataDir,
    FreezeOption,
    ImageSize,
    Limit,
    ModelOption,
    RatesOption,
    RecipeOption,
    ReportOption,
    SkipBad,
    StartOption,
    given,
    image_size,
    known,
)
from densely.commands.terminal import Told, broken_off, out
from densely.errors import UsageError
from densely.interruption import Interrupted


def _setting(text: str, names: tuple[str, ...] = (), panel: str = "Training", **more: Any) -> Any:
    """An option that changes the recipe's field of the same name."""
    return typer.Option(*names, help=text, show_default="recipe", rich_help_panel=panel, **more)


def _augmentation(text: str, names: tuple[str, ...] = (), **more: Any) -> Any:
    return _setting(text, names, "Augmentation", **more)


def train(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="digits, cifar10, cifar10-50, cifar100, cifar100-50, cifar100-coarse, svhn, svhn-extra; a folder: one "
            "sub-folder a class, or train/ (val/) (test/) above them; or a CSV with columns file and label, or labels."
            " May be left out with --config.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeOption = "auto",
    config: Annotated[
        Path | None, typer.Option(help="A run's config.toml, to run it again.", show_default="none")
    ] = None,
    tune: Annotated[
        bool | None,
        typer.Option(
            "--tune/--no-tune", help="Score a held-out validation part; leave the test part alone.", show_default="no"
        ),
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic/--no-deterministic", help="On a GPU too, the same bits each time.", show_default="no"
        ),
    ] = None,
    model: ModelOption = None,
    weights: StartOption = None,
    freeze: FreezeOption = None,
    stage_rates: RatesOption = None,
    epochs: Annotated[int | None, _setting("Passes over the training images.")] = None,
    batch_size: Annotated[int | None, _setting("Images a step.")] = None,
    learning_rate: Annotated[
        float | None, _setting("Highest learning rate; `densely find-lr` suggests one.", names=("--lr",))
    ] = None,
    schedule: Annotated[
        str | None, _setting("Of the learning rate.", metavar="cosine|one-cycle|trapezoid|staged|constant")
    ] = None,
    warmup: Annotated[float | None, _setting("Share of the steps in which the rate rises.")] = None,
    cooldown: Annotated[float | None, _setting("Share of the steps in which a trapezoid falls.")] = None,
    optimizer: Annotated[str | None, _setting("What moves the weights.", metavar="sgd|muon|adamw")] = None,
    momentum: Annotated[
        float | None, _setting("Share of the last step that goes on in the next (SGD; Muon: not of kernels).")
    ] = None,
    beta_factor: Annotated[float | None, _setting("Shifts β learn so many times faster (SGD, Muon).")] = None,
    weight_decay: Annotated[
        float | None, _setting("λ: how strongly weights are drawn towards 0 (Muon: not kernels).")
    ] = None,
    decay_on: Annotated[
        str | None,
        _setting("λ·w in the gradient of all parameters (the paper), or l2(λ) on kernels.", metavar="all|kernels"),
    ] = None,
    label_smoothing: Annotated[
        float | None, _setting("ε: share of a target spread over all classes, 0 to below 1.")
    ] = None,
    class_weights: Annotated[
        bool | None, _setting("Weigh rare classes more.", names=("--class-weights/--no-class-weights",))
    ] = None,
    ema: Annotated[float | None, _setting("Decay of averaged weights, e.g. 0.999; 0: none.")] = None,
    clip_norm: Annotated[float | None, _setting("Greatest joint length of the gradients.")] = None,
    accumulate: Annotated[int | None, _setting("Batches a step of the optimizer.")] = None,
    precision: Annotated[str | None, _setting("What it computes in.", metavar="float32|bfloat16|auto")] = None,
    early_stop: Annotated[int | None, _setting("End after so many epochs without a better validation score.")] = None,
    val_fraction: Annotated[float | None, _setting("Share of the training images held out to watch.")] = None,
    preprocessing: Annotated[
        str | None,
        _setting("Pixels to [0, 1], or to mean 0 and deviation 1 a channel.", metavar="unit|standardise"),
    ] = None,
    shift: Annotated[int | None, _augmentation("Random shift, in pixels.")] = None,
    fill: Annotated[str | None, _augmentation("What a shift brings in.", metavar="zero|reflect")] = None,
    flip: Annotated[bool | None, _augmentation("Mirror at random.", names=("--flip/--no-flip",))] = None,
    flip_in_turn: Annotated[
        bool | None,
        _augmentation("Mirror every second epoch, not by chance.", names=("--flip-in-turn/--no-flip-in-turn",)),
    ] = None,
    flip_vertically: Annotated[
        bool | None, _augmentation("Upside down at random.", names=("--flip-vertically/--no-flip-vertically",))
    ] = None,
    turn: Annotated[bool | None, _augmentation("Quarter turns at random.", names=("--turn/--no-turn",))] = None,
    crop: Annotated[float | None, _augmentation("Random rectangle of at least this share, enlarged.")] = None,
    policy: Annotated[
        str | None, _augmentation("trivial: one random change of place or colour an image.", metavar="trivial|none")
    ] = None,
    cutout: Annotated[int | None, _augmentation("Side of a blanked square, in pixels.")] = None,
    mixup: Annotated[float | None, _augmentation("Blend images in pairs: α of mixup, e.g. 0.2.")] = None,
    cutmix: Annotated[float | None, _augmentation("Paste a piece of another image: α of CutMix, e.g. 1.")] = None,
    flip_test: Annotated[
        bool | None,
        _augmentation("Score the mean over an image and its mirror image.", names=("--flip-test/--no-flip-test",)),
    ] = None,
    shift_test: Annotated[int | None, _augmentation("Score the mean over images moved by so many pixels.")] = None,
    depth: Annotated[
        int | None, typer.Option(help="L: layers of the network that have weights.", show_default="network")
    ] = None,
    growth_rate: Annotated[
        int | None, typer.Option(help="k: maps that each layer adds.", show_default="network")
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Share of outputs set to 0 in training, 0 to below 1.", show_default="network")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything that is random.", show_default="0")] = None,
    seeds: Annotated[int | None, typer.Option(help="Train so often, with one seed after the other.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate: train so often, each time scored on another part of the data.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="With --seeds or --folds: so many trainings at a time.", show_default="1")
    ] = None,
    limit: Limit = None,
    size: ImageSize = None,
    channels: Channels = None,
    skip_bad: SkipBad = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory for decoded images of your own, e.g. 2GB; what does not fit is read from disk when it is"
            " needed.",
            show_default="a third of what is free",
            envvar="DENSELY_CACHE_SIZE",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read what does not fit.", show_default="processors, 8 at most"),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Share the training among so many processes on this machine: one a GPU, or a part of the cores each.",
            show_default="1",
            rich_help_panel="Several devices",
        ),
    ] = None,
    sync_bn: Annotated[
        bool | None,
        typer.Option(
            "--sync-bn/--no-sync-bn",
            help="Normalise by the whole batch, as one process does, not each process by its part.",
            show_default="no",
            rich_help_panel="Several devices",
        ),
    ] = None,
    peer_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="A process that gives no sign for so long ends the training of all.",
            rich_help_panel="Several devices",
        ),
    ] = 60.0,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="The run folder.", show_default="runs/DATA-N")
    ] = None,
    resume: Annotated[
        str, typer.Option(metavar="auto|never", help="Go on with this very training where it was broken off.")
    ] = "auto",
    save_every: Annotated[str, typer.Option(metavar="N|Nm", help="Steps, or minutes, between two checkpoints.")] = "5m",
    report: ReportOption = None,
    live: Annotated[bool, typer.Option("--live", help="Serve a page, on this machine only, that follows it.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write an event file for TensorBoard into the run folder.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Train a DenseNet and score it once on images it never saw.

    The same command again goes on where a training was broken off, to the very same weights.
    """
    asked = given(locals())
    network = {"depth": depth, "growth_rate": growth_rate, "dropout": dropout}
    known(recipe, model)
    from densely.data.streaming import size_in_bytes
    from densely.recipes import Recipe

    if source is None and config is None:
        raise UsageError("Name the DATA to train on (digits, cifar10, a folder, a CSV, …), or a saved --config.")
    options: dict[str, Any] = {
        "model": model,
        "out": out_folder,
        "limit": limit,
        "data_dir": data_dir,
        "size": image_size(size),
        "channels": channels,
        "skip_bad": skip_bad,
        "network": given(network),
        "recipe": recipe,
        "tune": tune,
        "deterministic": deterministic,
        "config": config,
        "resume": resume,
        "save_every": save_every,
        "report": report,
        "live": live,
        "tensorboard": tensorboard,
        "console": out,
        "cache": None if cache is None else size_in_bytes(cache),
        "workers": workers,
        # Left out where they are not given: what was asked for by an earlier version is still the same.
        **given({"weights": weights, "freeze": freeze, "stage_rates": stage_rates, "sync_bn": sync_bn}),
        # An option that changes the recipe has the name of the field that it changes.
        **{name: value for name, value in asked.items() if name in Recipe.model_fields},
    }
    if (devices is not None or "RANK" in os.environ) and (seeds is not None or folds is not None):
        raise UsageError("--seeds and --folds train one after the other, in one process: leave them or --devices out.")
    if jobs is not None and seeds is None and folds is None:
        raise UsageError("--jobs is for --seeds and --folds: a training alone has all threads already.")
    if _launched(devices, peer_timeout):
        return
    from densely.training.repeats import repeat

    try:
        if seeds is None and folds is None:
            densely.train(source, seed=seed, peer_timeout=peer_timeout, **options)
        elif source is None:
            raise UsageError("Name the DATA to train on: --seeds and --folds need it beside a --config.")
        else:
            repeat(source, seeds=seeds, folds=folds, seed=seed, **given({"jobs": jobs}), **options)
    except Interrupted as stop:
        raise broken_off(stop) from None


def _launched(devices: int | None, patience: float) -> bool:
    """Whether the training has been run, by processes of its own.

    Raises:
        UsageError: if this is one of several processes that somebody else has started.
        SystemExit: with their exit code, if it is not 0.
    """
    from densely.training.distributed import launcher, place

    if devices is None or place.LAUNCHER in os.environ:
        return False
    if place.find() is not None:
        raise UsageError("--devices starts processes itself: leave it out under torchrun, or start densely alone.")
    if devices == 1:
        return False
    code = launcher.launch(devices, sys.argv[1:], patience)
    if code:
        raise Told(code)
    return True
