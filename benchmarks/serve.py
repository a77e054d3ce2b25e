"""`densely serve` under load: how many images a second against Keras, and whether it stands 5 % of bad clients.

    python benchmarks/serve.py                                  # densenet-bc-100-12, 32×32×3, weights by chance
    python benchmarks/serve.py --run runs/digits-1 --requests 10000

First the network is asked through Keras, one image after the other: `predict_on_batch`, and `model.predict`. Then a
server process gets the same images as PNG files from many clients at one time, over HTTP on loopback, decoding and all;
clients and server share the cores. Every answer is compared with that of Keras. Last come --requests good requests and
among them bad clients of fourteen kinds; memory is the server's resident memory.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import load
import numpy as np
import torch
from interleave import machine
from numpy.typing import NDArray

import densely
from densely.data import Preprocessing
from densely.model_file import Header, ModelFile, open_trained, write
from densely.runs import Inputs, Run

IMAGES = 256
TOLERANCE = 1e-4


def main() -> int:
    """Measure, print, and say by the exit code whether all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder or model file (default: --network, weights by chance)")
    parser.add_argument("--network", default="densenet-bc-100-12")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement of speed, about")
    parser.add_argument("--requests", type=int, default=10_000, help="of the load with bad clients; 0 leaves it out")
    parser.add_argument("--bad", type=float, default=0.05, help="share of bad clients")
    given = parser.parse_args()
    print(machine(torch.get_num_threads(), "cpu"))
    with tempfile.TemporaryDirectory() as scratch:
        source = given.run or by_chance(given.network, Path(scratch) / "network.safetensors")
        trained = open_trained(source)
        images = shown(trained)
        files = [load.png(image) for image in images]
        expected, batch_rate, predict_rate = through_keras(trained, images, given.seconds)
        print(f"{trained.name}, {'×'.join(map(str, trained.inputs.input_shape))}, {len(files)} different images")
        print(f"Keras, predict_on_batch of one image   {batch_rate:8.1f} images/s")
        print(f"Keras, predict of one image            {predict_rate:8.1f} images/s")
        process, port = started(source)
        try:
            names = trained.inputs.class_names
            right = speed(port, files, names, expected, given.clients, given.seconds, batch_rate, predict_rate)
            if given.requests:
                right &= stand(process, port, files, names, expected, given)
        finally:
            process.terminate()
            code = process.wait(30)
    print(f"The server ended with exit code {code}.")
    return 0 if right and code == 0 else 1


def by_chance(network: str, path: Path) -> Path:
    """A network with weights by chance: how fast it is does not depend on them."""
    import keras  # after densely, which chooses the engine

    keras.utils.set_random_seed(0)
    spec = densely.architecture.spec(network)
    height, width, channels = spec.input_shape
    assert height is not None and width is not None
    inputs = Inputs(
        class_names=tuple(f"class {i}" for i in range(spec.classes)),
        multi_label=False,
        input_shape=(height, width, channels),
        preprocessing=Preprocessing("unit", (0.0,) * channels, (1.0,) * channels).as_dict(),
    )
    model = densely.build(spec)
    # Answers that differ from image to image and from class to class, or there were nothing to compare.
    noise = np.random.default_rng(1).random((64, height, width, channels), dtype=np.float32)
    logits = keras.Model(model.input, model.get_layer("logits").output).predict_on_batch(noise)
    kernel, bias = model.get_layer("logits").weights
    spread = np.std(logits, axis=0)
    kernel.assign(keras.ops.convert_to_numpy(kernel) / spread)
    bias.assign(-np.mean(logits, axis=0) / spread)
    write(path, model, Header(name=network, network=spec, inputs=inputs))
    return path


def shown(trained: Run | ModelFile) -> NDArray[np.uint8]:
    """Images to ask for: of the test part of the digits, or noise."""
    shape = trained.inputs.input_shape
    if isinstance(trained, Run) and trained.config.data == "digits":
        test = densely.load("digits").test
        assert test is not None
        return test.images[:IMAGES]
    return np.random.default_rng(0).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)


def through_keras(
    trained: Run | ModelFile, images: NDArray[np.uint8], seconds: float
) -> tuple[NDArray[np.float32], float, float]:
    """The right answers, and images a second one by one: by `predict_on_batch`, and by `predict`."""
    model, prepare = trained.model(), trained.preprocessing
    expected = np.concatenate([model.predict_on_batch(prepare(images[i : i + 32])) for i in range(0, len(images), 32)])

    def rate(ask: Any) -> float:
        for i in range(5):
            ask(prepare(images[i : i + 1]))
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            ask(prepare(images[count % len(images)][None]))
            count += 1
        return count / (time.perf_counter() - began)

    return expected, rate(model.predict_on_batch), rate(lambda pixels: model.predict(pixels, verbose=0))


def started(source: Path) -> tuple["subprocess.Popen[str]", int]:
    """A server process and its port."""
    command = [sys.executable, "-m", "densely", "serve", str(source), "--port", "0", "--head-timeout", "5"]
    command += ["--body-timeout", "10"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Serving at"):
            return process, int(line.strip().rstrip("/").rsplit(":", 1)[1])
    raise SystemExit("The server did not start.")


def speed(
    port: int,
    files: list[bytes],
    names: tuple[str, ...],
    expected: NDArray[np.float32],
    clients: int,
    seconds: float,
    batch_rate: float,
    predict_rate: float,
) -> bool:
    """Images a second by the server, one client and many, and against Keras."""
    warm = asyncio.run(load.run(port, files, [i % len(files) for i in range(200)], clients))
    right = True
    for count in (1, clients):
        rate = 200 / warm.seconds
        numbers = [i % len(files) for i in range(max(len(files), round(rate * seconds)))]
        found = asyncio.run(load.run(port, files, numbers, count))
        rate = len(numbers) / found.seconds
        told = f"p50 {1000 * found.percentile(50):.1f} ms, p99 {1000 * found.percentile(99):.1f} ms"
        print(f"densely serve, {count:3} client{'s' if count > 1 else ' '}              {rate:8.1f} images/s, {told}")
        right &= compared(found, numbers, names, expected)
    print(
        f"many clients against Keras: {rate / batch_rate:.1f} × predict_on_batch, {rate / predict_rate:.1f} × predict"
    )
    return right


def compared(found: load.Load, numbers: list[int], names: tuple[str, ...], expected: NDArray[np.float32]) -> bool:
    """Whether every good request got the right answer."""
    worst, missing = 0.0, 0
    for i, number in enumerate(numbers):
        status, body = found.answers.get(i, (0, b""))
        if status != 200:
            missing += 1
            continue
        p = load.probabilities(body, names)
        told = np.isfinite(p)  # the five likeliest
        worst = max(worst, float(np.abs(p - expected[number])[told].max()))
    right = missing == 0 and worst <= TOLERANCE
    verdict = "right" if right else "WRONG"
    print(f"  answers: {len(numbers) - missing} of {len(numbers)}, off by {worst:.1g} at most: {verdict}")
    return right


def stand(
    process: "subprocess.Popen[str]",
    port: int,
    files: list[bytes],
    names: tuple[str, ...],
    expected: NDArray[np.float32],
    given: argparse.Namespace,
) -> bool:
    """A load with bad clients in it, a thousand requests at a time, and the server's memory between."""
    bad, right = load.kinds(files[0]), True
    print(f"memory at start                         {memory(process):8.1f} MiB")
    made: dict[str, int] = {}
    for begun in range(0, given.requests, 1000):
        count = min(1000, given.requests - begun)
        hostile = round(given.bad * count)
        numbers = [(begun + i) % len(files) for i in range(count - hostile)]

        async def both(numbers: list[int] = numbers, hostile: int = hostile) -> load.Load:
            spoilt = load.Load()
            task = asyncio.create_task(load.spoil(port, spoilt, bad, hostile, 4.0))
            found = await load.run(port, files, numbers, given.clients)
            await task
            found.wrong, found.bad = spoilt.wrong, spoilt.bad
            return found

        found = asyncio.run(both())
        told = f"p50 {1000 * found.percentile(50):.0f} ms, p99 {1000 * found.percentile(99):.0f} ms"
        print(f"after {begun + count:6} requests                   {memory(process):8.1f} MiB, {told}", flush=True)
        right &= compared(found, numbers, names, expected) and not found.wrong and process.poll() is None
        for wrong in found.wrong:
            print(f"  WRONG: {wrong}")
        made = {name: made.get(name, 0) + found.bad.get(name, 0) for name in bad}
    print(f"bad clients, each refused as it must be: {json.dumps(made)}")
    return right


def memory(process: "subprocess.Popen[str]") -> float:
    """MiB that a process has in memory."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
