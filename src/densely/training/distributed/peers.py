"""The other processes of a training: whether they are still there, and what is told when one is not.

All that is said here goes through the key-value store in which they met (a `TCPStore`), beside the process group that
carries the sums: a process that waits for a sum can still be told why it waits in vain. Every process leaves a beat
in the store each second. The first one listens to all, the others to the first. Whoever ends for a reason of its own
leaves that reason; the first process tells it, the others end silently. If the first is gone, the second one tells.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from densely.errors import DenselyError
from densely.interruption import Interrupted
from densely.training.distributed.place import LAUNCHER, Place

#: Seconds in which all processes of a training must have come.
JOINING = 300.0
#: Between two beats.
BEAT = 1.0
#: For the main thread to end by itself before the process is ended.
GRACE = 8.0
_END = "end"


class ElsewhereError(DenselyError):
    """The training has ended, and another of its processes has told why.

    Attributes:
        exit_code: of this process: the same as of the one that told.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("Another process of this training has told why it ended.")
        self.exit_code = exit_code


class Peers:
    """Beats, and reasons.

    Args:
        place: this process's.
        store: where they met.
        mine: a second connection to the same store, for the beats: a request on the first may wait.
        patience: seconds after which a process that gives no sign is given up.
    """

    def __init__(self, place: Place, store: Any, mine: Any, patience: float) -> None:
        self.place, self.store, self._mine = place, store, mine
        # So that all is told and over within the time that was asked for.
        self.patience = 0.8 * patience
        self.steps = 0
        self._moved: float | None = None
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._ended: float | None = None
        self._over = threading.Event()
        self._telling = threading.Lock()

    def gather(self, seconds: float = JOINING) -> None:
        """Wait until all have come, and listen from then on.

        Raises:
            DenselyError: if they have not within so many seconds.
        """
        deadline = time.monotonic() + seconds
        self.store.add("come", 1)
        while (count := self.store.add("come", 0)) < self.place.size:
            if time.monotonic() > deadline:
                text = f"Only {count} of {self.place.size} processes came within {seconds:.0f} s: start the others."
                reason = self._leave(1, text, self.place.rank)
                if reason is None or reason["rank"] == self.place.rank:
                    raise DenselyError(text)
                raise ElsewhereError(1)
            time.sleep(0.1)
        first, now = self.place.rank == 0, time.monotonic()
        self._heard = {rank: (b"", now) for rank in range(self.place.size) if (rank > 0 if first else rank == 0)}
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name=f"densely-{work.__name__}", daemon=True).start()

    def meet(self, what: str) -> None:
        """Wait until every process has come here, however long it works; one that is lost ends the wait."""
        self._moved = None
        self.store.add(what, 1)
        self._until(lambda: self.store.add(what, 0) >= self.place.size)

    def tell(self, what: str, value: Any) -> None:
        """Leave a value, as JSON has it, for the others."""
        self.store.set(what, json.dumps(value))

    def hear(self, what: str) -> Any:
        """A value that the first process leaves; waits for it."""
        self._until(lambda: self.store.check([what]))
        return json.loads(self.store.get(what))

    def stepped(self) -> None:
        """A step is done: no process is stuck."""
        self.steps += 1
        self._moved = time.monotonic()

    def close(self) -> None:
        """Listen no more; the training goes on alone, or is over."""
        self._over.set()

    def verdict(self, error: BaseException, lost: bool) -> BaseException:
        """What to raise in place of an error that ends the training; from here on nobody listens.

        Args:
            error: what this process met.
            lost: whether it says only that another process did not answer.

        Returns:
            The error, if it is this process's own and this is the first; else what makes the first one tell, once.
        """
        with self._telling:
            try:
                return self._lost_verdict() if lost else self._own_verdict(error)
            finally:
                self.close()

    def _own_verdict(self, error: BaseException) -> BaseException:
        if self.place.rank and isinstance(error, Interrupted) and error.folder is not None:
            # All of them have agreed to stop, and the first one writes a checkpoint.
            self._let_first_tell(self.patience)
            return ElsewhereError(error.exit_code)
        reason = self._leave(getattr(error, "exit_code", 1), _sentence(error), self.place.rank)
        if self.place.rank == 0 or reason is None:
            return error
        self._let_first_tell()
        return ElsewhereError(reason["exit_code"])

    def _lost_verdict(self) -> BaseException:
        silent = self._missing()
        reason = self._reason()
        if self.place.rank == 0 or (reason is None and 0 in silent and self.place.rank == 1):
            reason = reason or self._leave(1, self._lost(silent), None)
            return DenselyError(self._words(reason) if reason else self._lost(silent))
        _ask(lambda: self.store.set(f"left/{self.place.rank}", ""))
        self._let_first_tell()
        reason = self._reason()
        return ElsewhereError(reason["exit_code"] if reason else 1)

    def _until(self, there: Callable[[], bool]) -> None:
        while not there():
            if self.store.check([_END]):
                reason = json.loads(self.store.get(_END))
                if self.place.rank == 0:
                    raise DenselyError(self._words(reason))
                raise ElsewhereError(reason["exit_code"])
            time.sleep(0.1)

    def _beat(self) -> None:
        """Leave beats, take those of others; in a thread of its own, because the store may not answer."""
        count = 0
        while not self._over.wait(BEAT if count else 0):
            count += 1
            try:
                self._mine.set(f"beat/{self.place.rank}", f"{count} {self.steps}")
                for rank, (before, _) in list(self._heard.items()):
                    key = f"beat/{rank}"
                    beat = self._mine.get(key) if self._mine.check([key]) else b""
                    if beat != before:
                        self._heard[rank] = beat, time.monotonic()
                if self._ended is None and self._mine.check([_END]):
                    self._ended = time.monotonic()
            except RuntimeError:  # the store is gone, or slow: nothing is heard
                time.sleep(BEAT)

    def _watch(self) -> None:
        """End the process where the main thread cannot: it waits for what will not come."""
        launcher = os.environ.get(LAUNCHER)
        while not self._over.wait(BEAT / 2):
            if launcher is not None and os.getppid() != int(launcher):
                launcher = None
                os.kill(os.getpid(), signal.SIGTERM)  # killed, it cannot pass on that all are to end
            now = time.monotonic()
            silent = [rank for rank, (_, when) in self._heard.items() if now - when > self.patience]
            stuck = self._moved is not None and now - self._moved > self.patience + GRACE
            ended = self._ended is not None and now - self._ended > GRACE
            if (silent or stuck or ended) and self._telling.acquire(blocking=False):
                verdict = self._lost_verdict()
                if not isinstance(verdict, ElsewhereError):
                    print(f"\ndensely: {verdict}", file=sys.stderr, flush=True)
                os._exit(getattr(verdict, "exit_code", 1))

    def _missing(self) -> list[int]:
        """Whose beats have stopped, looked at for as long as a few of them take; not who left because of another.

        Nobody's if a reason is there already.
        """
        # Asked of the store: a beat that was left before the end may not have been heard here yet.
        if self._ended_within(BEAT / 2):
            return []
        before = self._beats()
        if self._ended_within(3 * BEAT):
            return []
        # Without an answer to either question there is no sign of life.
        silent = [rank for rank, beat in self._beats().items() if None in (beat, before[rank]) or beat == before[rank]]
        left = [rank for rank in silent if _ask(partial(self.store.check, [f"left/{rank}"]))]
        return [rank for rank in silent if rank not in left]

    def _ended_within(self, seconds: float) -> bool:
        """Whether a reason is there, or comes in so many seconds."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if _ask(lambda: self.store.check([_END])):
                return True
            time.sleep(0.1)
        return False

    def _beats(self) -> dict[int, bytes | None]:
        """The last beats that the others left; None for all if the store does not answer."""

        def last(key: str) -> bytes:
            return bytes(self._mine.get(key)) if self._mine.check([key]) else b""

        return {rank: _ask(partial(last, f"beat/{rank}")) for rank in self._heard}

    def _lost(self, missing: list[int]) -> str:
        if missing:
            several = len(missing) > 1
            who = ", ".join(map(str, missing[:5])) + (" and more" if len(missing) > 5 else "")
            what = f"Process{'es' * several} {who} of {self.place.size} {'have' if several else 'has'} died, or hangs"
        else:
            steps = {rank: int(beat.split()[1]) for rank, (beat, _) in self._heard.items() if beat}
            steps[self.place.rank] = self.steps
            behind = [rank for rank, done in steps.items() if done == min(steps.values())]
            slow = f"; process {behind[0]} of {self.place.size} is behind" if len(behind) < len(steps) else ""
            what = f"The processes did not answer one another for {self.patience:.0f} s{slow}"
        return f"{what}. The last checkpoint is whole: the same command goes on from it, with any number of processes."

    def _words(self, reason: dict[str, Any]) -> str:
        """A reason that a process left, as the first one tells it."""
        who = "" if reason["rank"] is None else f"Process {reason['rank']} of {self.place.size}: "
        return f"{who}{reason['text']}"

    def _leave(self, exit_code: int, text: str, rank: int | None) -> dict[str, Any] | None:
        """Leave a reason, unless one is there: the one that is, or None if the store does not answer."""
        mine = json.dumps({"rank": rank, "exit_code": exit_code, "text": text})
        found = _ask(lambda: self.store.compare_set(_END, "", mine))
        return None if found is None else dict(json.loads(found))

    def _reason(self) -> dict[str, Any] | None:
        """What a process left; None if none did, or the store does not answer."""
        found = _ask(lambda: self.store.get(_END) if self.store.check([_END]) else None)
        return None if found is None else dict(json.loads(found))

    def _let_first_tell(self, seconds: float = 5 * BEAT) -> None:
        """A launcher ends all processes when it sees one end: the first one tells before that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not _ask(lambda: self.store.check([_END])):
            time.sleep(0.1)
        time.sleep(BEAT)


def _ask(question: Callable[[], Any]) -> Any:
    """The store's answer, or None if it has none within two seconds: its host may hang."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(question())
        except RuntimeError:
            found.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2.0)
    return found[0] if found else None


def _sentence(error: BaseException) -> str:
    if isinstance(error, DenselyError | KeyboardInterrupt):
        return str(error)
    return f"Unexpected {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def arrive(place: Place, seconds: float = JOINING) -> tuple[Any, Any]:
    """Go where the other processes meet: two connections to one store.

    Raises:
        DenselyError: if it cannot be reached.
    """
    # torchrun has a store of its own there, which outlives processes that it starts again.
    elsewhere = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    waits = timedelta(seconds=seconds)

    def connect(host: bool) -> Any:
        store = TCPStore(place.host, place.port, is_master=host, timeout=waits, wait_for_workers=False)
        return PrefixStore(f"densely/{attempt}", store)

    try:
        return connect(place.rank == 0 and not elsewhere), connect(False)
    except (RuntimeError, ValueError) as error:
        raise DenselyError(
            f"Process {place.rank} of {place.size} cannot meet the others at {place.host}:{place.port} (MASTER_ADDR, "
            f"MASTER_PORT): {str(error).splitlines()[0]}"
        ) from None
