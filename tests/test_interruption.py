"""The first signal asks, the second ends."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import FrameType

import pytest

from densely.interruption import Interrupted, StopSignals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_raises_at_once(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with StopSignals(), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) == before


def test_deferred_it_is_only_noted() -> None:
    with StopSignals() as signals, signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM


def test_an_import_is_brought_to_its_end_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outer_one.py").write_text("import inner_one\nfinished = True\n")
    (tmp_path / "inner_one.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nfinished = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def work() -> None:
        import outer_one  # noqa: F401

        pytest.fail("It went on.")

    with StopSignals(), pytest.raises(Interrupted):
        work()
    assert sys.modules["outer_one"].finished and sys.modules["inner_one"].finished


def test_it_is_raised_in_the_block_that_the_import_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "only_one.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted), StopSignals():
        import only_one  # noqa: F401
    assert signal.getsignal(signal.SIGINT) == before


def test_before_anything_has_begun_an_import_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(600)\n"
    )
    (tmp_path / "loading.py").write_text("def work():\n    import endless\n")
    code = """
import signal
from densely.interruption import StopSignals
from loading import work
with StopSignals([signal.SIGINT], loaders="load"):
    work()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "densely: interrupted.\n")


def test_a_debugger_goes_on_tracing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "traced_one.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    monkeypatch.syspath_prepend(tmp_path)
    before, seen = sys.gettrace(), []

    def debugger(frame: FrameType, event: str, argument: object) -> None:
        seen.append(frame.f_code.co_name)

    def work() -> None:
        import traced_one  # noqa: F401

        pytest.fail("It went on.")

    def afterwards() -> None:
        pass

    sys.settrace(debugger)
    try:
        with pytest.raises(Interrupted), StopSignals():
            work()
        afterwards()
    finally:
        sys.settrace(before)
    assert "afterwards" in seen


def test_where_the_importer_has_nothing_more_to_do_it_is_raised_as_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last_one.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\nfinished = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    with StopSignals(), pytest.raises(Interrupted) as caught:
        importlib.import_module("last_one")
    assert caught.value.exit_code == 143
    assert sys.modules["last_one"].finished


def test_a_second_one_ends_the_process_at_once() -> None:
    code = """
import os, signal
from densely.interruption import StopSignals
with StopSignals() as signals, signals.deferred():
    os.kill(os.getpid(), signal.SIGINT)
    print("asked", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (143, "asked\n")


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[object] = []

    def work() -> None:
        with StopSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_whose_exception_python_drops_is_raised_by_the_next() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals([signal.SIGINT]) as outer:
        watched = weakref.ref(dying := type("Dying", (), {})(), lambda _: os.kill(os.getpid(), signal.SIGINT))
        del dying
        assert watched() is None
        assert outer.received == signal.SIGINT
        with pytest.raises(Interrupted), StopSignals():
            pytest.fail("It went on.")
    assert signal.getsignal(signal.SIGINT) == before
