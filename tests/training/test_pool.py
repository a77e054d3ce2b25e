"""The pool in real processes: what they return, ask, die of, and what becomes of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pooling
import pytest
import torch

from densely.errors import DenselyError, UsageError
from densely.training import pool


def until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("waited a minute in vain")


def there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_ends_in_one_process_ends_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    todo = [(what, (what,)) for what in ("fail", "die", "ask", "done")]
    found = dict(pool.run(todo, pooling.work, lambda key, question: (key, question), jobs=2))
    assert list(found["done"]) == ["done", None]
    answer, threads, process = found["ask"].value
    assert answer == ("ask", "how many?")
    assert threads == 2
    assert process != os.getpid()
    assert str(found["fail"].error) == "Unexpected ZeroDivisionError: by nought"
    assert isinstance(found["die"].error, DenselyError)
    assert "was killed" in str(found["die"].error)


def test_one_at_a_time_it_stays_in_this_process() -> None:
    done, failed = pool.run([(1, ("ask",)), (2, ("fail",))], pooling.work, lambda key, question: key, jobs=1)
    assert done[1].value == (1, torch.get_num_threads(), os.getpid())
    assert isinstance(failed[1].error, ZeroDivisionError)


def test_closed_it_asks_its_processes_to_end_and_waits(tmp_path: Path) -> None:
    file = tmp_path / "0.txt"

    def tasks() -> object:
        yield 0, (file,)
        until(file.with_suffix(".pid").is_file)
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        closing(pool.run(tasks(), pooling.wait_for_a_signal, lambda key, question: None, jobs=2)) as running,
    ):
        next(running)
    assert file.read_text() == str(signal.SIGTERM.value)


def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, Path(pooling.__file__), str(tmp_path)])
    until(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    parent.kill()
    parent.wait()
    children = [int(file.read_text()) for file in tmp_path.glob("*.pid")]
    until(lambda: not any(map(there, children)))
    assert [file.read_text() for file in sorted(tmp_path.glob("*.txt"))] == [str(signal.SIGTERM.value)] * 2


def test_no_jobs_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="--jobs must be at least 1, not 0"):
        pool.check(0)
