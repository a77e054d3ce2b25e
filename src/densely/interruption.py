"""Ctrl-C and the kill command: what is being done is brought to a good end first."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A training ended by a signal.

    Attributes:
        signal: its number.
        exit_code: what the shell expects of a process that ends so.
        folder: where it can go on from, if it came so far.
        where: how far it came, in words, where that is known.
    """

    def __init__(self, number: int, folder: Path | None = None, where: str = "") -> None:
        super().__init__(" ".join(filter(None, ("Interrupted", where))) + ".")
        self.signal = number
        self.exit_code = 128 + number
        self.folder = folder
        self.where = where


class StopSignals:
    """Turns the first SIGINT or SIGTERM into `Interrupted`; a second one ends the process at once.

    Inside `deferred()` nothing is raised: `received` has the signal's number, and whoever looks at it raises. Python
    lets only the main thread handle signals; elsewhere this does nothing.

    In the middle of an import nothing is raised either: code in C that imports something may end the process for it,
    and a module half imported breaks what comes later. It is raised as soon as the import is done.

    One inside another raises what the outer one has received: an exception that rises in a callback, of a weak
    reference say, is dropped by Python, and the signal would have been for nothing.

    Args:
        numbers: of the signals.
        loaders: what the names of modules begin with that import before they begin anything: while they do, a signal
            ends the process at once. Default: there are none.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = SIGNALS, loaders: str | None = None) -> None:
        self.numbers = numbers
        self.loaders = loaders
        self.received: int | None = None
        self._deferring = False
        self._before: dict[int, Any] = {}
        self._entered_from: FrameType | None = None
        self._traced_by: Any = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in self.numbers:
                outer = getattr(signal.getsignal(number), "__self__", None)
                if isinstance(outer, StopSignals) and outer.received is not None:
                    raise Interrupted(outer.received)
            self._entered_from = sys._getframe(1)
            try:
                for number in self.numbers:
                    self._before[number] = signal.signal(number, self._handle)
            except Interrupted:  # by the first signal, before the second has its handler
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._entered_from = None
        if self._traced_by is not None:
            sys.settrace(self._traced_by)
            self._traced_by = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only noted."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            _end_at_once(number)
        self.received = number
        if self._deferring:
            return
        if importing := self._importing(frame):
            if self.loaders is not None and str(importing.f_globals["__name__"]).startswith(self.loaders):
                os.write(sys.stderr.fileno(), b"densely: interrupted.\n")
                _end_at_once(number)
            self._traced_by = sys.gettrace()  # a debugger, or what measures coverage; there again when this is left
            _raise_in(importing, Interrupted(number))
        else:
            raise Interrupted(number)

    def _importing(self, frame: FrameType | None) -> FrameType | None:
        """The outermost frame in here that waits for an import."""
        found = None
        while frame is not None and frame is not self._entered_from:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                found = frame.f_back
            frame = frame.f_back
        return found


def _raise_in(frame: FrameType, error: BaseException) -> None:
    """Raise it as soon as the frame goes on, as debuggers do: at its next instruction, still in the same block."""

    def raise_now(*_: object) -> NoReturn:
        raise error  # which ends the tracing

    frame.f_trace, frame.f_trace_lines, frame.f_trace_opcodes = raise_now, True, True
    sys.settrace(lambda *_: None)  # or no frame is traced; one written in C would not ask frames


def _end_at_once(number: int) -> NoReturn:
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the progress bar has hidden the cursor
    os._exit(128 + number)
