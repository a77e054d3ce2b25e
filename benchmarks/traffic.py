"""What goes over the wires in a step of training on several GPUs: arithmetic, nothing is measured here.

    python benchmarks/traffic.py                       # the tables of docs/scale.md
    python benchmarks/traffic.py --teraflops 100       # on GPUs that reach more

Every process sends and receives 2(n-1)/n times what is summed (a ring): 4 bytes a parameter for the gradients; then,
without `--sync-bn`, 8 bytes a normalised channel for the moving statistics; with it, two numbers a channel of every
set of maps that is made, forward and backward. Prints Markdown.
"""

import argparse
from collections.abc import Iterator

from densely import cost
from densely.architecture import NETWORKS, NetworkSpec

PROCESSES = (8, 64, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teraflops", type=float, default=20, help="that a GPU reaches in a step, 10^12 a second")
    parser.add_argument("--gigabits", type=float, nargs=3, default=[3200, 200, 25], help="a GPU's wire, 10^9 a second")
    parser.add_argument("--microseconds", type=float, default=20, help="that a small all-reduce takes")
    given = parser.parse_args()
    wires = " | ".join(f"{wire:g} Gbit/s" for wire in given.gigabits)
    print(f"| network | gradients | MB a step, n = {' / '.join(map(str, PROCESSES))} | images a GPU: {wires} |")
    print("| --- | ---: | ---: |" + " ---: |" * len(given.gigabits))
    for name, network in NETWORKS.items():
        size = 4 * cost.parameters(network)
        moved = " / ".join(f"{ring(size, n) / 1e6:.1f}" for n in PROCESSES)
        per_image = 6 * cost.multiply_adds(network) / (given.teraflops * 1e12)
        needed = [ring(size, PROCESSES[-1]) * 8 / (wire * 1e9) / per_image for wire in given.gigabits]
        print(f"| {name} | {size / 1e6:.1f} MB | {moved} | " + " | ".join(f"{n:,.1f}" for n in needed) + " |")
    print("\n| network | moving statistics | messages of --sync-bn | MB | their ms | images a GPU in that time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, network in NETWORKS.items():
        sent = list(messages(network))
        statistics = 8 * sum(normalised(network))
        seconds = len(sent) * given.microseconds * 1e-6
        images = seconds * given.teraflops * 1e12 / (6 * cost.multiply_adds(network))
        print(
            f"| {name} | {ring(statistics, 512) / 1e6:.2f} MB | {len(sent)} | {ring(sum(sent), 512) / 1e6:.2f} | "
            f"{1e3 * seconds:.1f} | {images:.1f} |"
        )


def ring(size: float, processes: int) -> float:
    """Bytes that each process sends, and receives, when so many are summed by a ring."""
    return 2 * (processes - 1) / processes * size


def messages(network: NetworkSpec) -> Iterator[int]:
    """Bytes of every sum over the processes that `--sync-bn` makes in a step: two numbers a channel."""
    forward, backward = 16, 8  # float64 and float32; Keras's own layers go back in float64 too
    channels = network.stem_width
    if network.stem == "imagenet":
        yield from (forward * channels, forward * channels)
    blocks = list(zip(network.block_layers, network.growth_rates, strict=True))
    for i, (layers, growth) in enumerate(blocks):
        yield from (forward * channels, backward * channels)
        for layer in range(layers):
            if network.bottleneck:
                yield from (forward * 4 * growth, backward * 4 * growth)
            if layer + 1 < layers:  # what the last one makes, nobody in the block normalises
                yield forward * growth
            yield backward * growth
        channels += layers * growth
        if i + 1 < len(blocks):
            yield from (forward * channels, backward * channels)
            channels = int(channels * network.compression)
    yield from (forward * channels, forward * channels)


def normalised(network: NetworkSpec) -> Iterator[int]:
    """Channels of every batch normalisation."""
    channels = network.stem_width
    if network.stem == "imagenet":
        yield channels
    blocks = list(zip(network.block_layers, network.growth_rates, strict=True))
    for i, (layers, growth) in enumerate(blocks):
        for _ in range(layers):
            yield channels
            if network.bottleneck:
                yield 4 * growth
            channels += growth
        yield channels
        if i + 1 < len(blocks):
            channels = int(channels * network.compression)


if __name__ == "__main__":
    main()
