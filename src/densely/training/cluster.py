"""Several trainings at a time over the machines of a Ray cluster: what `pool` does on one machine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Generator, Hashable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import torch

from densely.errors import DenselyError, UsageError, reason
from densely.training.pool import PATIENCE, Outcome, attempt, portable

K = TypeVar("K", bound=Hashable)


def check(address: str) -> None:
    """Refuse an address that leads nowhere, before anything is done.

    Raises:
        UsageError: without Ray, or for the address of a Ray client.
    """
    if address.startswith("ray://"):
        raise UsageError(f"--ray {address} is for machines outside a cluster: start this one within it (--ray auto).")
    try:
        import ray  # noqa: F401
    except ImportError:
        raise UsageError("A sweep over a cluster needs Ray: pip install 'densely[ray]'.") from None


def run(
    tasks: Iterable[tuple[K, tuple[Any, ...]]],
    function: Callable[..., Any],
    answer: Callable[[K, Any], Any],
    jobs: int | None,
    address: str,
) -> Generator[tuple[K, Outcome], None, None]:
    """Run a function for every task on a cluster, `jobs` at a time, and tell of each as it ends.

    Args:
        tasks, function, answer: as for `pool.run`.
        jobs: tasks at a time; each is given an equal share of the processors, and of the GPUs, but no more of them than
            the smallest machine has. By default as many as there are machines.
        address: of the cluster; `"local"` starts one on this machine, for as long as this lasts.

    Yields:
        A task's key and its outcome, in the order in which they end. A task whose machine is lost is begun once more
        elsewhere, and goes on from its checkpoint. Closing the generator ends what still runs, after a checkpoint.

    Raises:
        DenselyError: if the cluster does not answer.
    """
    import ray

    # Nothing is told to anybody outside.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **_alone(address))
    except (OSError, RuntimeError, ValueError) as error:
        raise DenselyError(f"The Ray cluster at {address} does not answer: {reason(error)}") from None
    working: dict[Any, K] = {}
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        jobs = jobs or len(machines)
        processors = _share([machine.get("CPU", 0.0) for machine in machines], jobs)
        start = ray.remote(num_cpus=processors, num_gpus=_gpus(machines, jobs), max_retries=1)(_work)
        made: Any = ray.remote(num_cpus=0)(_Mailbox)
        mailbox = made.remote()
        todo = iter(tasks)
        question = mailbox.next.remote()
        while True:
            while len(working) < jobs and (task := next(todo, None)) is not None:
                key, args = task
                working[start.remote(mailbox, key, function, args, processors)] = key
            if not working:
                return
            (ready,), _ = ray.wait([question, *working], num_returns=1)
            if ready == question:
                key, asked = ray.get(question)
                mailbox.answer.remote(key, answer(key, asked))
                question = mailbox.next.remote()
                continue
            key = working.pop(ready)
            try:
                outcome = ray.get(ready)
            except ray.exceptions.RayError as error:
                outcome = Outcome(error=DenselyError(f"Lost on the cluster: {reason(error)}"))
            yield key, outcome
    finally:
        for task in working:
            with suppress(Exception):
                ray.cancel(task)  # as Ctrl-C would: it writes its checkpoint
        if working:
            mailbox.close.remote()
            ray.wait(list(working), num_returns=len(working), timeout=PATIENCE)
        ray.shutdown()


class _Mailbox:
    """Stands between the tasks, which ask, and the process that began them, which answers."""

    def __init__(self) -> None:
        self.questions: asyncio.Queue[tuple[Any, Any]] = asyncio.Queue()
        self.answers: dict[Any, asyncio.Future[Any]] = {}
        self.closed = False

    async def ask(self, key: Any, question: Any) -> Any:
        """Wait for the answer to a task's question; `None` where nobody answers any more."""
        if self.closed:
            return None
        future = self.answers[key] = asyncio.get_running_loop().create_future()
        await self.questions.put((key, question))
        return await future

    async def next(self) -> tuple[Any, Any]:
        """The next question, with its task's key."""
        return await self.questions.get()

    async def answer(self, key: Any, value: Any) -> None:
        """Give a task its answer."""
        self.answers.pop(key).set_result(value)

    async def close(self) -> None:
        """Keep nobody waiting."""
        self.closed = True
        for future in self.answers.values():
            future.set_result(None)


def _work(mailbox: Any, key: Any, function: Callable[..., Any], args: tuple[Any, ...], threads: int) -> Outcome:
    import ray

    torch.set_num_threads(threads)
    return portable(attempt(function, lambda question: ray.get(mailbox.ask.remote(key, question)), args))


def _alone(address: str) -> dict[str, Any]:
    """What only a cluster that is started here can be told."""
    return {"include_dashboard": False} if address == "local" else {}


def _share(processors: list[float], jobs: int) -> int:
    fitting = [count for count in processors if count >= 1] or [1.0]
    return max(1, min(int(sum(fitting)) // jobs, int(min(fitting))))


def _gpus(machines: list[dict[str, float]], jobs: int) -> float:
    return min(1.0, sum(machine.get("GPU", 0.0) for machine in machines) / jobs)
