"""One contender of a benchmark, in a process of its own: builds, then trains a few steps each time it is told to.

Started by `interleave.py`, not by hand. Reads its task as JSON from the command line, then a word a line from standard
input: `go` runs one round and answers with its seconds, `memory` answers with the peak. A process each, because Keras
has one engine a process, and because only so the peak memory is a contender's own.
"""

import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

warnings.filterwarnings("ignore")


def resident(device: str) -> int:
    """Bytes of memory in use now."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def data(task: dict[str, Any], shape: tuple[Any, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise: the time of a step does not depend on what they show."""
    rng = np.random.default_rng(task["seed"])
    count = task["batch"] * task["steps"]
    return rng.normal(size=(count, *shape)).astype("float32"), rng.integers(0, classes, count)


def finish(device: str) -> None:
    """Wait until everything asked for is done: a GPU works behind the program's back."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def memory(device: str, start: int) -> dict[str, int]:
    """The peak, and what was in use before the first step: of the process, or on a GPU of PyTorch's allocator there."""
    if device == "cuda":
        import torch

        return {"peak": torch.cuda.max_memory_allocated(), "start": start}
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "start": start}


def keras_fit(task: dict[str, Any], fused: bool | None, graphed: bool = False) -> Callable[[], None]:
    """Whole steps through `model.fit`: loss, optimizer, metrics, progress hooks, everything."""
    import keras

    from densely.architecture import build, spec
    from densely.training.optimizers import CoupledSGD

    keras.utils.set_random_seed(task["seed"])
    if task["dtype"] == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    network = spec(task["network"], dropout=task["dropout"], activation="none", **task["changes"])
    model = build(network, fused=fused)
    model.compile(
        CoupledSGD(0.01, 0.9, True, coupled_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = data(task, network.input_shape, network.classes)
    if graphed:
        from densely.training import graphs

        model.train_function = graphs.GraphedStep(model, task["batch"], graphs.captured, graphs.aside)
    return lambda: model.fit(x, y, batch_size=task["batch"], epochs=1, verbose=0, shuffle=False)


def textbook(task: dict[str, Any], compiled: bool = False, memory_efficient: bool = False) -> Callable[[], None]:
    """The loop that a PyTorch textbook writes, with the multi-tensor optimizer; no metrics, no progress."""
    import torch
    from peers import DenseNet

    from densely.architecture import spec

    torch.manual_seed(task["seed"])
    network = spec(task["network"], dropout=task["dropout"], **task["changes"])
    model: Any = DenseNet(network, memory_efficient)
    model.to(memory_format=torch.channels_last)
    model.to(task["device"])
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, foreach=True)
    if compiled:
        model = torch.compile(model)
    numbers, answers = data(task, network.input_shape, network.classes)
    x, y = torch.from_numpy(numbers).permute(0, 3, 1, 2), torch.from_numpy(answers)
    half = task["dtype"] == "bfloat16"

    def run() -> None:
        for start in range(0, len(x), task["batch"]):
            batch = slice(start, start + task["batch"])
            images, labels = x[batch].to(task["device"]), y[batch].to(task["device"])
            with torch.autocast(task["device"], torch.bfloat16, enabled=half):
                loss: Any = torch.nn.functional.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def block_alone(task: dict[str, Any], make: Callable[[int, int, Any], Any], channels_last: bool) -> Callable[[], None]:
    """One dense block of `layers` layers on 32×32 maps, forward and backward, no optimizer."""
    import torch

    from densely.architecture import spec

    torch.manual_seed(task["seed"])
    network = spec(task["network"], dropout=task["dropout"], **task["changes"])
    channels, half = network.stem_width, task["dtype"] == "bfloat16"
    block = make(channels, task["layers"], network)
    x = torch.randn(task["batch"], 32, 32, channels, device=task["device"])
    x = x.permute(0, 3, 1, 2) if not channels_last else x

    def run() -> None:
        for _ in range(task["steps"]):
            with torch.autocast(task["device"], torch.bfloat16, enabled=half):
                y = block(x.requires_grad_())
            y.backward(torch.ones_like(y))
            x.grad = None

    return run


def keras_block(fused: bool | None) -> Callable[[dict[str, Any]], Callable[[], None]]:
    """The Keras layer."""

    def make(channels: int, layers: int, network: Any) -> Any:
        from densely.layers import DenseBlock

        block = DenseBlock(
            layers, network.growth_rate, bottleneck=network.bottleneck, dropout=network.dropout, fused=fused
        )
        block.build((None, 32, 32, channels))
        return lambda x: block(x, training=True)

    return lambda task: block_alone(task, make, channels_last=True)


def textbook_block(memory_efficient: bool) -> Callable[[dict[str, Any]], Callable[[], None]]:
    """The textbook's block."""

    def make(channels: int, layers: int, network: Any) -> Any:
        import torch
        from peers import Block

        block: Any = Block(channels, layers, network, memory_efficient)
        return block.to(memory_format=torch.channels_last)

    return lambda task: block_alone(task, lambda *given: make(*given).to(task["device"]), channels_last=False)


def asking(answer: Callable[[Any], Callable[[np.ndarray], Any]]) -> Callable[[dict[str, Any]], Callable[[], None]]:
    """Batches asked about, one after the other; `answer` makes from a network what answers."""

    def make(task: dict[str, Any]) -> Callable[[], None]:
        import keras

        from densely.architecture import spec

        keras.utils.set_random_seed(task["seed"])
        network = spec(task["network"], **task["changes"])
        x, _ = data(task, network.input_shape, network.classes)
        ask = answer(network)

        def run() -> None:
            for start in range(0, len(x), task["batch"]):
                ask(x[start : start + task["batch"]])

        return run

    return make


def keras_predict(network: Any) -> Callable[[np.ndarray], Any]:
    """The Keras model."""
    from densely.architecture import build

    model = build(network)
    return lambda images: model.predict_on_batch(images)


def exported(suffix: str, int8: bool = False) -> Callable[[Any], Callable[[np.ndarray], Any]]:
    """An export in its own runtime."""

    def answer(network: Any) -> Callable[[np.ndarray], Any]:
        from densely.architecture import build
        from densely.export import int8 as quantised
        from densely.export import onnx, program
        from densely.export.description import Description
        from densely.export.folding import fold

        description = Description(
            name="benchmark",
            class_names=tuple(map(str, range(network.classes))),
            multi_label=False,
            input_shape=network.input_shape,
            with_preprocessing=False,
            preprocessing={},
        )
        folded = fold(build(network), network, network.input_shape)
        kind: Any = onnx if suffix == "onnx" else program
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model.{suffix}"
            if int8:
                seen = np.random.default_rng(0).normal(size=(64, *network.input_shape)).astype("float32")
                quantised.write(folded, description, path, seen)
            else:
                kind.write(folded, description, path)
            return kind.reopened(path)  # type: ignore[no-any-return]

    return answer


def textbook_eval(network: Any) -> Callable[[np.ndarray], Any]:
    """The textbook's network, as it is asked in channels-last."""
    import torch
    from peers import DenseNet

    model: Any = DenseNet(network, memory_efficient=False).eval()
    model.to(memory_format=torch.channels_last)

    def answer(images: np.ndarray) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2)).softmax(1).numpy()

    return answer


#: Asked about images, nothing learnt.
PREDICTORS: dict[str, Callable[[dict[str, Any]], Callable[[], None]]] = {
    "Keras": asking(keras_predict),
    "textbook PyTorch": asking(textbook_eval),
    "torch.export": asking(exported("pt2")),
    "ONNX Runtime": asking(exported("onnx")),
    "ONNX Runtime, int8": asking(exported("onnx", int8=True)),
}

#: One block alone; bfloat16 is autocast's, which the reference path of Keras was not made for.
BLOCKS: dict[str, Callable[[dict[str, Any]], Callable[[], None]]] = {
    "densely": keras_block(None),
    "densely, Triton": keras_block(None),
    "textbook PyTorch": textbook_block(False),
    "checkpoint": textbook_block(True),
    "Keras on torch": keras_block(False),
}

CONTENDERS: dict[str, Callable[[dict[str, Any]], Callable[[], None]]] = {
    "densely": lambda task: keras_fit(task, fused=None),
    "densely, Triton": lambda task: keras_fit(task, fused=None),
    "densely, CUDA graph": lambda task: keras_fit(task, fused=None, graphed=True),
    "textbook PyTorch": textbook,
    "torch.compile": lambda task: textbook(task, compiled=True),
    "checkpoint": lambda task: textbook(task, memory_efficient=True),
    "Keras on torch": lambda task: keras_fit(task, fused=False),
    "Keras on jax": lambda task: keras_fit(task, fused=False),
}


def main() -> None:
    """Build, then obey."""
    task = json.loads(sys.argv[1])
    # Results alone go to standard output, whatever a library may print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    kind = PREDICTORS if task.get("asked") else BLOCKS if "layers" in task else CONTENDERS
    run = kind[task["contender"]](task)
    device = task["device"]
    run_start = resident(device)
    for word in sys.stdin:
        if word.strip() == "go":
            began = time.perf_counter()
            run()
            finish(device)
            answer: dict[str, float] = {"seconds": time.perf_counter() - began}
        else:
            answer = {**memory(device, run_start)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
