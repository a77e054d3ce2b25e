"""What is started is ended again, whatever happens meanwhile."""

import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from densely.errors import DenselyError
from densely.training.distributed import launcher


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[subprocess.Popen[bytes]]]:
    """Processes that would sleep in place of trainings; something happens as the second is started."""

    def made(happens: Callable[[], object]) -> list[subprocess.Popen[bytes]]:
        started: list[subprocess.Popen[bytes]] = []

        def start(rank: int, *_: object) -> subprocess.Popen[bytes]:
            if rank == 1:
                happens()
            started.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
            return started[-1]

        monkeypatch.setattr(launcher, "_check", lambda count: None)
        monkeypatch.setattr(launcher, "_start", start)
        return started

    return made


def test_a_signal_while_they_start_goes_to_all(
    sleepers: Callable[[Callable[[], object]], list[subprocess.Popen[bytes]]],
) -> None:
    started = sleepers(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(DenselyError, match="ended by SIGINT"):
        launcher.launch(3, [], patience=5)
    assert [process.returncode for process in started] == [-signal.SIGINT] * 3


def test_where_one_cannot_be_started_none_is_left(
    sleepers: Callable[[Callable[[], object]], list[subprocess.Popen[bytes]]],
) -> None:
    def fails() -> None:
        raise OSError(11, "Resource temporarily unavailable")

    started = sleepers(fails)
    with pytest.raises(OSError, match="temporarily unavailable"):
        launcher.launch(3, [], patience=5)
    assert [process.wait(10) for process in started] == [-signal.SIGKILL]
