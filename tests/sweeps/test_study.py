"""What is tried next, and what is ended early; no training."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from densely.errors import DataError, UsageError
from densely.sweeps import study as studies
from densely.sweeps.space import parse
from densely.sweeps.study import Study
from densely.sweeps.trial import Epoch

SPACE = parse({"learning_rate": {"low": 0.001, "high": 1.0, "log": True}, "optimizer": ["sgd", "muon"]})


def score(settings: dict[str, object]) -> float:
    """Best at a rate of 0.1, whatever the optimizer."""
    return 1 - abs(np.log10(float(str(settings["learning_rate"]))) + 1) / 3


def test_a_study_that_is_opened_again_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    def run(path: Path, counts: list[int]) -> list[tuple[object, ...]]:
        for count in counts:
            with closing(Study(path, SPACE, 7, "median")) as study:
                for number, settings in study.begin(count):
                    study.end(number, value=score(settings))
                found = [(t.number, t.value, *t.settings.values()) for t in study.trials()]
        return found

    # Ten are drawn by chance; the last two lean on those before them.
    whole = run(tmp_path / "whole.db", [12])
    assert run(tmp_path / "parts.db", [3, 11, 12]) == whole
    assert len({row[2] for row in whole}) == 12


def test_a_trial_that_was_broken_off_comes_first_with_its_own_settings(tmp_path: Path) -> None:
    with closing(Study(tmp_path / "sweep.db", SPACE, 0, "none")) as study:
        number, settings = next(study.begin(3))
        assert study.judge(number, Epoch(1, 4, 0.5)) is False
    with closing(Study(tmp_path / "sweep.db", SPACE, 0, "none")) as study:
        rest = study.begin(2)
        assert next(rest) == (number, settings)
        study.judge(number, Epoch(1, 4, 0.5))  # told again after a checkpoint before it
        study.end(number, failed="a reason")
        assert next(rest)[0] == 1
        assert [(t.state, t.reason) for t in study.trials()] == [("failed", "a reason"), ("running", "")]


def test_below_the_median_of_five_a_trial_ends_after_a_quarter_of_its_epochs(tmp_path: Path) -> None:
    with closing(Study(tmp_path / "sweep.db", SPACE, 0, "median")) as study:
        trials = study.begin(7)
        for value in (0.1, 0.2, 0.3, 0.4, 0.5):
            number, _ = next(trials)
            for epoch in range(1, 9):
                assert not study.judge(number, Epoch(epoch, 8, value))
            study.end(number, value=value)
        low, _ = next(trials)
        assert [study.judge(low, Epoch(epoch, 8, 0.29)) for epoch in (1, 2)] == [False, True]
        study.end(low)
        high, _ = next(trials)
        assert not any(study.judge(high, Epoch(epoch, 8, 0.31)) for epoch in range(1, 9))
        study.end(high, value=0.31)
        assert [t.state for t in study.trials()] == ["done"] * 5 + ["ended early", "done"]


def test_what_mattered_is_what_the_score_hangs_on(tmp_path: Path) -> None:
    with closing(Study(tmp_path / "sweep.db", SPACE, 0, "none")) as study:
        for number, settings in study.begin(12):
            assert number > 3 or study.importances() == {}
            study.end(number, value=score(settings))
        shares = study.importances()
    assert list(shares) == ["learning_rate", "optimizer"]
    assert shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "sweep.db").write_bytes(b"no database at all, but long enough to look at" * 30)
    with pytest.raises(DataError, match=r"sweep\.db cannot be read or written"):
        Study(tmp_path / "sweep.db", SPACE, 0, "median")


def test_a_pruner_that_there_is_not_is_told() -> None:
    with pytest.raises(UsageError, match="median, hyperband or none, not 'mean'"):
        studies.check("mean")


def test_without_optuna_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'densely\[sweep\]'"):
        studies.check("median")
