"""A real server process around a tiny network whose right answer anybody can compute: the brightest channel wins."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

NAMES = ("red", "green & <b>", "blue")
SHAPE = (8, 8, 3)
#: Logits are mean/255 of each channel, times this.
SHARPNESS = 10.0


def write_model(
    path: Path, names: tuple[str, ...] = NAMES, multi_label: bool = False, wait: int = 0, **changes: Any
) -> Path:
    """An ONNX file as `densely export` writes it: raw pixels in, probabilities and activation maps out.

    The maps are the channels themselves, as means over 4×4 pixels.

    Args:
        path: of the file.
        names: of the classes.
        multi_label: whether probabilities are sigmoids.
        wait: work for nothing, this many matrices of 700×700 multiplied, so that the network is slow.
        changes: of the description.
    """
    factor = np.array(SHARPNESS / 255, np.float32)
    middle = np.array(SHARPNESS / 2 if multi_label else 0, np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["first"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Mul", ["pooled", "factor"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "middle"], ["maps"]),
        helper.make_node("Transpose", ["maps"], ["activation_maps"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["maps", "sides"], ["logits"], keepdims=0),
    ]
    constants = {"factor": factor, "middle": middle, "sides": np.array([2, 3], np.int64)}
    result = "logits"
    if wait:
        constants["much"] = np.full((700, 700), 1e-3, np.float32)
        constants["all"] = np.array([0, 1], np.int64)
        constants["nothing"] = np.array(0, np.float32)
        constants["first_image"] = np.array([1, 1], np.int64)
        constants["none"] = np.array([0], np.int64)
        # Depends on the image, or it would be computed once and for all.
        nodes += [
            helper.make_node("Gather", ["pixels", "none"], ["one"], axis=0),
            helper.make_node("ReduceMean", ["one"], ["seed"], keepdims=0),
            helper.make_node("Add", ["much", "seed"], ["product_0"]),
        ]
        for i in range(wait):
            nodes += [
                helper.make_node("MatMul", [f"product_{i}", "much"], [f"raw_{i}"]),
                helper.make_node("Mul", [f"raw_{i}", "nothing"], [f"zero_{i}"]),
                helper.make_node("Add", [f"zero_{i}", "much"], [f"product_{i + 1}"]),
            ]
        nodes += [
            helper.make_node("ReduceMean", [f"product_{wait}", "all"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
            helper.make_node("Add", ["logits", "zero"], ["late"]),
        ]
        result = "late"
    nodes.append(
        helper.make_node("Sigmoid", [result], ["probabilities"])
        if multi_label
        else helper.make_node("Softmax", [result], ["probabilities"], axis=-1)
    )
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *SHAPE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("activation_maps", TensorProto.FLOAT, ["N", 2, 2, 3]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    description = {
        "format": 1,
        "name": "brightest-channel",
        "class_names": names,
        "multi_label": multi_label,
        "input_shape": SHAPE,
        "preprocessing": {},
        "with_preprocessing": True,
        **changes,
    }
    helper.set_model_props(model, {"densely": json.dumps(description)})
    onnx.save(model, path)
    return path


def expected(image: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """What the tiny network must say of uint8 `(8, 8, 3)`: probabilities of the three channels."""
    logits = SHARPNESS * image.reshape(-1, 3).mean(axis=0) / 255
    if multi_label:
        return 1 / (1 + np.exp(-(logits - SHARPNESS / 2)))
    e = np.exp(logits - logits.max())
    return e / e.sum()


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    with io.BytesIO() as file:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
        return file.getvalue()


def coloured(red: int, green: int, blue: int, side: int = 8) -> bytes:
    return encoded(np.full((side, side, 3), (red, green, blue), np.uint8))


class Served:
    """A server process.

    Attributes:
        address: ends in `/`.
        port: of it.
        process: the process itself.
        client: of HTTP, that asks it.
    """

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self.process = process
        self.address = address
        self.port = int(re.search(r":(\d+)/$", address)[1])
        self.client = httpx.Client(base_url=address, timeout=30, trust_env=False)

    def metric(self, name: str) -> float:
        """The value of a metric, labels and all; 0 where it never happened."""
        for line in self.client.get("metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def connected(self) -> socket.socket:
        """A raw socket to it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def memory(self) -> int:
        """Bytes that the process has in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])


@contextmanager
def served(source: Path, *options: object, env: dict[str, str] | None = None) -> Iterator[Served]:
    """A real `densely serve`, ended by SIGTERM or by the test; it must end in order, and tell of no fault."""
    command = [sys.executable, "-W", "error", "-m", "densely", "serve", str(source), "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    try:
        address = ""
        for line in process.stdout:
            if line.startswith("Serving at"):
                address = line.split()[-1]
                break
        assert address, process.stderr.read()
        server = Served(process, address)
        with server.client:
            yield server
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        rest, said = process.communicate(timeout=20)
        assert process.returncode == 0, said
        assert "Stopped." in rest
        assert "fault" not in said and "Traceback" not in said, said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def raw(server: Served, sent: bytes, seconds: float = 20) -> tuple[bytes, float]:
    """What comes back on a raw connection until it closes, and after how many seconds it does."""
    began = time.monotonic()
    with server.connected() as connection:
        connection.settimeout(seconds)
        connection.sendall(sent)
        return everything(connection), time.monotonic() - began


def everything(connection: socket.socket) -> bytes:
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
