"""`densely` in a process of its own that need not import PyTorch and Keras first, most of what a short command takes.

Python's own fork server imports them once; each command is a fork of it: a real process with its own memory, signals
and exit code. What is about the start itself, or about the engine, starts `python -m densely`.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

_FORKS = multiprocessing.get_context("forkserver")
# Not the command line: it asks for the terminal's width when it is imported, which a test may set.
_FORKS.set_forkserver_preload(["densely.training.single", "sklearn.datasets"])


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A command that runs; as a context it is killed at the end if it still does.

    Attributes:
        pid: of its process.

    Args:
        *words: of the command line, after `densely`.
        cwd: where it runs.
        script: a Python program that is run instead of `densely`, with these words.
        env: variables beside those of the tests.
    """

    def __init__(
        self, *words: object, cwd: Path | None = None, script: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._said = TemporaryDirectory()
        self._process = _FORKS.Process(
            target=_run, args=([*map(str, words)], cwd, script, {**os.environ, **(env or {})}, self._said.name)
        )
        self._process.start()
        self.pid = self._process.pid

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._said.cleanup()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._read("stdout")

    def _read(self, name: str) -> str:
        with suppress(FileNotFoundError):  # it has not begun
            return Path(self._said.name, name).read_text()
        return ""

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait_until(self, condition: Callable[[], object], timeout: float = 120) -> None:
        """Wait while it runs, until something is so; it must not end before."""
        end = time.monotonic() + timeout
        while not condition():
            assert self.running, self._read("stdout") + self._read("stderr")
            assert time.monotonic() < end, f"waited {timeout} s: {self._read('stdout')}"
            time.sleep(0.01)

    def wait(self, timeout: float = 300) -> Done:
        """How it ends. The exit code of one that a signal has ended is minus the signal's number."""
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired("densely", timeout, self._read("stdout"), self._read("stderr"))
        return Done(self._process.exitcode, self._read("stdout"), self._read("stderr"))


def densely(*words: object, cwd: Path | None = None, script: Path | None = None, **env: str) -> Done:
    """Run a command to its end."""
    with Command(*words, cwd=cwd, script=script, env=env) as command:
        return command.wait()


def _run(words: list[str], cwd: Path | None, script: Path | None, env: dict[str, str], said: str) -> None:
    for number, name in enumerate((os.devnull, f"{said}/stdout", f"{said}/stderr")):
        file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0)  # multiprocessing has closed it
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd or Path.cwd())
    sys.argv = [str(script or "densely"), *words]
    if script:
        runpy.run_path(str(script), run_name="__main__")
    else:
        runpy.run_module("densely", run_name="__main__", alter_sys=True)
