"""`densely serve`: starts the server, tells where it is, and ends it in order."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from rich.console import Console

from densely.console import counted, tell
from densely.data.digits import load as digits
from densely.errors import DenselyError, UsageError
from densely.export.description import Description
from densely.interruption import StopSignals
from densely.runs import Weights
from densely.serve import samples as sampling
from densely.serve.app import application
from densely.serve.connection import limited
from densely.serve.engine import ENDING, Engine
from densely.serve.guard import Guard
from densely.serve.limits import Limits
from densely.serve.metrics import Metrics
from densely.serve.preparing import MODEL, SAMPLES, prepare
from densely.serve.samples import Sample

#: Seconds that requests have to finish when the server is told to end.
PATIENCE = 5
#: Connections that wait to be accepted.
BACKLOG = 1024


def serve(
    source: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allowed: Sequence[str] = (),
    limits: Limits | None = None,
    threads: int | None = None,
    weights: Weights = "final",
    samples: Path | None = None,
    data_dir: Path | None = None,
    out: Console,
    err: Console,
) -> None:
    """Serve a trained network until a signal ends it.

    Args:
        source: a run folder, a `.safetensors` file, or an `.onnx` file that `densely export` wrote.
        host: the address to listen at; other machines reach only addresses that are not loopback.
        port: 0 for any that is free.
        token: that clients must show; None lets everybody in.
        allowed: host names that clients may use besides this machine's own, where it listens on loopback.
        limits: default `Limits()`.
        threads: that a batch is computed with; default one a core.
        weights: of a run: `"final"` or `"best"`.
        samples: a folder with images for the page; default those of the run's test part.
        data_dir: where the run's data lie.
        out: told the address.
        err: told what is unwise.

    Raises:
        UsageError: for a source, address, token or folder that cannot be.
        DenselyError: if the source is damaged, or the port is taken.
    """
    limits = limits or Limits()
    _check_token(token)
    offered = None if samples is None else sampling.of_folder(samples)
    listener = _bound(host, port)
    try:
        engine, own = _opened(source, weights, threads, data_dir, offered is None)
        metrics = Metrics()
        app = application(engine, limits, metrics, own if offered is None else offered)
        local = _is_local(listener)
        guard = Guard(app, limits, metrics, token, list(allowed) if local else None)
        warnings.filterwarnings("ignore", module="PIL")  # what it finds odd in clients' images is no news here
        server = _Server(_config(guard, limits, metrics))
        _tell(out, err, engine.meaning, _address(listener), local, token is not None)
        server.run(sockets=[listener])
    finally:
        listener.close()
    out.print("Stopped.")


class _Server(uvicorn.Server):
    """Uvicorn's, whose end after a signal is an end in order: everything is answered, and the exit code is 0."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what is being answered finish; the second ends at once."""
        if self.should_exit:
            os._exit(128 + sig)
        self.should_exit = True


def _config(guard: Guard, limits: Limits, metrics: Metrics) -> uvicorn.Config:
    # Its words are for those who run applications on it; the guard tells what concerns ours.
    # What clients send is no news either: one who sends much rubbish would fill the disk.
    for name in ("uvicorn", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return uvicorn.Config(
        guard,
        http=limited(limits, metrics),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("Server", "densely")],
        backlog=BACKLOG,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=PATIENCE,
    )


def _opened(
    source: Path, weights: Weights, threads: int | None, data_dir: Path | None, with_samples: bool
) -> tuple[Engine, list[Sample]]:
    """The network, and the samples that come with it."""
    if source.suffix.lower() == ENDING:
        if weights != "final":
            raise UsageError(f"{source} holds one set of weights: leave --weights out.")
        engine = Engine(source, threads)
        own = []
    else:
        # A signal while it is exported leaves neither the folder nor the other process behind.
        with StopSignals(), tempfile.TemporaryDirectory(prefix="densely-serve-") as name:
            folder = Path(name)
            prepare(source, folder, weights, data_dir, with_samples)
            engine = Engine(folder / MODEL, threads)
            own = sampling.read(folder / SAMPLES)
    if engine.meaning.input_shape[2] not in (1, 3, 4):
        channels = engine.meaning.input_shape[2]
        raise UsageError(f"{source} takes images of {channels} channels, which no image file has: call it from Python.")
    if not own and with_samples and _are_digits(engine.meaning):
        test = digits().test
        own = sampling.of_dataset(test) if test is not None else []
    return engine, own


def _are_digits(meaning: Description) -> bool:
    return meaning.input_shape == (8, 8, 1) and meaning.class_names == tuple("0123456789")


def _check_token(token: str | None) -> None:
    if token is not None and (not token.isascii() or not token.isprintable() or " " in token or len(token) < 8):
        raise UsageError("--token must be at least 8 letters, digits or signs, without spaces.")


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address, so that a port that is taken is told before anything is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(f"--host {host} is no address of a machine: give 127.0.0.1, 0.0.0.0 or a name.") from None
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # Windows would share the port with another process
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # whoever comes while the network is loaded waits, and is not turned away
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise DenselyError(
            f"Port {port} of {host} {why}: choose another by --port, or 0 for any that is free."
        ) from None
    return listener


def _is_local(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _tell(out: Console, err: Console, meaning: Description, address: str, local: bool, has_token: bool) -> None:
    if not local:
        warning = (
            "the token and all images travel unencrypted: put TLS before it."
            if has_token
            else "everybody who reaches this machine can use the network: give it a --token and put TLS before it."
        )
        tell(err, f"Warning: {warning}")
    tell(out, f"Network        {meaning.name}, {counted(len(meaning.class_names), 'class')}")
    tell(out, f"Serving at     {address}")
    out.file.flush()
