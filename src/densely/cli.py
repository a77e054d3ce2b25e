"""The command line: parses, calls, prints. Everything it does can be done in Python too."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

import densely
from densely.errors import DenselyError, UsageError
from densely.serve.limits import Limits
from densely.sweeps.command import sweep
from densely.terminal import (
    Channels,
    DataDir,
    ImageSize,
    ReportOption,
    SkipBad,
    Told,
    broken_off,
    ended,
    err,
    image_size,
    numbers,
    out,
    wide,
)
from densely.training.resume.interruption import Interrupted, StopSignals

app = typer.Typer(
    help="DenseNets trained from scratch, where labelled images are scarce.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/digits-1.")]
WeightsOption = Annotated[
    str, typer.Option(metavar="final|best", help="The last epoch's weights, or those best on the validation part.")
]
Trained = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|MODEL", help="A run folder, a .safetensors file, or cifar10, which comes with Densely."
    ),
]
StartOption = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Start from trained weights: a run folder, a .safetensors file, or cifar10.",
        show_default="none",
        rich_help_panel="Fine-tuning",
    ),
]
FreezeOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        help="Keep the layers up to this one as they are: dense_block_1, transition_1, …",
        show_default="none",
        rich_help_panel="Fine-tuning",
    ),
]
RatesOption = Annotated[
    float | None,
    typer.Option(
        help="Each stage learns at so many times the rate of the next, above 0 to 1 (SGD, Muon).",
        show_default="1",
        rich_help_panel="Fine-tuning",
    ),
]


def _setting(text: str, names: tuple[str, ...] = (), panel: str = "Training", **more: Any) -> Any:
    """An option whose default the recipe has."""
    return typer.Option(*names, help=text, show_default="recipe", rich_help_panel=panel, **more)


def _augmentation(text: str, names: tuple[str, ...] = (), **more: Any) -> Any:
    return _setting(text, names, "Augmentation", **more)


def _limit(text: str, least: float, most: float) -> Any:
    return typer.Option(min=least, max=most, help=text, rich_help_panel="Limits")


def _known(recipe: str, model: str | None = None) -> None:
    """Told of a mistyped name before data are read and the engine is loaded."""
    from densely.architecture import spec
    from densely.recipes import named

    if model is not None:
        spec(model)
    named(recipe)


def _version(asked: bool) -> None:
    if asked:
        out.print(f"densely {densely.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
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
    recipe: Annotated[str, typer.Option(help="How to train; `densely recipes` lists them.")] = "auto",
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
    model: Annotated[
        str | None, typer.Option(help="A network's name; `densely models` lists them.", show_default="recipe")
    ] = None,
    weights: StartOption = None,
    freeze: FreezeOption = None,
    stage_rates: RatesOption = None,
    epochs: Annotated[int | None, _setting("Passes over the training images.")] = None,
    batch_size: Annotated[int | None, _setting("Images a step.")] = None,
    lr: Annotated[float | None, _setting("Highest learning rate; `densely find-lr` suggests one.")] = None,
    schedule: Annotated[
        str | None, _setting("Of the learning rate.", metavar="cosine|one-cycle|trapezoid|staged|constant")
    ] = None,
    warmup: Annotated[float | None, _setting("Share of the steps in which the rate rises.")] = None,
    cooldown: Annotated[float | None, _setting("Share of the steps in which a trapezoid falls.")] = None,
    optimizer: Annotated[str | None, _setting("What moves the weights.", metavar="sgd|muon|adamw")] = None,
    momentum: Annotated[float | None, _setting("Share of the last step that goes on in the next (SGD, Muon).")] = None,
    beta_factor: Annotated[float | None, _setting("Shifts β learn so many times faster (SGD, Muon).")] = None,
    weight_decay: Annotated[float | None, _setting("λ: how strongly weights are drawn towards 0.")] = None,
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
    limit: Annotated[
        int | None, typer.Option(help="Use at most this many images of each part.", show_default="all")
    ] = None,
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
    settings = {
        "learning_rate": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "schedule": schedule,
        "warmup": warmup,
        "cooldown": cooldown,
        "optimizer": optimizer,
        "momentum": momentum,
        "beta_factor": beta_factor,
        "weight_decay": weight_decay,
        "decay_on": decay_on,
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "ema": ema,
        "clip_norm": clip_norm,
        "accumulate": accumulate,
        "precision": precision,
        "early_stop": early_stop,
        "val_fraction": val_fraction,
        "preprocessing": preprocessing,
        "shift": shift,
        "fill": fill,
        "flip": flip,
        "flip_in_turn": flip_in_turn,
        "flip_vertically": flip_vertically,
        "turn": turn,
        "crop": crop,
        "policy": policy,
        "cutout": cutout,
        "mixup": mixup,
        "cutmix": cutmix,
        "flip_test": flip_test,
        "shift_test": shift_test,
    }
    network = {"depth": depth, "growth_rate": growth_rate, "dropout": dropout}
    _known(recipe, model)
    from densely.data.streaming import size_in_bytes

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
        "network": _given(network),
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
        **_given({"weights": weights, "freeze": freeze, "stage_rates": stage_rates, "sync_bn": sync_bn}),
        **_given(settings),
    }
    if (devices is not None or "RANK" in os.environ) and (seeds is not None or folds is not None):
        raise UsageError("--seeds and --folds train one after the other, in one process: leave them or --devices out.")
    if _launched(devices, peer_timeout):
        return
    from densely.training.repeats import repeat

    try:
        if seeds is None and folds is None:
            if jobs is not None:
                raise UsageError("--jobs is for --seeds and --folds: a training alone has all threads already.")
            densely.train(source, seed=seed, peer_timeout=peer_timeout, **options)
        elif source is None:
            raise UsageError("Name the DATA to train on: --seeds and --folds need it beside a --config.")
        else:
            repeat(source, seeds=seeds, folds=folds, seed=seed, **_given({"jobs": jobs}), **options)
    except Interrupted as stop:
        raise broken_off(stop) from None


app.command()(sweep)


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


@app.command(name="find-lr")
def find_lr(
    source: Annotated[str, typer.Argument(metavar="DATA", help="As for `densely train`.")],
    recipe: Annotated[str, typer.Option(help="Its batch size, optimizer and augmentation count.")] = "auto",
    model: Annotated[
        str | None, typer.Option(help="A network's name; `densely models` lists them.", show_default="recipe")
    ] = None,
    weights: StartOption = None,
    freeze: FreezeOption = None,
    stage_rates: RatesOption = None,
    lowest: Annotated[float, typer.Option(help="Where the rate begins.")] = 1e-4,
    highest: Annotated[float, typer.Option(help="Where it would end.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Batches at most.")] = 100,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.", show_default="recipe")] = None,
    picture: Annotated[Path, typer.Option("--out", help="The curve, PNG or SVG.")] = Path("find-lr.png"),
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Use at most this many images.", show_default="all")] = None,
    skip_bad: SkipBad = None,
    data_dir: DataDir = None,
) -> None:
    """Suggest a learning rate: a short training whose rate rises, and where its loss falls fastest."""
    _known(recipe, model)
    if not picture.parent.is_dir():
        raise UsageError(f"There is no folder {picture.parent} for the picture: make it, or choose another --out.")
    from densely.training import finder

    finder.check_ending(picture)
    found = finder.find_learning_rate(
        source,
        recipe=recipe,
        model=model,
        weights=weights,
        freeze=freeze,
        stage_rates=stage_rates,
        lowest=lowest,
        highest=highest,
        steps=steps,
        seed=seed,
        limit=limit,
        skip_bad=skip_bad,
        data_dir=data_dir,
        console=out,
        **_given({"batch_size": batch_size}),
    )
    finder.draw(found, picture, f"{source}, recipe {recipe}")
    out.print(f"Loss falls fastest at a learning rate of {found.suggestion:.2g}", highlight=False)
    out.print(f"Curve          {picture}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    run_folder: RunFolder,
    part: Annotated[str, typer.Option(metavar="test|val|train", help="Which part to score.")] = "test",
    weights: WeightsOption = "final",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Score a trained network again, on the parts its training recorded."""
    from densely.runs import Run

    part = _choice("--part", part, ("test", "val", "train"))
    run = Run.open(run_folder)
    chosen = _weights(weights)
    from densely import evaluation
    from densely.evaluation import scorecard
    from densely.training.preparation import parts_of

    parts = parts_of(run, data_dir)
    dataset = getattr(parts, part)
    if dataset is None:
        raise UsageError(f"{run_folder} has no {part} part.")
    model, views = run.model(chosen), run.config.recipe.views
    if part == "test":
        found = evaluation.evaluate_held_out(model, run.preprocessing, val=parts.val, test=dataset, views=views)["test"]
    else:
        found = evaluation.evaluate(model, dataset, run.preprocessing, views=views)
    if as_json:
        print(json.dumps({"part": part, "weights": chosen, **found}))
        return
    out.print(f"{run_folder}, {part} part, {chosen} weights", markup=False, highlight=False, soft_wrap=True)
    scorecard.show(found, out)


@app.command()
def predict(
    trained: Trained,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE|FOLDER…", help="PNG, JPEG, WebP or BMP files, or folders of them.")
    ],
    top: Annotated[int | None, typer.Option(help="How many classes to name.", show_default="5")] = None,
    table: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a table, of any number of images.", show_default="none"),
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="In the table, a column of probabilities for each class.")
    ] = False,
    weights: WeightsOption = "final",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Name the likeliest classes of images.

    A folder is looked through to any depth. With --csv a file that cannot be read is a row that says why.
    """
    from densely.model_file import open_trained

    opened = open_trained(trained)
    chosen = _weights(weights)
    if table is not None:
        if top is not None or as_json:
            raise UsageError("--csv does not go with --top or --json: the table has the likeliest, or --all-classes.")
        _predict_to_csv(opened, images, table, chosen, all_classes)
        return
    if all_classes:
        raise UsageError("--all-classes is for a table: name one with --csv FILE.csv.")
    from densely.bulk import few
    from densely.prediction import predict as guess

    files = few(images)
    guesses = guess(opened, list(files), top=5 if top is None else top, weights=chosen)
    if as_json:
        rows = [
            {"image": str(image), "top": [{"class": g.label, "probability": round(g.probability, 6)} for g in found]}
            for image, found in zip(files, guesses, strict=True)
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for image, found in zip(files, guesses, strict=True):
        out.print(str(image), style="bold", markup=False, highlight=False, soft_wrap=True)
        shown = Table("class", "probability", "", box=None)
        for g in found:
            shown.add_row(escape(g.label), f"{100 * g.probability:.2f} %", "█" * round(30 * g.probability))
        out.print(shown)


def _predict_to_csv(trained: Any, images: list[Path], table: Path, weights: Any, all_classes: bool) -> None:
    from densely.bulk import check_table, predict_to_csv

    check_table(table)
    try:
        tally = predict_to_csv(trained, images, table, weights=weights, all_classes=all_classes, console=out)
    except Interrupted as stop:
        raise ended(stop) from None
    lines = [f"Table          {table}, {tally.predicted:,} image{'s' * (tally.predicted != 1)}"]
    if tally.bad:
        lines.append(f"not read       {tally.bad:,}; the column error says why")
    if tally.others:
        lines.append(f"left out       {tally.others:,} other file{'s' * (tally.others != 1)}, by their names no images")
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


@app.command()
def explain(
    trained: Trained,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A PNG, JPEG, WebP or BMP file.")],
    of: Annotated[
        str | None, typer.Option(metavar="CLASS", help="Explain this class.", show_default="likeliest")
    ] = None,
    top: Annotated[int, typer.Option(help="How many classes to explain.")] = 3,
    layer: Annotated[
        str, typer.Option(help="final_relu: the exact map; dense_block_1, …: Grad-CAM of that layer.")
    ] = "final_relu",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The picture, a PNG file.", show_default="IMAGE-explained.png")
    ] = None,
    weights: WeightsOption = "final",
) -> None:
    """Show where in an image the network sees its likeliest classes (class activation maps)."""
    from densely.model_file import open_trained
    from densely.runs import write_whole

    target = Path(f"{image.stem}-explained.png") if out_file is None else out_file
    _writable(target, ".png")
    opened = open_trained(trained)
    chosen = _weights(weights)
    from densely import explain as explaining

    found = explaining.explain(opened, image, of=of, layer=layer, top=top, weights=chosen)
    write_whole(target, lambda aside: explaining.draw(found).save(aside, "PNG"))
    for label, probability in zip(found.classes, found.probabilities, strict=True):
        out.print(f"{100 * probability:6.2f} %  {label}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Picture        {target}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def report(
    run_folder: RunFolder,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The page; its figures go beside it.", show_default="RUN/report.html")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a run's report again: one page with its story, its mistakes and what it looks at."""
    from densely.runs import Run

    if out_file is not None:
        _writable(out_file, ".html")
    run = Run.open(run_folder)
    from densely import report as reporting

    page = reporting.write(run, data_dir=data_dir, out=out_file)
    out.print(f"Report         {page}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def compare(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN RUN…", help="Run folders, two or more.")],
    out_file: Annotated[Path, typer.Option("--out", help="The page.")] = Path("compare.html"),
) -> None:
    """Compare runs on one page: scores, curves, settings, and whether they really differ."""
    from densely.runs import Run

    _writable(out_file, ".html")
    opened = [Run.open(folder) for folder in run_folders]
    from densely.report import comparison

    page = comparison.write(opened, out_file)
    table = Table("run", "score", "", box=None)
    for row in comparison.rows(opened):
        interval = "" if row["low"] is None else f"95 % interval {100 * row['low']:.1f} to {100 * row['high']:.1f} %"
        score = "–" if row["score"] is None else f"{100 * row['score']:.2f} %"
        table.add_row(escape(row["name"]), score, interval)
    out.print(table)
    out.print(f"Page           {page}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def export(
    trained: Trained,
    format: Annotated[
        str, typer.Option(metavar="onnx|keras|torch|safetensors", help="safetensors: weights, for densely.build.")
    ] = "onnx",
    batch: Annotated[str, typer.Option(metavar="dynamic|N", help="Images that it takes at a time.")] = "dynamic",
    quantize: Annotated[
        str | None, typer.Option(metavar="int8", help="Convolutions in 8-bit integers (ONNX).", show_default="no")
    ] = None,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="Take uint8 pixels, 0 to 255, as they come from a file.")
    ] = False,
    images: Annotated[str, typer.Option(metavar="N|all", help="Test images that it is compared on.")] = "1000",
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="The folder for the model and its card.", show_default="RUN/export/FORMAT"),
    ] = None,
    weights: WeightsOption = "final",
    data_dir: DataDir = None,
) -> None:
    """Write the network for another program, compared with itself on test images first, and its model card."""
    size = batch if batch == "dynamic" else numbers("--batch", batch, (1,), "dynamic or 16")[0]
    compared = None if images == "all" else numbers("--images", images, (1,), "all or 1000")[0]
    from densely.model_file import open_trained

    opened = open_trained(trained)
    chosen = _weights(weights)
    from densely import export as exporting

    exported = exporting.export(
        opened,
        format,  # type: ignore[arg-type]
        out=out_folder,
        batch=size,  # type: ignore[arg-type]
        quantize=quantize,  # type: ignore[arg-type]
        with_preprocessing=with_preprocessing,
        weights=chosen,
        images=compared,
        data_dir=data_dir,
    )
    out.print(f"Checked        {exported.checked.told()}", markup=False, highlight=False, soft_wrap=True)
    if quantize and exported.checked.accuracy is not None:
        before, after = exported.checked.accuracy
        lost = f"{100 * (before - after):.2f} points of accuracy" if after < before else "no accuracy"
        out.print(f"Lost by int8   {lost}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Model          {exported.path}", markup=False, highlight=False, soft_wrap=True)
    out.print(f"Card           {exported.card}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def show(
    source: Annotated[str, typer.Argument(metavar="DATA", help="As `densely train` takes it.", show_default=False)],
    recipe: Annotated[str, typer.Option(help="How to train; `densely recipes` lists them.")] = "auto",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="The picture, a PNG file.", show_default="DATA-RECIPE.png")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    size: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Bring a folder's images to this size.", show_default="by data")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="Bring a folder's images to grey (1) or colour (3).", show_default="by data")
    ] = None,
    skip_bad: SkipBad = None,
    data_dir: DataDir = None,
) -> None:
    """Draw what a recipe's augmentation makes of the images, before you train."""
    _known(recipe)
    target = Path(f"{Path(source).resolve().name}-{recipe}.png") if out_file is None else out_file
    _writable(target, ".png")
    from densely.runs import write_whole
    from densely.show import preview

    picture = preview(
        source, recipe, seed=seed, data_dir=data_dir, size=image_size(size), channels=channels, skip_bad=bool(skip_bad)
    )
    write_whole(target, picture.save)
    out.print(str(target), markup=False, highlight=False, soft_wrap=True)


@app.command()
def serve(
    run_folder: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A run folder, a .safetensors file, an .onnx file of densely export, or cifar10, which comes with "
            "Densely.",
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0: any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            help="Word that clients must show.", envvar="DENSELY_TOKEN", show_default="none", show_envvar=True
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A proxy's name for this server; may be repeated.", show_default="none"),
    ] = None,
    weights: WeightsOption = "final",
    samples: Annotated[
        Path | None, typer.Option(help="A folder of images that the page offers.", show_default="test images")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads that compute a batch.", show_default="one a core")
    ] = None,
    max_batch: Annotated[int, _limit("Images answered together.", 1, 1024)] = Limits.batch,
    max_queue: Annotated[int, _limit("Images that may wait.", 1, 100_000)] = Limits.queue,
    max_requests: Annotated[int, _limit("Requests at work at one time.", 1, 10_000)] = Limits.requests,
    max_connections: Annotated[int, _limit("Connections open at one time.", 1, 100_000)] = Limits.connections,
    max_images: Annotated[int, _limit("Images a request.", 1, 10_000)] = Limits.images,
    max_megabytes: Annotated[float, _limit("Of a request's body.", 0.001, 1024)] = Limits.body // 2**20,
    max_megapixels: Annotated[float, _limit("Of an image.", 0.001, 64)] = Limits.pixels // 10**6,
    head_timeout: Annotated[float, _limit("Seconds for a request's head.", 0.1, 3600)] = Limits.head_seconds,
    body_timeout: Annotated[float, _limit("Seconds for its body.", 0.1, 3600)] = Limits.body_seconds,
    answer_timeout: Annotated[float, _limit("Seconds for the answer.", 0.1, 3600)] = Limits.answer_seconds,
    data_dir: DataDir = None,
) -> None:
    """Serve a trained network over HTTP, with a page to try it."""
    from densely import serve as serving

    serving.check()
    chosen = _weights(weights)
    from densely.serve.server import serve as run

    limits = Limits(
        body=round(max_megabytes * 2**20),
        pixels=round(max_megapixels * 1e6),
        images=max_images,
        requests=max_requests,
        held=max(Limits.held, 2 * round(max_megabytes * 2**20)),
        queue=max(max_queue, max_images),
        batch=max_batch,
        connections=max_connections,
        head_seconds=head_timeout,
        body_seconds=body_timeout,
        answer_seconds=answer_timeout,
    )
    try:
        run(
            run_folder,
            host=host,
            port=port,
            token=token,
            allowed=allow_host or (),
            limits=limits,
            threads=threads,
            weights=chosen,
            samples=samples,
            data_dir=data_dir,
            out=out,
            err=err,
        )
    except Interrupted as stop:  # before it served
        raise ended(stop) from None


@app.command()
def convert(
    weights: Annotated[
        Path,
        typer.Argument(metavar="WEIGHTS", help="HDF5 that Keras 2 saved; or torchvision's .pth, .pt, .safetensors."),
    ],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The model file, a new one.", show_default="WEIGHTS.safetensors, in this folder"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|FILE",
            help="Names of the classes, with commas between them; or a file with one a line.",
            show_default="CIFAR-10's for 10 classes of Keras 2, else numbers",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Bring images to this size.", show_default="32; torchvision: 224"),
    ] = None,
) -> None:
    """Make a model file of a DenseNet that Keras 2 (the old notebook) or torchvision saved."""
    from densely.conversion import convert as converting
    from densely.conversion import read_classes

    names = None if classes is None else read_classes(classes)
    made = converting(weights, out_file, classes=names, size=image_size(size))
    from densely import cost

    height, width, channels = made.inputs.input_shape
    count = cost.parameters(made.network)
    text = f"{made.name}: {count:,} parameters; {made.network.classes} classes, {height}×{width}×{channels}"
    out.print(text, markup=False, highlight=False, soft_wrap=True)
    out.print(f"Model          {made.path}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def models() -> None:
    """List the networks: size, cost, and the errors the paper reports."""
    from densely import cost
    from densely.architecture import NETWORKS, PAPER_ERRORS

    columns = ("C10", "C10+", "C100", "C100+", "SVHN")
    table = Table(
        "network",
        *(f"{c}" for c in ("input", "parameters", "multiply-adds")),
        *columns,
        caption="Test error in %, as published; + with flip and shift. Parameters: trainable, 10 classes "
        "(ImageNet: 1,000). Multiply-adds: one image, forward.",
        caption_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, network in NETWORKS.items():
        errors = PAPER_ERRORS.get(name, {})
        height, width, channels = network.input_shape
        table.add_row(
            name,
            f"{height}×{width}×{channels}",
            f"{cost.parameters(network):,}",
            f"{cost.multiply_adds(network) / 1e6:,.0f} M",
            *(f"{errors[c]:.2f}" if c in errors else "" for c in columns),
        )
    wide(table)


@app.command()
def recipes() -> None:
    """List the recipes: where each comes from, what it does, what it reached."""
    import inspect

    from densely.recipes import RECIPES

    for name, recipe in RECIPES.items():
        out.print(name, style="bold", highlight=False)
        for line in inspect.getdoc(recipe).splitlines():  # type: ignore[union-attr]
            out.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        out.print()


@app.command()
def summary(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A network's name.")],
    input_shape: Annotated[
        str | None, typer.Option(metavar="HxWxC", help="Size and channels of the images.", show_default="network")
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.", show_default="network")] = None,
    depth: Annotated[int | None, typer.Option(help="L: layers that have weights.", show_default="network")] = None,
    growth_rate: Annotated[
        int | None, typer.Option(help="k: maps that each layer adds.", show_default="network")
    ] = None,
) -> None:
    """Show a network stage by stage, like Table 1 of the paper."""
    from densely import architecture, cost

    shape = None if input_shape is None else numbers("--input-shape", input_shape, (3,), "32x32x3")
    network = architecture.spec(
        model, **_given({"input_shape": shape, "classes": classes, "depth": depth, "growth_rate": growth_rate})
    )
    found = cost.stages(network)
    dropout = f", dropout {network.dropout}" if network.dropout else ""
    table = Table(
        "stage", "output", "layers", "parameters", "multiply-adds", title=f"{model}{dropout}", title_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    layers = iter(network.block_layers)
    for stage in found:
        table.add_row(
            stage.name,
            "×".join(map(str, stage.shape)),
            str(next(layers)) if stage.name.startswith("dense_block") else "",
            f"{stage.parameters:,}",
            f"{stage.multiply_adds / 1e6:,.2f} M",
        )
    table.add_section()
    total = sum(s.multiply_adds for s in found)
    table.add_row("total", "", "", f"{sum(s.parameters for s in found):,}", f"{total / 1e6:,.2f} M")
    wide(table)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _choice(option: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UsageError(f"{option} must be one of {', '.join(choices)}, not {value!r}.")
    return value


def _writable(target: Path, ending: str) -> None:
    """Told before anything is computed: a file that could not be written."""
    if target.suffix.lower() != ending:
        raise UsageError(f"--out must end in {ending}, not {target.name!r}.")
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write {target.name} in: make it first.")


def _weights(value: str) -> Any:
    return _choice("--weights", value, ("final", "best"))


def main() -> None:
    """Run the command line; every failure ends as one sentence and an exit code, never as a traceback."""
    try:
        with StopSignals([signal.SIGINT]):
            app(standalone_mode=True)
    except DenselyError as error:
        if _told_elsewhere(error):
            sys.exit(error.exit_code)
        _end(str(error), error.exit_code)
    except Told:
        raise
    except SystemExit as end:
        if end.code == 128 + signal.SIGINT:  # what typer makes of Ctrl-C
            err.print("densely: interrupted.")
        raise
    except KeyboardInterrupt:  # before typer has begun
        _end("interrupted.", 128 + signal.SIGINT)
    except Exception as error:
        from densely.training.memory import ran_out

        if ran_out(error):
            _end("Out of memory: try a smaller --batch-size or network.", 1)
        if os.environ.get("DENSELY_DEBUG"):
            raise
        _end(
            f"Unexpected {type(error).__name__}: {(str(error).splitlines() or [''])[0]} "
            "(this is a fault of Densely; set DENSELY_DEBUG=1 to see where).",
            1,
        )


def _told_elsewhere(error: DenselyError) -> bool:
    """Whether another process of the same training tells what happened."""
    world = sys.modules.get("densely.training.distributed.peers")
    return world is not None and isinstance(error, world.ElsewhereError)


def _end(message: str, code: int) -> None:
    err.print("densely:", style="bold red", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
