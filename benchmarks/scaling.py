"""What a second process is worth: one process of one thread against two of one thread each, the same batch.

    python benchmarks/scaling.py                              # densenet-bc-100-12, batch 64, 5 rounds of 2 steps
    python benchmarks/scaling.py --sync-bn --network densenet-fast

A round is one `fit` of `--steps` steps by one process, then the same by two that share every batch; whole steps, with
augmentation, gradients' sums, optimizer and scores. All stay in memory while others work. Prints images/s and their
ratio: medians over rounds, and the median of the ratios within a round. With `--processes N` it is N against one.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from interleave import machine

from densely import architecture
from densely.data import Dataset, Preprocessing
from densely.interruption import StopSignals
from densely.recipes import Recipe
from densely.training.batches import Batches
from densely.training.distributed.replica import Replica, Shares
from densely.training.distributed.world import World, joined
from densely.training.losses import CrossEntropy
from densely.training.optimizers import CoupledSGD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="densenet-bc-100-12")
    parser.add_argument("--batch", type=int, default=64, help="images a step, of all processes together")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--steps", type=int, default=2, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sync-bn", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(json.loads(options.worker))
        return
    task = {key: value for key, value in vars(options).items() if key != "worker"}
    print(machine(options.threads, "cpu"))
    alone, shared = Team(1, task), Team(options.processes, task)
    seconds: list[tuple[float, float]] = []
    try:
        for number in range(-1, options.rounds):  # the first one warms up
            both = alone.go(), shared.go()
            if number >= 0:
                seconds.append(both)
    finally:
        alone.close()
        shared.close()
    images = options.batch * options.steps
    speeds = [images / statistics.median(column) for column in zip(*seconds, strict=True)]
    ratio = statistics.median(one / many for one, many in seconds)
    print(
        f"{options.network}, batch {options.batch}, {options.rounds} rounds of {options.steps} steps, seed "
        f"{options.seed}{', sync-bn' if options.sync_bn else ''}\n"
        f"1 process: {speeds[0]:.2f} img/s; {options.processes} processes: {speeds[1]:.2f} img/s; {ratio:.2f} × as fast"
    )


class Team:
    """So many processes that share every step.

    Args:
        size: how many.
        task: what they do, see `main`.
    """

    def __init__(self, size: int, task: dict[str, Any]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (lives as long as the processes)
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env={
                    **os.environ,
                    "KERAS_TORCH_DEVICE": "cpu",
                    "OMP_NUM_THREADS": str(task["threads"]),
                    "RANK": str(rank),
                    "WORLD_SIZE": str(size),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                },
            )
            for rank in range(size)
        ]

    def go(self) -> float:
        """Seconds of a round, of the slowest."""
        for process in self.processes:
            assert process.stdin is not None
            print("go", file=process.stdin, flush=True)
        return max(self._answer(process) for process in self.processes)

    def _answer(self, process: "subprocess.Popen[str]") -> float:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(self.errors.read())
        return float(line)

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self.processes:
            process.wait()


def work(task: dict[str, Any]) -> None:
    """One process: a round for every line that comes."""
    with StopSignals() as signals, joined(signals, 3600) as world:
        model, batches = prepared(task, world)
        callbacks = [Shares(batches, None)] if world.size > 1 else []
        with world.fitting(model, task["sync_bn"]):
            for _ in sys.stdin:
                began = time.perf_counter()
                model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=callbacks)
                print(time.perf_counter() - began, flush=True)


def prepared(task: dict[str, Any], world: World) -> tuple[Any, Batches]:
    """A compiled network, and batches of noise."""
    import keras

    keras.utils.set_random_seed(task["seed"])
    whole = architecture.build(task["network"])
    kind = keras.Model if world.size == 1 else Replica
    model = kind(whole.inputs, whole.get_layer("logits").output)
    model.compile(CoupledSGD(coupled_decay=1e-4), CrossEntropy(), metrics=["sparse_categorical_accuracy"])
    network = architecture.spec(task["network"])
    shape, count = network.input_shape, task["batch"] * task["steps"]
    rng = np.random.default_rng(task["seed"])
    images: Any = rng.integers(0, 256, (count, *shape), dtype=np.uint8)  # type: ignore[arg-type]
    names = tuple(map(str, range(network.classes)))
    noise = Dataset(images, rng.integers(0, network.classes, count), names, "noise/train")
    recipe = Recipe(batch_size=task["batch"], shift=4, flip=True, preprocessing="unit")
    made = (noise, Preprocessing.fit(images, "unit"), recipe, task["seed"])
    return model, Batches(*made, training=True, part=(world.rank, world.size))


if __name__ == "__main__":
    main()
