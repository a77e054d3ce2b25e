"""One dense block alone, forward and backward, at growing depth: speed, and how memory grows.

    python benchmarks/dense_block.py                       # 6, 12, 24, 48 bottleneck layers, k = 12, 32×32, batch 64
    python benchmarks/dense_block.py --depths 8 16 32 --plain --dropout 0
    python benchmarks/dense_block.py --device cuda --dtype bfloat16 --contenders "densely, Triton" "textbook PyTorch"

Memory that is linear in depth doubles from row to row; memory that is quadratic grows fourfold.
"""

import argparse
import os

from interleave import machine, race, table

EVERYBODY = ["densely", "textbook PyTorch", "checkpoint", "Keras on torch"]
ON_GPUS = ["densely, Triton"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", nargs="+", type=int, default=[6, 12, 24, 48])
    parser.add_argument("--growth-rate", type=int, default=12)
    parser.add_argument("--plain", action="store_true", help="layers without a bottleneck")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--contenders", nargs="+", choices=EVERYBODY + ON_GPUS, metavar="NAME")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    contenders = options.contenders or EVERYBODY + (ON_GPUS if options.device == "cuda" else [])
    print(machine(options.threads, options.device))
    changes = {"growth_rate": options.growth_rate, "bottleneck": not options.plain}
    for layers in options.depths:
        task = {
            "network": "densenet-bc-100-12",
            "changes": changes,
            "layers": layers,
            "dtype": options.dtype,
            "dropout": options.dropout,
            "batch": options.batch,
            "steps": options.steps,
            "seed": options.seed,
            "device": options.device,
        }
        results = race(contenders, task, rounds=options.rounds, warmups=1, threads=options.threads)
        kind = "plain" if options.plain else "bottleneck"
        print(
            f"\n{layers} {kind} layers, k = {options.growth_rate}, 32×32, {options.dtype}, "
            f"dropout {options.dropout:g}, batch {options.batch}, {options.rounds} rounds of {options.steps} steps, "
            f"seed {options.seed}\n"
        )
        print(table(results, options.batch * options.steps), flush=True)


if __name__ == "__main__":
    main()
