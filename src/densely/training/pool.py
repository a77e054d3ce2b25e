"""Several trainings at a time: processes of this machine, each with its share of the threads.

A training is a function of this package and what it is given; beside that it gets `ask`, by which it can put a question
to the process that began it, and waits for the answer. Each worker is an interpreter of its own: what one of them dies
of (memory, a signal) costs its own training and no other. A worker whose parent has died, in whatever way, writes its
checkpoint and ends too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, TypeVar

import torch

from densely.errors import DenselyError, UsageError, reason
from densely.interruption import Interrupted

PATIENCE = 60.0
"""Seconds that a worker has to write its checkpoint, once it was asked to end."""

K = TypeVar("K", bound=Hashable)
Ask = Callable[[Any], Any]
"""Puts a question to the process that began a training; `None` where nobody answers any more."""


class Outcome(NamedTuple):
    """How a training ended: with what its function returned, or with an error."""

    value: Any = None
    error: Exception | None = None


class _Worker(NamedTuple):
    process: SpawnProcess
    connection: Connection


def check(jobs: int) -> None:
    """Refuse a count that makes no sense.

    Raises:
        UsageError: if it is below 1.
    """
    if jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}.")


def run(
    tasks: Iterable[tuple[K, tuple[Any, ...]]],
    function: Callable[..., Any],
    answer: Callable[[K, Any], Any],
    jobs: int,
) -> Generator[tuple[K, Outcome], None, None]:
    """Run a function for every task, `jobs` at a time, and tell of each as it ends.

    Args:
        tasks: a key, and what the function is given after `ask`; the next is taken only when a place is free.
        function: of a module, so that another process finds it; with two jobs or more its arguments and what it
            returns go through `pickle`.
        answer: called here with a task's key and its question.
        jobs: 1: in this process, one after the other; more: so many processes, each with an equal share of this
            process's threads (`torch.get_num_threads`), at least one.

    Yields:
        A task's key and its outcome, in the order in which they end. Closing the generator ends what still runs, after
        a checkpoint.
    """
    return _here(tasks, function, answer) if jobs == 1 else _in_processes(tasks, function, answer, jobs)


def attempt(function: Callable[..., Any], ask: Ask, args: tuple[Any, ...]) -> Outcome:
    """Call a function; an error is an outcome too."""
    try:
        return Outcome(function(ask, *args))
    except Exception as error:
        return Outcome(error=error)


def portable(outcome: Outcome) -> Outcome:
    """The same outcome with an error that another process can read, whatever library it came from."""
    if outcome.error is None or isinstance(outcome.error, DenselyError):
        return outcome
    return Outcome(error=DenselyError(f"Unexpected {type(outcome.error).__name__}: {reason(outcome.error)}"))


def _here(
    tasks: Iterable[tuple[K, tuple[Any, ...]]], function: Callable[..., Any], answer: Callable[[K, Any], Any]
) -> Generator[tuple[K, Outcome], None, None]:
    for key, args in tasks:

        def ask(question: Any, key: K = key) -> Any:
            return answer(key, question)

        yield key, attempt(function, ask, args)


def _in_processes(
    tasks: Iterable[tuple[K, tuple[Any, ...]]],
    function: Callable[..., Any],
    answer: Callable[[K, Any], Any],
    jobs: int,
) -> Generator[tuple[K, Outcome], None, None]:
    threads = max(1, torch.get_num_threads() // jobs)
    todo = iter(tasks)
    working: dict[Connection, tuple[K, _Worker]] = {}
    idle: list[_Worker] = []
    try:
        while True:
            while len(working) < jobs and (task := next(todo, None)) is not None:
                key, args = task
                worker = idle.pop() if idle else _start(function, threads)
                working[worker.connection] = key, worker
                with suppress(OSError):  # a worker that has died is found below
                    worker.connection.send(args)
            if not working:
                return
            for connection in wait(list(working)):
                assert isinstance(connection, Connection)
                key, worker = working[connection]
                try:
                    kind, content = connection.recv()
                except (EOFError, OSError):
                    del working[connection]
                    connection.close()
                    worker.process.join()
                    yield key, Outcome(error=_died(worker.process.exitcode))
                    continue
                if kind == "asks":
                    with suppress(OSError):
                        connection.send(answer(key, content))
                else:
                    del working[connection]
                    idle.append(worker)
                    yield key, content
    finally:
        _end([worker for _, worker in working.values()], idle)


def _died(code: int | None) -> DenselyError:
    if code == -signal.SIGKILL:
        return DenselyError("Its process was killed, perhaps because memory ran out: try fewer --jobs.")
    return DenselyError(f"Its process ended by itself, exit code {code}.")


def _start(function: Callable[..., Any], threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function, threads), daemon=True)
    with _deaf():
        process.start()
    theirs.close()
    return _Worker(process, ours)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes begun inside hear no Ctrl-C of the terminal: it is their parent's, who asks them to end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(working: list[_Worker], idle: list[_Worker]) -> None:
    for worker in working:
        worker.process.terminate()
    for worker in (*working, *idle):
        worker.connection.close()
    for worker in (*working, *idle):
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(connection: Connection, function: Callable[..., Any], threads: int) -> None:
    """What a worker does: one task after the other, until its parent closes the connection or asks it to end."""
    torch.set_num_threads(threads)
    threading.Thread(target=_follow_parent, daemon=True).start()

    def ask(question: Any) -> Any:
        try:
            connection.send(("asks", question))
            return connection.recv()
        except (EOFError, OSError):
            return None

    with suppress(EOFError, OSError, Interrupted):
        while True:
            connection.send(("ended", portable(attempt(function, ask, connection.recv()))))


def _follow_parent() -> None:
    """Ask this process to end as soon as its parent has, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
