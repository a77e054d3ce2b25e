"""Whole training steps: Densely through `model.fit` against its peers, interleaved in one run.

    python benchmarks/train_step.py                                    # BC-100-12, float32, dropout 0.2
    python benchmarks/train_step.py --depth 40 70 100 130              # at growing depth, k fixed
    python benchmarks/train_step.py --dtype bfloat16 --dropout 0 --network densenet-40-12 densenet-bc-40-36

Prints images/s, ratios and memory. A round is `--steps` steps of `--batch` images; figures are medians over `--rounds`.
"""

import argparse
import itertools
import os

from interleave import machine, race, table

EVERYBODY = ["densely", "textbook PyTorch", "torch.compile", "checkpoint", "Keras on torch", "Keras on jax"]

ON_A_GPU = ["densely, Triton", "densely, CUDA graph"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["densenet-bc-100-12"])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--dropout", nargs="+", type=float, default=[0.2])
    parser.add_argument("--contenders", nargs="+", default=EVERYBODY, choices=[*EVERYBODY, *ON_A_GPU], metavar="NAME")
    parser.add_argument("--depth", nargs="+", type=int, default=[None], help="sweep the depth of the network")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="steps a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmups", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    print(machine(options.threads, options.device))
    for network, depth, dtype, dropout in itertools.product(
        options.network, options.depth, options.dtype, options.dropout
    ):
        task = {
            "network": network,
            "changes": {} if depth is None else {"depth": depth},
            "dtype": dtype,
            "dropout": dropout,
            "batch": options.batch,
            "steps": options.steps,
            "seed": options.seed,
            "device": options.device,
        }
        results = race(
            options.contenders, task, rounds=options.rounds, warmups=options.warmups, threads=options.threads
        )
        deep = "" if depth is None else f" at depth {depth}"
        print(
            f"\n{network}{deep}, {dtype}, dropout {dropout:g}, batch {options.batch}, {options.rounds} rounds of "
            f"{options.steps} steps, seed {options.seed}\n"
        )
        print(table(results, options.batch * options.steps), flush=True)


if __name__ == "__main__":
    main()
