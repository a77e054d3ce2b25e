"""The trials of a sweep in `sweep.db`, by Optuna: what to try next, what to end early, what was found.

Only the process that runs the sweep opens the file. What is drawn for a trial follows from the sweep's seed, the
trial's number and the trials before it, so that a sweep that was broken off draws what it would have drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from densely.errors import DataError, UsageError, reason
from densely.report.sweep_page import Trial

if TYPE_CHECKING:
    import optuna

    from densely.sweeps.space import Space
    from densely.sweeps.trial import Epoch

Pruner = Literal["median", "hyperband", "none"]
SPARED = 0.25
"""Of its epochs a trial is given this share before it may be ended: the first ones tell little."""
_REASON, _SECONDS, _EPOCHS = "reason", "seconds", "epochs"
#: Seconds that SQLite waits for a reader: somebody may look at the file with a tool of Optuna's.
_WAITING: dict[str, Any] = {"connect_args": {"timeout": 60}}


def check(pruner: str) -> None:
    """Refuse a sweep that could not begin.

    Raises:
        UsageError: without Optuna, or for a pruner that there is not.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise UsageError("A sweep needs Optuna: pip install 'densely[sweep]'.") from None
    if pruner not in get_args(Pruner):
        raise UsageError(f"--pruner is median, hyperband or none, not {pruner!r}.")


class Study:
    """The trials of one sweep.

    Args:
        path: of `sweep.db`, made if it is not there.
        space: what is tried.
        seed: of what is drawn.
        pruner: which trials are ended early: `"median"`, those whose best epoch so far is below the median of the
            others at that epoch, once five have come to their end; `"hyperband"` (Li et al. 2018); `"none"`.

    Raises:
        DataError: if the file is damaged, or cannot be made.
    """

    def __init__(self, path: Path, space: Space, seed: int, pruner: Pruner) -> None:
        import optuna
        from sqlalchemy import URL

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.path, self.space, self.seed = path, space, seed
        made: dict[str, optuna.pruners.BasePruner] = {
            "median": optuna.pruners.MedianPruner(),
            "hyperband": optuna.pruners.HyperbandPruner(),
            "none": optuna.pruners.NopPruner(),
        }
        with self._reading():
            url = URL.create("sqlite", database=str(path)).render_as_string()
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs=_WAITING)
            self.study = optuna.create_study(
                storage=self._storage,
                study_name="sweep",
                direction="maximize",
                pruner=made[pruner],
                load_if_exists=True,
            )
        self._open: dict[int, optuna.Trial] = {}

    def begin(self, most: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """The trials to run, one after the other: first those that were broken off, then new ones, `most` in all.

        Yields:
            A trial's number and its settings.
        """
        import optuna

        with self._reading():
            broken_off = self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
        for one in broken_off:
            yield self._settings(optuna.Trial(self.study, one._trial_id))
        while len(self.study.get_trials(deepcopy=False)) < most:
            with self._reading():
                self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
                asked = self.study.ask()
            yield self._settings(asked)

    def judge(self, number: int, epoch: Epoch) -> bool:
        """Whether to end a trial here, after an epoch of it."""
        trial = self._open[number]
        with self._reading(), warnings.catch_warnings():
            # Told again by a training that goes on from a checkpoint before it.
            warnings.filterwarnings("ignore", "The reported value is ignored")
            trial.report(epoch.value, epoch.number)
            trial.set_user_attr(_EPOCHS, epoch.of)
            spared = epoch.number < SPARED * epoch.of or epoch.number == epoch.of
            return not spared and trial.should_prune()

    def end(self, number: int, *, value: float | None = None, seconds: float = 0.0, failed: str | None = None) -> None:
        """Write down how a trial ended: with a score, early (neither score nor reason), or failed."""
        from optuna.trial import TrialState

        trial = self._open.pop(number)
        with self._reading():
            trial.set_user_attr(_SECONDS, seconds)
            if failed is not None:
                trial.set_user_attr(_REASON, failed)
                self.study.tell(trial, state=TrialState.FAIL)
            elif value is None:
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, value)

    def trials(self) -> list[Trial]:
        """All that were begun, in their order."""
        states = {"COMPLETE": "done", "PRUNED": "ended early", "FAIL": "failed"}
        with self._reading():
            return [
                Trial(
                    number=one.number,
                    state=states.get(one.state.name, "running"),
                    value=one.value if one.state.name == "COMPLETE" else None,
                    settings=dict(one.params),
                    curve=sorted(one.intermediate_values.items()),
                    epochs=one.user_attrs.get(_EPOCHS),
                    seconds=one.user_attrs.get(_SECONDS, 0.0),
                    reason=one.user_attrs.get(_REASON, ""),
                )
                for one in self.study.get_trials()
            ]

    def importances(self) -> dict[str, float]:
        """How much of the scores' variance each setting explains (fANOVA, Hutter et al. 2014), the most first.

        Returns:
            Shares that sum to 1; nothing where fewer than four trials came to their end, or all scores are the same.
        """
        import optuna

        done = [one.value for one in self.trials() if one.value is not None]
        if len(done) < 4 or len(set(done)) == 1:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=self.seed)
        with self._reading():
            return optuna.importance.get_param_importances(self.study, evaluator=evaluator)

    def close(self) -> None:
        """Let go of the file."""
        self._storage.remove_session()

    def _settings(self, trial: optuna.Trial) -> tuple[int, dict[str, Any]]:
        self.study.sampler = self._sampler(trial.number)
        with self._reading():
            settings = self.space.suggest(trial)
        self._open[trial.number] = trial
        return trial.number, settings

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        import optuna

        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=seed)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError, RuntimeError) as error:
            told = error.__cause__ or error
            raise DataError(f"{self.path} cannot be read or written: {reason(told)}") from None
