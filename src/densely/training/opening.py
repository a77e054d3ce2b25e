"""What is written and told before the first step: a new run, or one that goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from densely import runs
from densely.runs import Run
from densely.training.preparation import Prepared
from densely.training.resume import checkpoint
from densely.training.resume.checkpoint import Checkpoint


def open_run(
    folder: Path, prepared: Prepared, fingerprints: dict[str, str], console: Console
) -> tuple[Run, Checkpoint | None]:
    """The run in a folder, all that is known before the first step written into it; and where it was broken off.

    Args:
        folder: empty, or with this very training in it.
        prepared: the training.
        fingerprints: of its parts.
        console: told what is trained, and where it goes on.

    Returns:
        The run, and its newest checkpoint or None.
    """
    parts, config = prepared.parts, prepared.config
    inputs = runs.Inputs(
        class_names=parts.train.class_names,
        multi_label=parts.train.multi_label,
        input_shape=parts.train.input_shape,
        preprocessing=prepared.preprocessing.as_dict(),
    )
    run = Run(folder, config, inputs)
    if not (folder / "splits.json").is_file():
        runs.write_config(folder / "config.toml", config)
        runs.write_json(folder / "environment.json", runs.environment(config.seed))
        runs.write_json(folder / "inputs.json", inputs.model_dump())
        # The last of them: where it is, the others are too.
        splits = {"fingerprints": fingerprints, **prepared.record.as_dict(), "skipped": prepared.skipped}
        runs.write_json(folder / "splits.json", splits)
        _announce(console, run, prepared)
        return run, None
    _announce(console, run, prepared)
    start = checkpoint.newest(folder, lambda line: _tell(console, line))
    if (folder / "final.weights.h5").is_file():
        where = "where it was to be scored"
    elif start is None:
        where = "from its beginning: there is no whole checkpoint"
    else:
        where = checkpoint.reached(start.epoch, start.step)
    _tell(console, f"going on with it {where}")
    _note_new_environment(folder, config.seed, console)
    return run, start


def _note_new_environment(folder: Path, seed: int, console: Console) -> None:
    """Write down where the training goes on; another version or machine may round otherwise, which is told."""
    path = folder / "environment.json"
    before, now = runs.read_json(path), runs.environment(seed)
    with runs.reading(path):
        resumed = before.get("resumed", [])
        last = [before, *resumed][-1]
        changed = [
            f"{name} {last[kind].get(name)} then, {value} now"
            for kind in ("versions", "machine")
            for name, value in now[kind].items()
            if last[kind].get(name) != value
        ]
    if changed:
        _tell(console, f"not exactly what it would have been without a break: {'; '.join(changed)}")
    runs.write_json(path, {**before, "resumed": [*resumed, now]})


def _announce(console: Console, run: Run, prepared: Prepared) -> None:
    parts, recipe = prepared.parts, run.config.recipe
    counts = [f"{len(parts.train):,} to train"]
    if parts.val is not None:
        counts.append(f"{len(parts.val):,} to validate")
    if parts.test is not None:
        counts.append(f"{len(parts.test):,} to test")
    height, width, channels = parts.train.input_shape
    parameters = sum(int(np.prod(w.shape)) for w in prepared.network.trainable_weights)
    _tell(
        console,
        f"{run.config.data}: {', '.join(counts)}; {parts.train.classes} classes, {height}×{width}×{channels}\n"
        f"{run.config.model}: {parameters:,} parameters; {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"seed {run.config.seed}\nrecipe {recipe.name}: {prepared.why}\nrun folder: {run.folder}",
    )


def _tell(console: Console, line: str) -> None:
    """Print as it is: paths are neither markup nor wrapped."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)
