"""The server of a live page: `/` and `/state.json`, on loopback, in a thread of its own."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from socketserver import TCPServer
from typing import Any

from densely import loopback

#: Tried in this order, so that the address is mostly the same; 0 is whatever port the system has left.
PORTS = (*range(8765, 8775), 0)
#: Seconds that a reader is waited for after the end.
PATIENCE = 3.0
HEADERS = {
    **loopback.HEADERS,
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class LivePage:
    """What readers are told of a training, and the server that tells them.

    Args:
        state: told first; what JSON has, numbers that are none allowed.

    Attributes:
        address: of the page.
        state: replaced as a whole, never changed, so that readers need no lock.
        asked: when somebody read it last, by `time.monotonic`.
        end_read: set when somebody has read the last state.

    Raises:
        OSError: if there is no port.
        RuntimeError: if there is no thread.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state
        self.asked = -math.inf
        self.end_read = threading.Event()
        self.html = files(__package__).joinpath("page.html").read_bytes()
        self._server = _bound(self)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        try:
            threading.Thread(target=self._server.serve_forever, args=(0.1,), name="live page", daemon=True).start()
        except RuntimeError:
            self._server.server_close()
            raise

    def tell(self, **changes: Any) -> None:
        """Change what readers are told."""
        self.state = {**self.state, **changes}

    def json(self) -> bytes:
        """The state; what is no number is null."""
        return json.dumps(_finite(self.state), allow_nan=False).encode()

    def close(self) -> None:
        """End, after whoever is reading has seen the last state, or some seconds."""
        if time.monotonic() - self.asked < PATIENCE:
            self.end_read.wait(PATIENCE)
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = os.name != "nt"  # Windows would share the port with another process

    def __init__(self, port: int, page: LivePage) -> None:
        self.page = page
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking for this machine's name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a reader who goes away is no trouble of the training's."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5  # seconds, for a reader who says nothing

    def do_GET(self) -> None:
        hosts = self.headers.get_all("Host", [])
        page = self.server.page
        if len(hosts) != 1 or not loopback.NAMES.fullmatch(hosts[0]):
            self._answer(403, "text/plain", b"Only for this machine.\n")
        elif self.path == "/":
            page.asked = time.monotonic()
            self._answer(200, "text/html", page.html)
        elif self.path == "/state.json":
            page.asked = time.monotonic()
            ended = page.state["phase"] in ("finished", "stopped")
            self._answer(200, "application/json", page.json())
            if ended:
                page.end_read.set()
        else:
            self._answer(404, "text/plain", b"There is only / and /state.json.\n")

    def _answer(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        headers = {**HEADERS, "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """The name alone: Python's version is nobody's business."""
        return "densely"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the console is the training's."""


def _bound(page: LivePage) -> _Server:
    """A server at the first port that is free."""
    *usual, last = PORTS
    for port in usual:
        with suppress(OSError):
            return _Server(port, page)
    return _Server(last, page)


def _finite(value: Any) -> Any:
    """The same with None for every number that is none: JSON has no word for those."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
