"""All that stands before the first step of a training: recipe chosen, data divided, network built and compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from densely import architecture, data, recipes, runs, transfer, whitening
from densely.console import tell
from densely.data import Dataset, Parts, Preprocessing, SplitRecord, augment
from densely.data.dataset import Images, chunks
from densely.data.streaming import Streamed
from densely.errors import UsageError
from densely.recipes import Recipe
from densely.runs import RunConfig
from densely.training.bars import live
from densely.training.beginning import Beginning, layer_rates, set_up
from densely.training.losses import CrossEntropy
from densely.training.optimizers import CoupledSGD, Muon
from densely.training.parts import complete, is_files, load, name_of, selected, task_of, val_fraction
from densely.training.precision import computing_in, resolved


@dataclass(frozen=True)
class Prepared:
    """A training that could begin.

    Attributes:
        config: what will be run, with nothing left to defaults.
        why: what the recipe says of its choice.
        parts: the images.
        record: how they were divided.
        skipped: images that could not be read, each with the reason in a sentence.
        preprocessing: fitted to the training part, or that of the weights it starts from.
        network: from preprocessed images to probabilities.
        model: the same network from images to logits, compiled; this one is fitted.
    """

    config: RunConfig
    why: str
    parts: Parts
    record: SplitRecord
    skipped: tuple[str, ...]
    preprocessing: Preprocessing
    network: keras.Model
    model: keras.Model


def prepare(
    source: str | Path | Dataset | Parts | None = None,
    *,
    model: str | architecture.NetworkSpec | None = None,
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
    console: Console | None = None,
    kind: type[keras.Model] = keras.Model,
    **settings: Any,
) -> Prepared:
    """Everything that `densely.train` does before its first step; most arguments are explained there.

    Args:
        kind: of the model that is fitted.

    Raises:
        UsageError: for names or values that do not exist or do not fit.
        DataError: for data that cannot be used.
    """
    console = console or Console()
    if keras.backend.backend() != "torch":
        # On JAX, Keras hides weights and learning rate from callbacks for a whole epoch.
        raise UsageError(
            f"Training runs on PyTorch, and Keras on {keras.backend.backend()} here: leave KERAS_BACKEND unset, and "
            "import densely before Keras. (Networks and layers work on JAX too.)"
        )
    saved = runs.read_config(config) if config is not None else None
    if saved is not None:
        if recipe != "auto":
            raise UsageError(f"A saved config holds its own recipe: leave {recipe!r} out, or the config.")
        source = saved.data if source is None else source
        model = model or saved.network
        seed = saved.seed if seed is None else seed
        limit, fold = limit or saved.limit, fold or saved.fold
        if is_files(source):
            size, channels = size or saved.size, channels or saved.channels
            skip_bad = saved.skip_bad if skip_bad is None else skip_bad
        tune = saved.tune if tune is None else tune
        deterministic = saved.deterministic if deterministic is None else deterministic
        sync_bn = saved.sync_bn if sync_bn is None else sync_bn
        if model is not saved.network:
            network = {"dropout": saved.network.dropout, **(network or {})}
    begin = Beginning.chosen(weights, freeze, stage_rates, saved.start if saved is not None else None)
    if begin is not None and source is not None and is_files(source):
        # Images of the size that the weights know, unless another is asked for.
        height, width, depth = begin.trained.inputs.input_shape
        size, channels = size or (height, width), channels or depth
    seed, tune = seed or 0, bool(tune)
    if not 0 <= seed < 2**32:
        raise UsageError(f"The seed must be between 0 and {2**32 - 1}, not {seed}.")
    if source is None:
        raise UsageError("Name the data to train on, or a saved config.")
    parts = load(source, data_dir, size, channels, console, bool(skip_bad), cache, workers)
    name = name_of(source)
    skipped = parts.skipped
    parts = selected(parts, name, limit, fold, tune)
    choice = recipes.choose(recipe, task_of(parts, name))
    chosen = recipes.change(choice.recipe if saved is None else saved.recipe, **settings)
    chosen = recipes.change(chosen, precision=resolved(chosen.precision))
    if begin is not None:
        begin.preprocessing_fits(settings.get("preprocessing"))
        chosen = recipes.change(chosen, preprocessing=begin.trained.preprocessing.kind)
    for line in recipes.idle(chosen, settings, validation_given=parts.val is not None):
        tell(console, line, style="dim")
    parts, record = complete(parts, val_fraction(chosen, tune), seed)
    if chosen.early_stop is not None and parts.val is None and not chosen.validate_on_test:
        raise UsageError("Early stopping watches a validation part: give --val-fraction more than 0.")
    part, scored = ("val", parts.val) if tune else ("test", parts.test)
    if begin is not None and scored is not None:
        begin.check_unseen(name, part, scored, fold)
    changes = {**({} if saved is not None else choice.network), **(network or {})}
    network_wanted = model or (choice.model if begin is None else begin.trained.network)
    spec = _network(network_wanted, parts.train, chosen, changes, begin)
    height, width, depth = parts.train.input_shape
    from_files = is_files(source)
    run_config = RunConfig(
        data=name,
        size=(height, width) if from_files else None,
        channels=depth if from_files else None,
        skip_bad=bool(skip_bad) and from_files,
        limit=limit,
        fold=fold,
        seed=seed,
        tune=tune,
        deterministic=bool(deterministic),
        sync_bn=bool(sync_bn),
        model=_label(network_wanted, saved, begin),
        network=spec,
        recipe=chosen,
        start=begin.start(spec, parts.train) if begin is not None else None,
    )

    keras.utils.set_random_seed(seed)
    if begin is not None:
        preprocessing = begin.trained.preprocessing
    else:
        with looking(parts, console):
            preprocessing = Preprocessing.fit(parts.train.images, chosen.preprocessing)
    # A setting that does not fit these images is told before anything is built or written.
    augment(parts.train.images[:1], np.random.default_rng(0), chosen.augmentation, preprocessing)
    height, width, _ = parts.train.input_shape
    if chosen.shift_test >= min(height, width):
        raise UsageError(
            f"shift_test={chosen.shift_test} moves images of {height}×{width} out of themselves: it must be below "
            f"{min(height, width)}."
        )
    with computing_in(chosen.precision):
        whole = architecture.build(run_config.network)
    if begin is not None and run_config.start is not None:
        set_up(whole, begin, run_config.start)
    else:
        whitening.fit(whole, map(preprocessing, chunks(whitening.sample(parts.train.images))))
    # The loss is computed from logits, which loses nothing where a probability is nearly 0 or 1.
    logits = kind(whole.inputs, whole.get_layer("logits").output)
    logits.compile(
        optimizer=_optimizer(chosen, layer_rates(whole, chosen, run_config.start)),
        loss=_loss(chosen, parts.train),
        metrics=[_accuracy(chosen, parts.train)],
    )
    why = choice.why if saved is None else "as saved"
    return Prepared(run_config, why, parts, record, skipped, preprocessing, whole, logits)


@contextmanager
def looking(parts: Parts, console: Console) -> Iterator[None]:
    """A progress bar for what goes through all images of a part, where they are streamed and it takes a while."""
    images: Images = parts.train.images
    if not isinstance(images, Streamed):
        yield
        return
    with closing(live(console)) as bar:
        images.store.progress = lambda done, total: bar.show("Looking at all images", done, total)
        try:
            yield
        finally:
            images.store.progress = None


def _network(
    model: str | architecture.NetworkSpec,
    train: Dataset,
    recipe: Recipe,
    changes: dict[str, Any],
    begin: Beginning | None,
) -> architecture.NetworkSpec:
    """The network, fitted to the data; the notebook's kind of decay is part of it, the paper's of the optimizer."""
    fitted = {
        "weight_decay": recipe.weight_decay if recipe.decay_on == "kernels" else 0.0,
        **changes,
        "input_shape": train.input_shape,
        "classes": train.classes,
        "activation": "sigmoid" if train.multi_label else "softmax",
    }
    if begin is not None:
        return transfer.network_of(begin.trained, model, fitted)
    return architecture.spec(model, **fitted)


def _label(model: str | architecture.NetworkSpec, saved: RunConfig | None, begin: Beginning | None) -> str:
    """What the network is called: a spec has no name, but a saved one keeps the name it was saved under."""
    if isinstance(model, str):
        return model
    if begin is not None and model is begin.trained.network:
        return begin.trained.name
    return saved.model if saved is not None and model is saved.network else "custom"


def _optimizer(recipe: Recipe, rates: dict[str, float]) -> keras.optimizers.Optimizer:
    shared: dict[str, Any] = {
        "learning_rate": recipe.learning_rate,
        "global_clipnorm": recipe.clip_norm,
        "gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None,
    }
    # Decay on kernels is a regulariser of the network, not the optimizer's.
    decay = recipe.weight_decay if recipe.decay_on == "all" else 0.0
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(weight_decay=decay, **shared)
    kind = Muon if recipe.optimizer == "muon" else CoupledSGD
    return kind(
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        coupled_decay=decay,
        beta_factor=recipe.beta_factor,
        layer_rates=rates,
        **shared,
    )


def _loss(recipe: Recipe, train: Dataset) -> CrossEntropy:
    return CrossEntropy(
        multi_label=train.multi_label,
        label_smoothing=recipe.label_smoothing,
        class_weights=data.class_weights(train).tolist() if recipe.class_weights else None,
    )


def _answers_right(truth: Any, logits: Any) -> Any:
    """Share of right answers, yes or no to each label; a mixed label is a yes from one half on."""
    return keras.ops.mean(keras.ops.cast(keras.ops.equal(truth >= 0.5, logits > 0), "float32"), axis=-1)


def _accuracy(recipe: Recipe, dataset: Dataset) -> keras.metrics.Metric:
    if dataset.multi_label:
        return keras.metrics.MeanMetricWrapper(_answers_right, name="accuracy")
    if recipe.mixes:
        # Of mixed images: whether the guess is the class with the greater share.
        return keras.metrics.CategoricalAccuracy(name="accuracy")
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")
