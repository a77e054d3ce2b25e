"""`Connection`: uvicorn's own, which in addition does not wait for ever.

Uvicorn closes a connection that stays silent after an answer; for one that has never said a whole sentence it would
wait without end, and one whose client reads nothing it would keep for ever. Neither costs a client anything.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from densely.serve.limits import Limits
from densely.serve.metrics import Metrics

_SAID = b'{"error":"Too many connections are open: ask again in a few seconds."}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_SAID), _SAID)
)


def limited(limits: Limits, metrics: Metrics) -> type[H11Protocol]:
    """The class of connections that keep to `limits`; uvicorn makes one for every client."""

    class Connection(H11Protocol):
        deadline: asyncio.TimerHandle | None = None
        unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            metrics.connections.set(len(self.connections))
            if len(self.connections) > limits.connections:
                metrics.errors.labels("connections").inc()
                transport.write(_BUSY)
                self._end()
            else:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            metrics.connections.set(len(self.connections))
            self._unwatch()
            self._unpause()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.unread = self.loop.call_later(limits.answer_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._unpause()

        def _unpause(self) -> None:
            if self.unread is not None:
                self.unread.cancel()
                self.unread = None

        def _watch(self) -> None:
            """One clock for a head that is not whole, or an answer that is not taken; no byte sets it back."""
            if self.transport.is_closing():
                if self.deadline is None:
                    self.deadline = self.loop.call_later(limits.head_seconds, self.transport.abort)
            elif self.conn.their_state is not h11.IDLE:
                self._unwatch()  # from here on the guard keeps the time
            elif self.deadline is None:
                self.deadline = self.loop.call_later(limits.head_seconds, self._too_slow)

        def _unwatch(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

        def _too_slow(self) -> None:
            if self.conn.trailing_data[0]:  # a keep-alive connection that says nothing is no error
                metrics.errors.labels("slow_head").inc()
            self._end()

        def _end(self) -> None:
            self._unwatch()
            self.transport.close()
            self._watch()

    return Connection
