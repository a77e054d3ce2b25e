"""`Guard`: what stands before the application. Who may ask, how much may come, how long it may take, how many at once.

The body is read here, whole, before the application hears of the request: a slow sender then holds nothing but its own
connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from secrets import compare_digest

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from densely import loopback
from densely.errors import reason
from densely.serve.limits import Limits
from densely.serve.metrics import Metrics
from densely.serve.refusal import Refused, busy

HEADERS = {
    **loopback.HEADERS,
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
}
#: What needs no token: the page asks for it, and those who watch a server ask whether it lives.
OPEN = ("/", "/health")
#: Seconds and bodies for which a refused body is read and thrown away. A client that is still sending when its
#: connection closes would not hear why.
DRAIN_SECONDS, DRAIN_BODIES = 2.0, 4


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        limits: of bodies, requests and time.
        metrics: told of every answer.
        token: that clients must show, if any.
        hosts: names that a client may call the server by; None for any, empty for this machine's own only.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, token: str | None, hosts: Sequence[str] | None
    ) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.token = _digest(token.encode()) if token else None
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.held = 0
        self.at_work = 0
        metrics.at_work.set_function(lambda: self.at_work)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] != "http":  # the application's own start and end
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(send)
        try:
            await self._answered(scope, receive, answer)
        except Refused as why:
            self.metrics.errors.labels(why.kind).inc()
            await answer.refuse(why)
        except _ClientGone:
            self.metrics.errors.labels("gone").inc()
            return
        except Exception as error:
            # Starlette has sent the answer of status 500 by now; this is for whoever runs the server.
            self.metrics.errors.labels("internal").inc()
            _tell(error)
            await answer.refuse(Refused(500, "internal", "The server failed; its log says more."))
        finally:
            if answer.status:
                self.metrics.answered(scope["path"], answer.status)
                if scope["path"] == "/predict":
                    self.metrics.seconds.observe(time.perf_counter() - began)

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        headers = Headers(scope=scope)
        length = _declared(headers)
        taken = (scope["method"], scope["path"]) == ("POST", "/predict")
        try:
            self._check_asker(scope["path"], headers)
            if length is not None and length > (self.limits.body if taken else 0):
                raise self._too_large()
        except Refused:
            answer.last = True
            await self._drain(receive, headers)
            raise
        if not taken:
            answer.last = "transfer-encoding" in headers  # a body that nobody reads
            await self._in_time(scope, _nothing, answer)
            return
        body = _Body(self)
        try:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    await body.read(receive)
            except TimeoutError:
                answer.last = True
                seconds = f"{self.limits.body_seconds:g} seconds"
                raise Refused(408, "slow_body", f"The body did not come within {seconds}.") from None
            except Refused:
                answer.last = True
                await self._drain(receive, headers)
                raise
            if self.at_work >= self.limits.requests:
                raise busy("Too many requests at one time")
            self.at_work += 1
            try:
                await self._in_time(scope, body.again, answer)
            finally:
                self.at_work -= 1
        finally:
            body.forget()

    async def _in_time(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                await self.app(scope, receive, answer.send)
        except TimeoutError:
            answer.last = True
            seconds = f"{self.limits.answer_seconds:g} seconds"
            raise Refused(
                503, "timeout", f"There was no answer within {seconds}: ask again.", {"Retry-After": "1"}
            ) from None

    def _check_asker(self, path: str, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if self.hosts is not None and not (len(hosts) == 1 and self._is_ours(hosts[0])):
            raise Refused(403, "host", "Only for this machine: another name led here (--allow-host lets it in).")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and path != "/":
            raise Refused(403, "cross_site", "Another site's page may not ask this server.")
        if self.token is None or path in OPEN:
            return
        kind, _, shown = headers.get("authorization", "").partition(" ")
        # Digests are of one length, so that not even that of the token shows in the time it takes.
        if kind.lower() != "bearer" or not compare_digest(_digest(shown.strip().encode("latin-1")), self.token):
            sentence = "This server wants its token: send the header Authorization: Bearer TOKEN."
            raise Refused(401, "unauthorized", sentence, {"WWW-Authenticate": "Bearer"})

    def _is_ours(self, host: str) -> bool:
        return bool(loopback.NAMES.fullmatch(host)) or re.sub(r":\d+$", "", host).lower() in (self.hosts or ())

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"The body is larger than {self.limits.body:,} bytes: send a smaller image.")

    async def _drain(self, receive: Receive, headers: Headers) -> None:
        if "expect" in headers or not ("content-length" in headers or "transfer-encoding" in headers):
            return
        with suppress(TimeoutError, _ClientGone):
            async with asyncio.timeout(DRAIN_SECONDS):
                size, more = 0, True
                while more and size <= DRAIN_BODIES * self.limits.body:
                    data, more = await _part(receive)
                    size += len(data)


class _Body:
    """A body as it comes in."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.data = bytearray()
        self.given = False

    async def read(self, receive: Receive) -> None:
        more = True
        while more:
            data, more = await _part(receive)
            if len(self.data) + len(data) > self.guard.limits.body:
                raise self.guard._too_large()
            if self.guard.held + len(data) > self.guard.limits.held:
                raise busy("Too much is being sent at one time")
            self.data += data
            self.guard.held += len(data)

    async def again(self) -> Message:
        """For the application: all at once, then nothing."""
        if self.given:
            return {"type": "http.disconnect"}
        self.given = True
        return {"type": "http.request", "body": bytes(self.data), "more_body": False}

    def forget(self) -> None:
        self.guard.held -= len(self.data)
        self.data = bytearray()


class _Answer:
    """What goes back, with the headers that all answers bear.

    Attributes:
        status: once it has been sent.
        last: whether the connection closes with it.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.last = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.last:
                headers["Connection"] = "close"
        await self._send(message)

    async def refuse(self, why: Refused) -> None:
        if self.status:
            return  # half an answer stands already
        body = json.dumps({"error": why.sentence}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **why.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": why.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})


class _ClientGone(Exception):  # noqa: N818 (no fault)
    """Nobody waits for an answer any more."""


async def _part(receive: Receive) -> tuple[bytes, bool]:
    """The next piece of a body, and whether more is to come."""
    message = await receive()
    if message["type"] != "http.request":
        raise _ClientGone
    return message.get("body", b""), message.get("more_body", False)


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def _declared(headers: Headers) -> int | None:
    """A body's length, as its head says."""
    text = headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _tell(error: Exception) -> None:
    if os.environ.get("DENSELY_DEBUG"):
        traceback.print_exception(error)
    else:
        print(
            f"densely: unexpected {type(error).__name__} in a request: {reason(error)} "
            "(this is a fault of Densely; set DENSELY_DEBUG=1 to see where).",
            file=sys.stderr,
            flush=True,
        )
