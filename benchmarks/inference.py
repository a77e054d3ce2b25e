"""Images a second of a network that is only asked: in Keras, as a textbook has it, exported; interleaved in one run.

    python benchmarks/inference.py                                     # densenet-fast, batches of 1 and of 64

Prints images/s, ratios and memory. A round is `--images` images; figures are medians over `--rounds`.
"""

import argparse
import itertools
import os

from interleave import machine, race, table

EVERYBODY = ["ONNX Runtime", "ONNX Runtime, int8", "torch.export", "Keras", "textbook PyTorch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["densenet-fast"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--contenders", nargs="+", default=EVERYBODY, choices=EVERYBODY, metavar="NAME")
    parser.add_argument("--images", type=int, default=128, help="images a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmups", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    print(machine(options.threads, "cpu"))
    for network, batch in itertools.product(options.network, options.batch):
        task = {"network": network, "changes": {}, "batch": batch, "steps": options.images // batch, "asked": True}
        results = race(
            options.contenders,
            {**task, "seed": options.seed, "device": "cpu"},
            rounds=options.rounds,
            warmups=options.warmups,
            threads=options.threads,
        )
        print(f"\n{network}, batch {batch}, {options.rounds} rounds of {options.images} images, seed {options.seed}\n")
        print(table(results, options.images), flush=True)


if __name__ == "__main__":
    main()
