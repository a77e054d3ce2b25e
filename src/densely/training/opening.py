"""What is written and told before the first step: a new run, or one that goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from densely import fused, runs
from densely.console import counted, tell
from densely.machine import environment
from densely.runs import Run, Start
from densely.training.preparation import Prepared
from densely.training.resume import checkpoint
from densely.training.resume.checkpoint import Checkpoint


def open_run(
    folder: Path, prepared: Prepared, fingerprints: dict[str, str], console: Console, processes: int = 1
) -> tuple[Run, Checkpoint | None]:
    """The run in a folder, all that is known before the first step written into it; and where it was broken off.

    Args:
        folder: empty, or with this very training in it.
        prepared: the training.
        fingerprints: of its parts.
        console: told what is trained, and where it goes on.
        processes: that share it.

    Returns:
        The run, and its newest checkpoint or None.
    """
    config, run = prepared.config, run_of(folder, prepared)
    if not (folder / "splits.json").is_file():
        runs.write_config(folder / "config.toml", config)
        place = environment(config.seed, dense_block=_dense_block(prepared, console), processes=processes)
        runs.write_json(folder / "environment.json", place)
        runs.write_json(folder / "inputs.json", run.inputs.model_dump())
        # The last of them: where it is, the others are too.
        splits = {"fingerprints": fingerprints, **prepared.record.as_dict(), "skipped": prepared.skipped}
        runs.write_json(folder / "splits.json", splits)
        _announce(console, run, prepared, processes)
        return run, None
    _announce(console, run, prepared, processes)
    start = checkpoint.newest(folder, lambda line: tell(console, line))
    if (folder / "final.weights.h5").is_file():
        where = "where it was to be scored"
    elif start is None:
        where = "from its beginning: there is no whole checkpoint"
    else:
        where = checkpoint.reached(start.epoch, start.step)
    tell(console, f"going on with it {where}")
    _note_new_environment(folder, prepared, console, processes)
    return run, start


def run_of(folder: Path, prepared: Prepared) -> Run:
    """The run that a training will be; nothing is written."""
    parts = prepared.parts
    inputs = runs.Inputs(
        class_names=parts.train.class_names,
        multi_label=parts.train.multi_label,
        input_shape=parts.train.input_shape,
        preprocessing=prepared.preprocessing.as_dict(),
    )
    return Run(folder, prepared.config, inputs)


def _dense_block(prepared: Prepared, console: Console) -> str:
    """What the dense blocks run on; a user waits for a compiler with a sentence to read."""
    return fused.explain(prepared.config.recipe.precision, lambda line: tell(console, line))


def _note_new_environment(folder: Path, prepared: Prepared, console: Console, processes: int) -> None:
    """Write down where the training goes on; another version or machine may round otherwise, which is told."""
    path = folder / "environment.json"
    before = runs.read_json(path)
    block = _dense_block(prepared, console)
    now = environment(prepared.config.seed, dense_block=block, processes=processes)
    with runs.reading(path):
        resumed = before.get("resumed", [])
        last = [before, *resumed][-1]
        changed = [
            f"{name} {last[kind].get(name)} then, {value} now"
            for kind in ("versions", "machine")
            for name, value in now[kind].items()
            if last[kind].get(name, 1 if name == "processes" else None) != value
        ]
    if changed:
        tell(console, f"not exactly what it would have been without a break: {'; '.join(changed)}")
    runs.write_json(path, {**before, "resumed": [*resumed, now]})


def _announce(console: Console, run: Run, prepared: Prepared, processes: int) -> None:
    parts, recipe = prepared.parts, run.config.recipe
    counts = [f"{len(parts.train):,} to train"]
    if parts.val is not None:
        counts.append(f"{len(parts.val):,} to validate")
    if parts.test is not None:
        counts.append(f"{len(parts.test):,} to test")
    height, width, channels = parts.train.input_shape
    parameters = sum(int(np.prod(w.shape)) for w in prepared.network.trainable_weights)
    start = run.config.start
    lines = [
        f"{run.config.data}: {', '.join(counts)}; {counted(parts.train.classes, 'class')}, {height}×{width}×{channels}",
        f"{run.config.model}: {parameters:,} parameters{' to train' if start is not None and start.freeze else ''}; "
        f"{counted(recipe.epochs, 'epoch')}, batch {recipe.batch_size}, seed {run.config.seed}",
        *([f"weights: {start.weights}, {_treated(start)}"] if start is not None else []),
        f"recipe {recipe.name}: {prepared.why}",
        *([f"on {processes} processes, {_normalised(run)}"] if processes > 1 else []),
        f"run folder: {run.folder}",
    ]
    tell(console, "\n".join(lines))


def _normalised(run: Run) -> str:
    """Over what batch normalisation goes, where several processes share a batch."""
    return "batch normalisation over the whole batch" if run.config.sync_bn else "each normalises its part of a batch"


def _treated(start: Start) -> str:
    """What a training does with the weights that it starts from."""
    told = ["with a new classifier" if start.new_head else "classifier and all"]
    if start.freeze is not None:
        told.append(f"frozen up to {start.freeze}")
    if start.stage_rates != 1:
        told.append(f"each stage at {start.stage_rates:g} times the rate of the next")
    return ", ".join(told)
