"""One training, from the data's name to a run folder with a test score. The only place that calls `fit`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from rich.console import Console
from rich.progress import Progress

from densely import architecture, data, recipes, runs
from densely.data import Dataset, Parts, Preprocessing, SplitRecord, batch_rng, epoch_order, shift_and_flip
from densely.errors import DenselyError, UsageError
from densely.evaluation import evaluate
from densely.optimizers import CoupledSGD
from densely.progress import ProgressBar
from densely.recipes import Recipe
from densely.runs import Run, RunConfig

#: Where a source has no test part of its own, this share of it becomes one, the same for every seed.
TEST_FRACTION = 0.2
#: Held out by `tune` where the recipe holds out nothing: CIFAR's 5,000 of 50,000, as in the paper.
TUNE_FRACTION = 0.1


class Batches(keras.utils.PyDataset):
    """The batches of an epoch, as a pure function of (seed, epoch, step): any of them can be made again.

    Args:
        dataset: the images.
        preprocessing: applied before the augmentation, so that a shift fills in with zero: black for unit
            pixels, the mean colour for standardised ones (as in the paper's code).
        recipe: batch size and augmentation.
        seed: of order and augmentation.
        training: shuffled and augmented; otherwise in order and as they are.
    """

    def __init__(
        self, dataset: Dataset, preprocessing: Preprocessing, recipe: Recipe, seed: int, training: bool
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.recipe = recipe
        self.seed = seed
        self.training = training
        self.set_epoch(0)

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.recipe.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are made."""
        self.epoch = epoch
        n = len(self.dataset)
        self.order = epoch_order(n, self.seed, epoch) if self.training else np.arange(n)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        size = self.recipe.batch_size
        chosen = self.order[step * size : (step + 1) * size]
        images = self.preprocessing(self.dataset.images[chosen])
        if self.training and (self.recipe.shift or self.recipe.flip):
            rng = batch_rng(self.seed, self.epoch, step)
            images = shift_and_flip(images, rng, shift=self.recipe.shift, flip=self.recipe.flip)
        return images, self.dataset.labels[chosen]


class Conductor(keras.callbacks.Callback):
    """Sets epoch and learning rate, writes history and weights."""

    def __init__(self, run: Run, model: keras.Model, batches: Batches) -> None:
        super().__init__()
        self.run = run
        self.whole_model = model
        self.batches = batches
        self.history = runs.HistoryFile(run.folder / "history.csv")
        self.best: tuple[float, float] | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Make this epoch's batches."""
        self.epoch = epoch
        self.began = time.perf_counter()
        self.batches.set_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set this step's learning rate."""
        steps = len(self.batches)
        rate = self.run.config.recipe.learning_rate_at(self.epoch * steps + batch, steps)
        self.model.optimizer.learning_rate = rate
        self.rate = rate

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch down, and the weights if they are the best so far."""
        row = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(row["loss"]):
            raise DenselyError(
                f"The loss is no longer a number in epoch {epoch + 1} (learning rate {self.rate:.3g}): lower --lr; "
                f"{self.run.folder} keeps what the earlier epochs left."
            )
        self.history.add(
            {"epoch": epoch + 1, "learning_rate": self.rate, "seconds": time.perf_counter() - self.began, **row}
        )
        if "val_accuracy" in row:
            rank = (row["val_accuracy"], -row["val_loss"])
            if self.best is None or rank > self.best:
                self.best = rank
                runs.write_weights(self.run.folder / "best.weights.h5", self.whole_model)


def train(
    source: str | Path | Dataset | Parts | None = None,
    *,
    model: str | architecture.NetworkSpec | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    limit: int | None = None,
    data_dir: str | Path | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    network: dict[str, Any] | None = None,
    recipe: str = "auto",
    tune: bool = False,
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
        limit: use at most this many images of the training data (validation included) and of the test part.
        data_dir: where built-in data lie (default: `$DENSELY_DATA`, else `~/.cache/densely/data`).
        size: (height, width) to bring the images of a folder or CSV to.
        channels: 1 or 3, to bring the images of a folder or CSV to grey or RGB.
        network: fields of `NetworkSpec` to change, e.g. `{"dropout": 0.2}`.
        recipe: a name in `densely.recipes.RECIPES`.
        tune: hold out a validation part and score that; the test part is not looked at.
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
    saved = runs.read_config(config) if isinstance(config, str | Path) else config
    if saved is not None:
        if recipe != "auto":
            raise UsageError(f"A saved config holds its own recipe: leave {recipe!r} out, or the config.")
        source = saved.data if source is None else source
        model = model or saved.network
        seed = saved.seed if seed is None else seed
        limit = limit or saved.limit
        size, channels = size or saved.size, channels or saved.channels
        tune = tune or saved.tune
    seed = seed or 0
    if not 0 <= seed < 2**32:
        raise UsageError(f"The seed must be between 0 and {2**32 - 1}, not {seed}.")
    if source is None:
        raise UsageError("Name the data to train on, or a saved config.")
    parts, name = _load(source, data_dir, size, channels, console)
    if limit is not None:
        if limit < 1:
            raise UsageError(f"The limit must be at least 1 image, not {limit}.")
        parts = data.limit(parts, limit, seed)
    task = recipes.Task(name, parts.train.input_shape, parts.train.classes, len(parts.train))
    choice = recipes.choose(recipe, task)
    chosen = recipes.change(choice.recipe if saved is None else saved.recipe, **settings)
    if tune and chosen.val_fraction == 0:
        chosen = recipes.change(chosen, val_fraction=TUNE_FRACTION)
    parts, record = _complete(parts, chosen.val_fraction, seed)
    changes = {**({} if saved is not None else choice.network), **(network or {})}
    network_wanted = model or choice.model
    height, width, depth = parts.train.input_shape
    from_files = not isinstance(source, Dataset | Parts) and name not in data.NAMES
    run_config = RunConfig(
        data=name,
        size=(height, width) if from_files else None,
        channels=depth if from_files else None,
        limit=limit,
        seed=seed,
        tune=tune,
        model=_label(network_wanted, saved),
        network=_network(network_wanted, parts.train, chosen, changes),
        recipe=chosen,
    )

    keras.utils.set_random_seed(seed)
    whole = architecture.build(run_config.network)
    # The loss is computed from logits, which loses nothing where a probability is nearly 0 or 1.
    logits = keras.Model(whole.inputs, whole.get_layer("logits").output)
    preprocessing = Preprocessing.fit(parts.train.images, chosen.preprocessing)
    logits.compile(
        optimizer=CoupledSGD(
            chosen.learning_rate,
            chosen.momentum,
            chosen.nesterov,
            coupled_decay=chosen.weight_decay if chosen.decay_on == "all" else 0.0,
        ),
        loss=(
            keras.losses.BinaryCrossentropy(from_logits=True)
            if parts.train.multi_label
            else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        ),
        metrics=[_accuracy(parts.train)],
    )

    run = _start_run(runs.create_folder(out, name), run_config, parts, preprocessing, record)
    _announce(console, run, parts, whole, choice.why if saved is None else "as saved")
    batches = Batches(parts.train, preprocessing, chosen, seed, training=True)
    watched = parts.test if chosen.validate_on_test else parts.val
    held_out = Batches(watched, preprocessing, chosen, seed, training=False) if watched else None
    bar = ProgressBar(console)
    try:
        logits.fit(
            batches,
            epochs=chosen.epochs,
            validation_data=held_out,
            callbacks=[Conductor(run, whole, batches), bar],
            shuffle=False,
            verbose=0,
        )
    except KeyboardInterrupt:
        bar.close()
        console.print(f"Interrupted; {run.folder} keeps what the finished epochs left.", markup=False, soft_wrap=True)
        raise
    finally:
        bar.close()
    runs.write_weights(run.folder / "final.weights.h5", whole)

    metrics: dict[str, Any] = {"weights": "final", "test_seen_in_training": chosen.validate_on_test}
    for part, dataset in (("val", parts.val), ("test", None if tune else parts.test)):
        if dataset is not None:
            metrics[part] = evaluate(whole, dataset, preprocessing)
    runs.write_json(run.folder / "metrics.json", metrics)
    console.print(str(run), markup=False, highlight=False, soft_wrap=True)
    return run


def parts_of(run: Run, data_dir: str | Path | None = None) -> Parts:
    """The parts that a run was trained and scored on, read again from its source.

    Raises:
        UsageError: if the run's data came from Python, not from a source that can be read again.
        DataError: if the source has changed since.
    """
    config = run.config
    if config.data not in data.NAMES and config.size is None:
        raise UsageError(f"{run.folder} was trained on data given in Python, which cannot be read again.")
    parts = data.load(config.data, data_dir=data_dir, size=config.size, channels=config.channels)
    if config.limit:
        parts = data.limit(parts, config.limit, config.seed)
    parts, _ = _complete(parts, config.recipe.val_fraction, config.seed)
    recorded = runs.read_json(run.folder / "splits.json")["fingerprints"]
    for part in ("train", "val", "test"):
        dataset = getattr(parts, part)
        if dataset is not None and recorded.get(part) != dataset.fingerprint():
            raise DenselyError(
                f"The {part} part of {config.data} is not the one that {run.folder} was trained with: "
                "the data have changed since."
            )
    return parts


def _load(
    source: str | Path | Dataset | Parts,
    data_dir: str | Path | None,
    size: tuple[int, int] | None,
    channels: int | None,
    console: Console,
) -> tuple[Parts, str]:
    """Data, and the name it goes by in the config."""
    if isinstance(source, Dataset | Parts):
        if size is not None or channels is not None:
            raise UsageError("size and channels are for image files: a Dataset has its own already.")
        parts = source if isinstance(source, Parts) else Parts(source, None, None)
        return parts, parts.train.source.removesuffix("/train")
    name = str(source)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Reading images", visible=False)
        parts = data.load(
            name,
            data_dir=data_dir,
            size=size,
            channels=channels,
            notify=lambda line: console.print(line, style="dim", markup=False),
            progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
        )
    return parts, name if name in data.NAMES else str(Path(name).expanduser().resolve())


def _complete(parts: Parts, val_fraction: float, seed: int) -> tuple[Parts, SplitRecord]:
    return data.complete(parts, val_fraction=val_fraction, test_fraction=TEST_FRACTION, seed=seed)


def _network(
    model: str | architecture.NetworkSpec, train: Dataset, recipe: Recipe, changes: dict[str, Any]
) -> architecture.NetworkSpec:
    """The network, fitted to the data; the notebook's kind of decay is part of it, the paper's of the optimizer."""
    fitted = {
        "weight_decay": recipe.weight_decay if recipe.decay_on == "kernels" else 0.0,
        **changes,
        "input_shape": train.input_shape,
        "classes": train.classes,
        "activation": "sigmoid" if train.multi_label else "softmax",
    }
    return architecture.spec(model, **fitted)


def _label(model: str | architecture.NetworkSpec, saved: RunConfig | None) -> str:
    """What the network is called: a spec has no name, but a saved one keeps the name it was saved under."""
    if isinstance(model, str):
        return model
    return saved.model if saved is not None and model is saved.network else "custom"


def _accuracy(dataset: Dataset) -> keras.metrics.Metric:
    if dataset.multi_label:
        return keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def _start_run(folder: Path, config: RunConfig, parts: Parts, preprocessing: Preprocessing, record: SplitRecord) -> Run:
    """Write all that is known before the first step."""
    inputs = runs.Inputs(
        class_names=parts.train.class_names,
        multi_label=parts.train.multi_label,
        input_shape=parts.train.input_shape,
        preprocessing=preprocessing.as_dict(),
    )
    named: list[tuple[Literal["train", "val", "test"], Dataset | None]] = [
        ("train", parts.train),
        ("val", parts.val),
        ("test", parts.test),
    ]
    splits = {
        "fingerprints": {part: dataset.fingerprint() for part, dataset in named if dataset is not None},
        **record.as_dict(),
    }
    runs.write_config(folder / "config.toml", config)
    runs.write_json(folder / "environment.json", runs.environment(config.seed))
    runs.write_json(folder / "inputs.json", inputs.model_dump())
    runs.write_json(folder / "splits.json", splits)
    return Run(folder, config, inputs)


def _announce(console: Console, run: Run, parts: Parts, model: keras.Model, why: str) -> None:
    recipe = run.config.recipe
    counts = [f"{len(parts.train):,} to train"]
    if parts.val is not None:
        counts.append(f"{len(parts.val):,} to validate")
    if parts.test is not None:
        counts.append(f"{len(parts.test):,} to test")
    height, width, channels = parts.train.input_shape
    parameters = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    console.print(
        f"{run.config.data}: {', '.join(counts)}; {parts.train.classes} classes, {height}×{width}×{channels}\n"
        f"{run.config.model}: {parameters:,} parameters; {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"seed {run.config.seed}\nrecipe {recipe.name}: {why}\nrun folder: {run.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
