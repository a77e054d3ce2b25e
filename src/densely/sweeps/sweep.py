"""A sweep from its space to its page: what `densely sweep` does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from densely import runs
from densely.console import counted, tell
from densely.errors import DenselyError, UsageError, reason
from densely.files import write_whole
from densely.interruption import Interrupted, StopSignals
from densely.report.sweep_page import Axis, Trial, ranked, told
from densely.report.sweep_page import write as write_page
from densely.runs import Run
from densely.sweeps import space as spaces
from densely.sweeps import study as studies
from densely.sweeps import trial as trials
from densely.sweeps.space import Range, Space
from densely.sweeps.study import Pruner, Study
from densely.sweeps.trial import Epoch, Order, Result
from densely.training import cluster, pool
from densely.training.bars import Live, live
from densely.training.parts import name_of
from densely.training.preparation import prepare
from densely.training.resume import claim
from densely.training.resume.claim import Resume


@dataclass(frozen=True)
class Swept:
    """A sweep that came to its end.

    Attributes:
        folder: where its trials and `sweep.html` are.
        trials: the best first.
        score: what their values are, in words.
        command: trains the best one in full.
    """

    folder: Path
    trials: list[Trial]
    score: str
    command: str

    @property
    def best(self) -> Run:
        """The run of the best trial, scored on held-out training images."""
        return Run.open(self.folder / self.trials[0].name)


def sweep(
    space: str | Path | Space,
    source: str | Path,
    *,
    trials: int,
    jobs: int | None = None,
    ray: str | None = None,
    pruner: Pruner = "median",
    seed: int = 0,
    out: str | Path | None = None,
    limit: int | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    skip_bad: bool | None = None,
    data_dir: str | Path | None = None,
    resume: Resume = "auto",
    report: bool | None = None,
    console: Console | None = None,
) -> Swept:
    """Try settings on held-out training images, and tell the best: what `densely sweep` does.

    What was broken off goes on with the same call: trials that ended are not trained again, one that was under way is
    taken up at its checkpoint, and a greater `trials` adds to them.

    Args:
        space: the path of a `SPACE.toml` (`densely.sweeps.space`), or one that is read already.
        source: a built-in data set's name, a folder of class folders, or a CSV of labels.
        trials: how many in all, with those that the folder holds.
        jobs: trials at a time, each with its share of the threads; with `ray` of the cluster's processors (default: 1;
            with `ray` as many as the cluster has machines). With one at a time the same seed gives the same sweep; with
            several, which trials a new one learns from depends on when they end.
        ray: address of a Ray cluster of which this machine is part (`"auto"`, `"10.0.0.1:6379"`), or `"local"`, which
            starts one here. All its machines must reach the sweep's folder and the data under the same paths.
        pruner: which trials are ended early, see `densely.sweeps.study.Study`.
        seed: of what is drawn from the space, and of every trial.
        out: the sweep's folder; by default the newest `runs/NAME-sweep-N` in which the same was begun, else the next
            free one.
        limit, size, channels, skip_bad, data_dir: of the data, as for `densely.train`.
        resume: `"auto"`, or `"never"` to take only a folder that holds nothing.
        report: write each trial's own `report.html` (default: yes, unless `DENSELY_REPORT` is 0).
        console: where to print.

    Raises:
        UsageError: for a space, names or values that do not exist or do not fit; without Optuna, or Ray.
        DataError: for data that cannot be used.
        DenselyError: if no trial came to its end.
        Interrupted: (a `KeyboardInterrupt`) after SIGINT or SIGTERM; what was reached is on the disk.
    """
    console = console or Console()
    studies.check(pruner)
    if trials < 1:
        raise UsageError(f"--trials must be at least 1, not {trials}.")
    if jobs is not None:
        pool.check(jobs)
    if ray is not None:
        cluster.check(ray)
    claim.check(resume)
    written = Path(space).read_bytes() if isinstance(space, str | Path) and Path(space).is_file() else None
    space = space if isinstance(space, Space) else spaces.read(space)
    data: dict[str, Any] = {"limit": limit, "size": size, "channels": channels, "skip_bad": skip_bad}
    # Told before anything is written: what does not fit the data.
    config = prepare(
        source, tune=True, seed=seed, data_dir=data_dir, console=console, **data, **spaces.arguments(space.corner)
    ).config
    multi_label = config.network.activation == "sigmoid"
    score = f"held-out {'mAP' if multi_label else 'accuracy'}"
    asked = {"data": name_of(source), "space": space.plain, "seed": seed, "pruner": pruner, **data}
    asked["size"] = None if size is None else list(size)
    options = {
        "seed": seed,
        "data_dir": None if data_dir is None else str(Path(os.path.expanduser(data_dir)).resolve()),
        "report": report,
        **data,
    }
    with ExitStack() as held:
        folder = claim.folder_for(out, f"{runs.name_for(config.data)}-sweep", asked, resume, held)
        if written is not None:
            write_whole(folder / "space.toml", lambda aside: aside.write_bytes(written))
        study = held.enter_context(closing(Study(folder / "sweep.db", space, seed, pruner)))
        tell(console, f"sweep folder: {folder}")
        try:
            with StopSignals():
                _run(study, folder.resolve(), name_of(source), options, trials, jobs, ray, console)
                found = ranked(study.trials())
                if found[0].value is None:
                    raise DenselyError(f"No trial came to its end. {_why_not(found)}")
                swept = Swept(folder, found, score, _write_best(folder, found[0], data_dir))
                _write_page(swept, study, config.data_name)
        except Interrupted as stop:
            ended = sum(one.state != "running" for one in study.trials())
            raise Interrupted(stop.signal, folder, f"after {ended} of {counted(trials, 'trial')}") from None
    return swept


def _run(
    study: Study,
    folder: Path,
    source: str,
    options: dict[str, Any],
    most: int,
    jobs: int | None,
    ray: str | None,
    console: Console,
) -> None:
    """Run what is left of the trials."""

    def orders() -> Iterator[tuple[int, tuple[Order]]]:
        for number, settings in study.begin(most):
            yield number, (Order(source, folder / f"trial-{number:04d}", settings, options),)

    with closing(live(console)) as bar:

        def judge(number: int, epoch: Epoch) -> bool:
            bar.show(
                "Trials", ended, most, f"trial {number}, epoch {epoch.number}/{epoch.of}: {100 * epoch.value:.2f} %"
            )
            return study.judge(number, epoch)

        ended = sum(one.state != "running" for one in study.trials())
        if ray is None:
            running = pool.run(orders(), trials.run, judge, jobs or 1)
        else:
            running = cluster.run(orders(), trials.run, judge, jobs, ray)
        with closing(running):
            for number, outcome in running:
                ended += 1
                if outcome.error is None:
                    result: Result = outcome.value
                    study.end(number, value=result.value, seconds=result.seconds)
                else:
                    study.end(number, failed=str(outcome.error) or reason(outcome.error))
                _tell(bar, study.trials(), number)


def _tell(bar: Live, known: list[Trial], number: int) -> None:
    """A line for a trial that has ended."""
    trial = known[number]
    settings = {name: told(value) for name, value in trial.settings.items()}
    if trial.value is not None:
        best = all(one.value is None or one.value < trial.value for one in known if one is not trial)
        how = f"{100 * trial.value:.2f} %{', the best so far' if best else ''}"
    elif trial.state == "failed":
        how = f"failed: {trial.reason}"
    else:
        how = f"ended early at {100 * trial.curve[-1][1]:.2f} %, after {trial.progress} epochs"
    words = "  ".join(f"{name} {value}" for name, value in settings.items())
    bar.keep(f"trial {number}  {how}  ({words})", {"trial": str(number), "score": how, **settings})


def _why_not(found: list[Trial]) -> str:
    reasons = [one.reason for one in sorted(found, key=lambda one: one.number) if one.reason]
    return (
        f"The first of {len(reasons)} failures: {reasons[0]}" if reasons else "All were ended early: try --pruner none."
    )


def _write_best(folder: Path, best: Trial, data_dir: str | Path | None) -> str:
    """Write the config that trains the best trial in full; the command that does."""
    config = Run.open(folder / best.name).config
    recipe = config.recipe.model_copy(
        update={
            "validate_on_test": False,
            # Held out to compare: now they are trained on too, unless the training itself needs some to stop by.
            "val_fraction": config.recipe.val_fraction if config.recipe.early_stop is not None else 0.0,
        }
    )
    runs.write_config(folder / "best.toml", config.model_copy(update={"tune": False, "recipe": recipe}))
    where = [] if data_dir is None else ["--data-dir", str(data_dir)]
    return shlex.join(["densely", "train", "--config", str(folder / "best.toml"), *where])


def _write_page(swept: Swept, study: Study, data: str) -> None:
    write_page(
        swept.folder,
        study.trials(),
        [
            Axis(name, log=one.log) if isinstance(one, Range) else Axis(name, choices=one)
            for name, one in study.space.searched.items()
        ],
        data=data,
        score=swept.score,
        importances=study.importances(),
        fixed=study.space.fixed,
        command=swept.command,
    )
