"""Contenders in turn: A B C A B C …, so that a machine whose speed drifts is unfair to nobody.

Every figure is the median over rounds, every ratio the median of the ratios within a round. All contenders stay in
memory while one works, in the same order each round.
"""

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from densely.machine import processor

ENGINES = {"Keras on jax": "jax"}
SWITCHES = {name: {"DENSELY_TRITON": "1"} for name in ("densely, Triton", "densely, CUDA graph")}


@dataclass
class Result:
    """One contender's figures.

    Attributes:
        seconds: of each round.
        peak: highest resident memory in bytes, interpreter and libraries included.
        start: resident memory in bytes when everything was built and no step had run.
        failure: why it did not run, if it did not.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    start: int = 0
    failure: str = ""


class Process:
    """A contender's process."""

    def __init__(self, task: dict[str, Any], threads: int) -> None:
        here = Path(__file__).parent
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the process); a pipe that nobody empties would stop a talkative contender
        self.process = subprocess.Popen(
            [sys.executable, str(here / "contender.py"), json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={
                **os.environ,
                "KERAS_BACKEND": ENGINES.get(task["contender"], "torch"),
                "KERAS_TORCH_DEVICE": task["device"],
                "JAX_PLATFORMS": task["device"],
                "OMP_NUM_THREADS": str(threads),
                **SWITCHES.get(task["contender"], {}),
            },
        )

    def ask(self, word: str) -> dict[str, Any]:
        """Send a word, wait for the answer.

        Raises:
            RuntimeError: if the contender died; says how.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(word, file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().strip().splitlines()
            raise RuntimeError((said or [f"exit code {self.process.returncode}"])[-1][:120])
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def race(contenders: list[str], task: dict[str, Any], *, rounds: int, warmups: int, threads: int) -> dict[str, Result]:
    """Run contenders in turn.

    Args:
        contenders: names in `contender.CONTENDERS`; the first one is what ratios refer to.
        task: network, changes, dtype, dropout, batch, steps (a round), seed.
        rounds: that count.
        warmups: rounds before them.
        threads: of each contender; only one works at a time.
    """
    results = {name: Result() for name in contenders}
    processes = {name: Process({**task, "contender": name}, threads) for name in contenders}
    try:
        for number in range(-warmups, rounds):
            for name in contenders:
                if results[name].failure:
                    continue
                try:
                    seconds = processes[name].ask("go")["seconds"]
                except RuntimeError as error:
                    results[name].failure = str(error)
                    continue
                if number >= 0:
                    results[name].seconds.append(seconds)
                time.sleep(0.3)  # OpenMP's threads of the last one spin for a moment before they sleep
        for name in contenders:
            if not results[name].failure:
                memory = processes[name].ask("memory")
                results[name].peak, results[name].start = memory["peak"], memory["start"]
    finally:
        for process in processes.values():
            process.close()
    return results


def table(results: dict[str, Result], images: int) -> str:
    """A Markdown table: images/s, how many times as fast as each the first contender is, memory."""
    first = next((name for name, result in results.items() if not result.failure), "")
    lines = [
        f"| contender | images/s | {first} is | peak memory | for the steps | of {first}'s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, result in results.items():
        if result.failure:
            lines.append(f"| {name} | did not run: {result.failure} | | | | |")
            continue
        speed = images / statistics.median(result.seconds)
        ratio = statistics.median(a / b for a, b in zip(result.seconds, results[first].seconds, strict=True))
        own = result.peak - result.start
        share = own / (results[first].peak - results[first].start)
        lines.append(
            f"| {name} | {speed:.1f} | {ratio:.2f} × as fast | {result.peak / 2**30:.2f} GiB | "
            f"{own / 2**30:.2f} GiB | {share:.2f} × |"
        )
    return "\n".join(lines)


def machine(threads: int, device: str) -> str:
    """One line: processor or card, threads, versions."""
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "keras", "jax", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{package} {metadata.version(package)}")
    where = torch.cuda.get_device_name() if device == "cuda" else processor()
    return f"{where}, {threads} threads, {', '.join(versions)}"
