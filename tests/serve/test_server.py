"""`densely serve` as a user starts and ends it: what it takes, what it says, its exit code."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from serving import NAMES, Served, coloured, encoded, raw, served, write_model

from densely import export
from densely.data import load
from densely.errors import DataError, UsageError
from densely.model_file import ModelFile
from densely.prediction import predict
from densely.runs import Run
from densely.serve.server import serve as start
from densely.training.single import train

PNG = {"Content-Type": "image/png"}


def serve(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    """A server that does not come to serving."""
    command = [sys.executable, "-m", "densely", "serve", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "150", **env}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def refused(words: tuple[object, ...], code: int, said: str) -> None:
    done = serve(*words)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("densely: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "digits"
    return train("digits", out=out, model="densenet-bc-16-8", epochs=3, console=Console(quiet=True))


def test_a_run_is_served_with_its_test_images_and_answers_as_predict_does(digits: Run, tmp_path: Path) -> None:
    test = load("digits").test
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(test.images[i, ..., 0]))
    expected = predict(digits, paths, top=10)
    with served(digits.folder) as server:
        told = server.client.get("model").json()
        assert told["class_names"] == list("0123456789")
        assert told["samples"] == list("0123456789")  # one of each class
        files = [("image", (path.name, path.read_bytes())) for path in paths]
        found = server.client.post("predict?top=10&maps=true", files=files).json()["images"]
        for one, guesses in zip(found, expected, strict=True):
            p = {guess.label: guess.probability for guess in guesses}
            assert one["top"][0]["class"] == guesses[0].label
            np.testing.assert_allclose(
                [t["probability"] for t in one["top"]], [p[t["class"]] for t in one["top"]], atol=1e-5
            )
            # The mean of a class's map is its logit: softmax of the means gives the probabilities back.
            logits = np.array([np.mean(t["map"]["values"]) for t in one["top"]])
            np.testing.assert_allclose(
                np.exp(logits) / np.exp(logits).sum(), [t["probability"] for t in one["top"]], atol=1e-3
            )
        for i in range(10):
            answer = server.client.post("predict", content=server.client.get(f"samples/{i}").content, headers=PNG)
            assert answer.status_code == 200
        # Neither Keras nor PyTorch is in it.
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "onnxruntime" in maps and "libtorch" not in maps


@pytest.mark.slow
def test_a_model_file_and_an_exported_file_are_served(digits: Run, tmp_path: Path) -> None:
    image = encoded(load("digits").test.images[0, ..., 0])
    answers = []
    export.onnx_file(digits, tmp_path / "model.onnx")
    sources = [export.export(digits, "safetensors", out=tmp_path / "s").path, tmp_path / "model.onnx"]
    assert ModelFile.open(sources[0]).name == "densenet-bc-16-8"
    for source in sources:
        with served(source) as server:
            answers.append(server.client.post("predict", content=image, headers=PNG).json())
            assert len(server.client.get("model").json()["samples"]) == 10  # the shipped digits
    assert [one["class"] for one in answers[0]["images"][0]["top"]] == [
        one["class"] for one in answers[1]["images"][0]["top"]
    ]


def test_what_cannot_be_served_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    for source, code, said in (
        ("nothing.onnx", 2, "There is no model file nothing.onnx"),
        (tmp_path / "empty", 2, "is no run folder"),
        (tmp_path / "broken.safetensors", 1, "is damaged, or no safetensors file"),
    ):
        refused((source, "--port", 0), code, said)


def test_wrong_options_are_told(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.png").write_bytes(b"x")
    options: dict[str, object]
    for options, kind, said in (
        ({"host": "not a host"}, UsageError, "is no address of a machine"),
        ({"weights": "best"}, UsageError, "holds one set of weights: leave --weights out"),
        ({"token": "short"}, UsageError, "--token must be at least 8"),
        ({"token": "with spaces in it"}, UsageError, "--token must be at least 8"),
        ({"samples": tmp_path / "nothing"}, UsageError, "There is no folder"),
        ({"samples": tmp_path / "empty"}, UsageError, r"has no \.png"),
        ({"samples": tmp_path / "bad"}, DataError, "is not a PNG"),
    ):
        quiet = Console(quiet=True)
        with pytest.raises(kind, match=said):
            start(tiny, out=quiet, err=quiet, **{"port": 0, **options})
    assert serve(tiny, "--max-batch", 0).returncode == 2


def test_a_port_that_is_taken_is_told(tiny: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused((tiny, "--port", port), 1, f"Port {port} of 127.0.0.1 is taken: choose another by --port")


def test_it_warns_where_other_machines_reach_it(tiny: Path) -> None:
    command = [sys.executable, "-m", "densely", "serve", str(tiny), "--port", "0", "--host", "0.0.0.0"]
    for token, said in (([], "everybody who reaches this machine"), (["--token", "correct-horse"], "unencrypted")):
        process = subprocess.Popen(command + token, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        address = next(line for line in process.stdout if line.startswith("Serving at")).split()[-1]
        server = Served(process, address)
        # Any name may lead there.
        answer, _ = raw(server, b"GET /health HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
        server.client.close()
        process.terminate()
        _, told = process.communicate(timeout=20)
        assert told.startswith("Warning: ") and said in told
        assert process.returncode == 0


def test_ipv6_works(tiny: Path) -> None:
    with socket.socket(socket.AF_INET6) as tried:
        try:
            tried.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    with served(tiny, "--host", "::1") as server:
        assert server.address.startswith("http://[::1]:")
        assert server.client.get("health").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_being_answered_finish(number: signal.Signals, tmp_path: Path) -> None:
    with served(write_model(tmp_path / "m.onnx", wait=30), "--threads", 1) as server:
        body = coloured(220, 10, 20)
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: "
        idle = server.connected()
        with server.connected() as connection:
            connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            while server.metric("densely_requests_in_flight") == 0:
                time.sleep(0.01)
            server.process.send_signal(number)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200") and NAMES[0].encode() in answer
        idle.close()
        assert server.process.wait(15) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_exports_leaves_nothing_behind(number: signal.Signals, digits: Run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "densely", "serve", str(digits.folder), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("densely-serve-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(number)
        out, said = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert out == "" and said == "densely: interrupted.\n"
    assert list(tmp_path.glob("densely-serve-*")) == []


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "densely", "serve", str(write_model(tmp_path / "m.onnx")), "--port", "0"]
    with subprocess.Popen([*command, "--body-timeout", "60"], stdout=subprocess.PIPE, text=True) as process:
        port = int(next(line for line in process.stdout if line.startswith("Serving")).rstrip("/\n").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None  # it waits for the slow one
            process.send_signal(signal.SIGTERM)
            assert process.wait(2) == 128 + signal.SIGTERM


def test_without_its_packages_it_says_what_to_install(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    done = serve(tiny, PYTHONPATH=path)
    assert done.returncode == 2
    assert (
        done.stderr == "densely: densely serve needs packages that are not installed: pip install 'densely[serve]'.\n"
    )
