"""Every limit of the server, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may take.

    Attributes:
        body: bytes of a request's body.
        pixels: of an image, checked before it is decoded.
        images: of a request.
        requests: at work at one time; a request counts once its body is whole, so slow senders hold nobody up.
        held: bytes of all bodies together, whole or still coming.
        queue: images that wait for the network.
        batch: images that are answered together, at most.
        connections: open at one time.
        head_seconds: from a connection, or the last answer on it, to a whole head of a request.
        body_seconds: from there to a whole body.
        answer_seconds: from there to the answer.
        idle_seconds: that a connection stays open without a request.
    """

    body: int = 16 * 2**20
    pixels: int = 16_000_000
    images: int = 64
    requests: int = 64
    held: int = 128 * 2**20
    queue: int = 256
    batch: int = 8
    connections: int = 512
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    answer_seconds: float = 30.0
    idle_seconds: int = 5
