"""What the pool's tests run in other processes; here, where those find it by name."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from densely.interruption import Interrupted, StopSignals
from densely.training import pool


def work(ask: pool.Ask, what: str) -> object:
    if what == "ask":
        return ask("how many?"), torch.get_num_threads(), os.getpid()
    if what == "fail":
        raise ZeroDivisionError("by nought")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return what


def wait_for_a_signal(ask: pool.Ask, told: Path) -> None:
    """As a training does: it hears of the signal, and writes down what it has."""
    with StopSignals():
        try:
            told.with_suffix(".pid").write_text(str(os.getpid()))
            time.sleep(60)
        except Interrupted as stop:
            told.write_text(str(stop.signal))
            raise


if __name__ == "__main__":
    tasks = [(i, (Path(sys.argv[1]) / f"{i}.txt",)) for i in range(2)]
    for _ in pool.run(tasks, wait_for_a_signal, lambda key, question: None, jobs=2):
        pass
