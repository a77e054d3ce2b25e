"""What a checkpoint costs: seconds and megabytes, beside a training step, network by network.

    python benchmarks/checkpoint.py --networks densenet-fast densenet-bc-100-12 --rounds 5

Each round takes a step and then a checkpoint of weights, momenta and averages, flushed to the disk that --folder is on.
Medians over the rounds.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from interleave import machine

import densely
from densely.training.averaging import WeightAverage
from densely.training.optimizers import CoupledSGD
from densely.training.resume import checkpoint, state
from densely.training.resume.checkpoint import Checkpoint


def main() -> None:
    """Measure and print one row a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["densenet-bc-40-12", "densenet-bc-100-12", "densenet-fast"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure (default: the system's own)")
    given = parser.parse_args()
    print(machine(torch.get_num_threads(), "cpu"))
    print(f"{'network':22}{'parameters':>12}{'step':>10}{'take':>10}{'write':>10}{'size':>10}{'every 5 min':>13}")
    for name in given.networks:
        print(row(name, given.rounds, given.batch, given.folder), flush=True)


def row(name: str, rounds: int, batch: int, folder: Path | None) -> str:
    """Median seconds of a step, of taking the state, of writing it; and the share of five minutes that both take."""
    import keras  # after densely, which chooses the engine

    keras.utils.set_random_seed(0)
    model = densely.build(name)
    model.compile(optimizer=CoupledSGD(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(batch, 32, 32, 3)).astype("float32"), rng.integers(0, 10, batch)
    model.train_on_batch(images, labels)
    average = WeightAverage(model, 0.999)
    steps, takes, writes = [], [], []
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for number in range(rounds):
            began = time.perf_counter()
            model.train_on_batch(images, labels)
            stepped = time.perf_counter()
            tensors = state.tensors(model, average.values)
            taken = time.perf_counter()
            path = checkpoint.save(Path(scratch), Checkpoint(0, number, tensors, {"generators": state.generators()}))
            written = time.perf_counter()
            steps.append(stepped - began)
            takes.append(taken - stepped)
            writes.append(written - taken)
        size = sum(file.stat().st_size for file in path.iterdir()) / 1e6
    step, take, write = (statistics.median(seconds) for seconds in (steps, takes, writes))
    return (
        f"{name:22}{model.count_params():12,}{step:8.2f} s{1000 * take:7.0f} ms{1000 * write:7.0f} ms{size:7.1f} MB"
        f"{100 * (take + write) / 300:11.3f} %"
    )


if __name__ == "__main__":
    main()
