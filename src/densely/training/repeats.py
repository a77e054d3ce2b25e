"""Several trainings in one: more seeds, or cross-validation, so that a score comes with its spread.

runs/photos-1/
    seed-0/ seed-1/ …     or fold-1/ fold-2/ …, each a run folder of its own
    asked.json            what was asked for: the same again goes on in this folder
    summary.json          mean, standard deviation, least and greatest of every score
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from densely import runs
from densely.data import Dataset, Parts
from densely.errors import DenselyError, UsageError
from densely.evaluation import summarise
from densely.runs import Run
from densely.training.preparation import name_of
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
                lines.append(f"{title}  {100 * found['mean']:.2f}{spread} %  ({found['n']} runs, {between})")
        return "\n".join([*lines, f"Folder         {self.folder}"])


def repeat(
    source: str | Path | Dataset | Parts,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
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
        console: where to print.
        **options: as for `densely.train`.

    Raises:
        UsageError: for counts below 2, or both at once.
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
        raise UsageError("Give either seeds or folds, not both.")
    count = seeds or folds or 0
    if count < 2:
        raise UsageError(f"{'--seeds' if seeds is not None else '--folds'} must be at least 2, not {count}.")
    if folds is not None and tune:
        raise UsageError("--folds scores every image once already: leave --tune out.")
    claim.check(options.get("resume", "auto"))
    asked = {"data": name_of(source), "seeds": seeds, "folds": folds, "seed": seed, **_plain(options)}
    with ExitStack() as held:
        folder = _claim(out, asked, options.get("resume", "auto"), held)
        found = _train_all(folder, source, seeds, folds, seed, console, options)
        summary = summarise([run.metrics for run in found], "val" if tune else "test")
        runs.write_json(folder / "summary.json", summary)
    repeats = Repeats(folder, found, summary)
    console.print(f"\n{repeats}", markup=False, highlight=False, soft_wrap=True)
    return repeats


def _train_all(
    folder: Path,
    source: str | Path | Dataset | Parts,
    seeds: int | None,
    folds: int | None,
    seed: int,
    console: Console,
    options: dict[str, Any],
) -> list[Run]:
    found: list[Run] = []
    count = seeds or folds or 0
    try:
        for i in range(count):
            different: dict[str, Any] = {"seed": seed + i} if folds is None else {"seed": seed, "fold": (i + 1, folds)}
            part = f"seed-{seed + i}" if folds is None else f"fold-{i + 1}"
            console.print(f"\n{part}, {i + 1} of {count}", style="bold", highlight=False)
            found.append(train(source, out=folder / part, console=console, **different, **options))
    except DenselyError:
        # A wrong setting is told before the first run writes anything; then nothing stays behind.
        if not any(path.is_dir() for path in folder.iterdir()):
            for name in ("asked.json", ".lock"):
                (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
                Path("runs").rmdir()  # if that was all there was in it
        raise
    return found


def _claim(out: str | Path | None, asked: dict[str, Any], resume: str, held: ExitStack) -> Path:
    """The folder for all, this process's alone: new, or where the same was broken off."""
    if out is not None:
        folder = Path(out)
        claim.make(folder)
        if not claim.empty(folder) and (resume == "never" or _asked(folder) != asked):
            raise UsageError(f"{folder} already holds something else: choose another --out, or remove it first.")
        claim.lock(folder, held)
    else:
        name = runs.name_for(asked["data"])
        for folder in reversed(runs.numbered(name)) if resume == "auto" else ():
            # A damaged one, or one that another process is in, is passed over.
            with suppress(DenselyError):
                if _asked(folder) == asked and not (folder / "summary.json").is_file():
                    claim.lock(folder, held)
                    return folder
        folder = runs.create_numbered(name)
        claim.lock(folder, held)
    runs.write_json(folder / "asked.json", asked)
    return folder


def _asked(folder: Path) -> Any:
    path = folder / "asked.json"
    return runs.read_json(path) if path.is_file() else None


def _plain(options: dict[str, Any]) -> dict[str, str]:
    """Options as they can be compared; those that change no result are left out."""
    without = ("resume", "save_every", "live", "tensorboard", "report", "data_dir")
    return {key: str(value) for key, value in sorted(options.items()) if key not in without}
