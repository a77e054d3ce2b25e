"""How long a folder of very many small images takes to be listed and looked up, and how much memory.

    python benchmarks/listing.py --classes 1000 --images 1000

Makes the folder (one real PNG a class, the others hard links to it: entries, but hardly any disk), then reads it in a
process of its own as a training would that cannot hold it: names, labels, size and time of every file, headers of 200.
No pixel is decoded. The folder has just been written, so the system knows its entries: a cold disk adds its own time.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from interleave import machine
from PIL import Image

from densely.data import folder


def main() -> None:
    """Make the folder, then measure in another process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=1000, help="of each class")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure (default: the system's own)")
    parser.add_argument("--read", type=Path, default=None, help="measure this folder, here and now")
    given = parser.parse_args()
    if given.read is not None:
        read(given.read)
        return
    print(machine(1, "cpu"), flush=True)
    with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
        root = Path(scratch) / "many"
        began = time.perf_counter()
        make(root, given.classes, given.images)
        print(f"{given.classes * given.images:,} files made in {time.perf_counter() - began:.1f} s", flush=True)
        subprocess.run([sys.executable, __file__, "--read", str(root)], check=True)


def make(root: Path, classes: int, images: int) -> None:
    """One image a class, and its other names."""
    for label in range(classes):
        inside = root / f"class-{label:04}"
        inside.mkdir(parents=True)
        first = inside / "image-000000.png"
        noise = np.random.default_rng(label).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(first)
        for i in range(1, images):
            (inside / f"image-{i:06}.png").hardlink_to(first)


def read(root: Path) -> None:
    """Seconds, also without other work beside it, and memory above that of a process that has imported everything."""
    before = peak()
    began, worked = time.perf_counter(), time.process_time()
    parts = folder.load(root, cache=0, workers=0)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    n = len(parts.train)
    print(
        f"{n:,} files listed in {seconds:.1f} s, {n / seconds:,.0f} a second; {worked:.1f} s of it on the processor; "
        f"{peak() - before:,.0f} MB more memory"
    )


def peak() -> float:
    """The most memory that this process has had, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == "darwin" else most * 1024 / 1e6


if __name__ == "__main__":
    main()
