"""`--devices N`: the processes of a training on this machine, each started with the same command.

What torchrun does for one machine, without its reports: the processes tell themselves what happened. Signals are passed
on once (each process is in a session of its own, so Ctrl-C reaches only the launcher), and the exit code is that of
the first process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from densely.errors import DenselyError, UsageError
from densely.interruption import SIGNALS
from densely.machine import cores
from densely.training.distributed import place

#: Seconds beyond the patience of the processes, after which what has not ended by itself is killed.
GRACE = 15.0


def launch(count: int, arguments: Sequence[str], patience: float) -> int:
    """Run `densely` in so many processes, one a GPU, or sharing out the processor's cores.

    Args:
        count: how many.
        arguments: the command line after `densely`.
        patience: seconds that the processes wait for one another.

    Returns:
        The exit code.

    Raises:
        UsageError: if it is below 1, or there are not so many GPUs or cores; if the patience is below 5 seconds.
        DenselyError: if the processes were killed, and none could tell.
    """
    _check(count)
    place.check_patience(patience)
    processes: list[subprocess.Popen[bytes]] = []
    port = _port()
    with _passed_on(processes) as received:
        try:
            for rank in range(count):
                processes.append(_start(rank, count, port, arguments))
                for number in received:  # before this one was there
                    processes[-1].send_signal(number)
        except BaseException:
            for process in processes:
                process.kill()
            raise
        _wait(processes, patience + GRACE)
    first, *others = (process.returncode for process in processes)
    told = max(first, *others)
    if first < 0 and told <= 0:
        raise DenselyError(
            f"The processes were ended by {signal.Signals(-first).name}. The last checkpoint is whole: the same "
            "command goes on from it."
        )
    return first if first >= 0 else told


def _check(count: int) -> None:
    if count < 1:
        raise UsageError(f"--devices must be at least 1, not {count}.")
    gpus = place.gpus()
    most, what = (gpus, "GPU") if gpus else (cores(), "processor core")
    if count > most:
        raise UsageError(
            f"--devices must be at most {most}, not {count}: each process needs a {what} of this machine for itself."
        )


def _start(rank: int, count: int, port: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {
        # Their sums need no network, and none of its names.
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
        "OMP_NUM_THREADS": str(max(1, cores() // count)),
        "TORCH_CPP_LOG_LEVEL": "FATAL",
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        place.LAUNCHER: str(os.getpid()),
    }
    return subprocess.Popen([sys.executable, "-m", "densely", *arguments], env=environment, start_new_session=True)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def _passed_on(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Inside, SIGINT and SIGTERM go to all processes; in the list are those that have come."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    """Until all have ended; when one has failed, the others have so many seconds."""
    failed: float | None = None
    while any(process.poll() is None for process in processes):
        if failed is None and any(process.poll() for process in processes):
            failed = time.monotonic()
        if failed is not None and time.monotonic() - failed > patience:
            for process in processes:
                process.kill()
        time.sleep(0.1)
