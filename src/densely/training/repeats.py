"""Several trainings in one: more seeds, or cross-validation, so that a score comes with its spread.

runs/photos-1/
    seed-0/ seed-1/ …     or fold-1/ fold-2/ …, each a run folder of its own
    asked.json            what was asked for: the same again goes on in this folder
    summary.json          mean, standard deviation, least and greatest of every score
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from densely import runs
from densely.console import counted, tell
from densely.data import Dataset, Parts
from densely.errors import DenselyError, UsageError
from densely.evaluation import summarise
from densely.interruption import Interrupted, StopSignals
from densely.runs import Run
from densely.training import pool
from densely.training.parts import name_of
from densely.training.resume import claim
from densely.training.single import train


@dataclass(frozen=True)
class Repeats:
    """Several finished runs.

    Attributes:
        folder: where they and `summary.json` are.
        runs: one a seed or fold.
        summary: a score's name to its mean, sample standard deviation (`None` for one run), n, least and greatest.
    """

    folder: Path
    runs: list[Run]
    summary: dict[str, dict[str, Any]]

    def __repr__(self) -> str:
        part = "Val." if self.runs[0].config.tune else "Test"
        lines = []
        for name in ("accuracy", "balanced_accuracy", "mean_average_precision"):
            if name in self.summary:
                found = self.summary[name]
                spread = "" if found["std"] is None else f" ± {100 * found['std']:.2f}"
                between = f"{100 * found['min']:.2f} to {100 * found['max']:.2f}"
                title = f"{part} {name.replace('_', ' ')}"
                lines.append(f"{title}  {100 * found['mean']:.2f}{spread} %  ({counted(found['n'], 'run')}, {between})")
        return "\n".join([*lines, f"Folder         {self.folder}"])


def repeat(
    source: str | Path | Dataset | Parts,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    jobs: int = 1,
    console: Console | None = None,
    **options: Any,
) -> Repeats:
    """Train several times, once a seed or once a fold: what `densely train --seeds N` and `--folds K` do.

    With seeds, every run is scored on the same test part. With folds (cross-validation), the training data (and
    the source's validation part, if it has one) are divided in K, each class in proportion; each run trains on the
    others and is scored on its fold, so every image is a test image once. A test part that the source has of its own
    is then not looked at.

    Args:
        source: as `densely.train` takes it.
        seeds: how many runs, with the seeds `seed`, `seed + 1`, …
        folds: K.
        seed: of the first run; of all of them with folds (default: a saved config's, else 0).
        out: the folder for all; by default the newest `runs/NAME-N` in which the same was broken off, else the next
            free one.
        jobs: so many trainings at a time, each in a process with its share of the threads. Scores do not depend on it
            but for the last bits of a sum, which the number of threads decides (docs/reliability.md).
        console: where to print.
        **options: as for `densely.train`.

    Raises:
        UsageError: for counts below 2, both at once, or a live page of several trainings at a time.
        DataError: if a class has fewer images than folds.
    """
    console = console or Console()
    tune = options.get("tune")
    if options.get("config") is not None:
        saved = options["config"] = runs.read_config(options["config"])
        seed = saved.seed if seed is None else seed
        tune = saved.tune if tune is None else tune
    seed = seed or 0
    if (seeds is None) == (folds is None):
        raise UsageError("Give either seeds or folds: how many trainings, with other seeds or on other parts.")
    count = seeds or folds or 0
    if count < 2:
        raise UsageError(f"{'--seeds' if seeds is not None else '--folds'} must be at least 2, not {count}.")
    if folds is not None and tune:
        raise UsageError("--folds scores every image once already: leave --tune out.")
    claim.check(options.get("resume", "auto"))
    pool.check(jobs)
    if jobs > 1 and options.get("live"):
        raise UsageError("A live page follows one training: leave --live out, or --jobs.")
    asked = {"data": name_of(source), "seeds": seeds, "folds": folds, "seed": seed, **_plain(options)}
    with ExitStack() as held:
        folder = claim.folder_for(
            out, runs.name_for(name_of(source)), asked, options.get("resume", "auto"), held, end="summary.json"
        )
        found = _train_all(folder, source, seeds, folds, seed, jobs, console, options)
        summary = summarise([run.metrics for run in found], found[0].config.scored)
        runs.write_json(folder / "summary.json", summary)
    repeats = Repeats(folder, found, summary)
    tell(console, f"\n{repeats}")
    return repeats


def _train_all(
    folder: Path,
    source: str | Path | Dataset | Parts,
    seeds: int | None,
    folds: int | None,
    seed: int,
    jobs: int,
    console: Console,
    options: dict[str, Any],
) -> list[Run]:
    each: dict[str, dict[str, Any]]
    if folds is None:
        each = {f"seed-{one}": {"seed": one} for one in range(seed, seed + (seeds or 0))}
    else:
        each = {f"fold-{i}": {"seed": seed, "fold": (i, folds)} for i in range(1, folds + 1)}

    def tasks() -> Iterator[tuple[str, tuple[Any, ...]]]:
        for number, (part, different) in enumerate(each.items(), start=1):
            tell(console, f"\n{part}, {number} of {len(each)}", style="bold")
            # A console cannot go to another process, where it could only be in the way of the others.
            yield part, (source, folder / part, console if jobs == 1 else None, {**options, **different})

    try:
        # Alone, a training listens to the signals itself.
        with (
            nullcontext() if jobs == 1 else StopSignals(),
            closing(pool.run(tasks(), _train_one, lambda part, question: None, jobs)) as ended,
        ):
            for part, outcome in ended:
                if outcome.error is not None:
                    raise outcome.error
                if jobs > 1:
                    run = Run.open(folder / part)
                    tell(console, f"\n{part}\n{run}")
    except Interrupted as stop:
        raise Interrupted(stop.signal, stop.folder or folder, stop.where) from None
    except DenselyError:
        # A wrong setting is told before the first run writes anything; then nothing stays behind.
        if not any(path.is_dir() for path in folder.iterdir()):
            for name in ("asked.json", ".lock"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
                Path("runs").rmdir()  # if that was all there was in it
        raise
    return [Run.open(folder / part) for part in each]


def _train_one(
    ask: pool.Ask,
    source: str | Path | Dataset | Parts,
    folder: Path,
    console: Console | None,
    options: dict[str, Any],
) -> None:
    train(source, out=folder, console=console or Console(quiet=True), **options)


def _plain(options: dict[str, Any]) -> dict[str, str]:
    """Options as they can be compared; those that change no result are left out."""
    without = ("resume", "save_every", "live", "tensorboard", "report", "data_dir", "cache", "workers", "callbacks")
    return {key: str(value) for key, value in sorted(options.items()) if key not in without}
