"""Clients for `benchmarks/serve.py`: many good ones on connections of their own, and every kind of bad one.

Written on bare sockets, so that the clients are not what is measured.
"""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass
class Load:
    """What came of a load.

    Attributes:
        seconds: that it took.
        times: of each good request, in seconds.
        answers: status and body of each good request, in order.
        wrong: what bad clients got that they should not have got.
        bad: how many bad clients there were, by kind.
    """

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    answers: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)

    def percentile(self, share: float) -> float:
        """Of the times, in seconds."""
        return float(np.percentile(self.times, share))


def png(image: NDArray[np.uint8] | Image.Image) -> bytes:
    """An image, uint8 `(H, W, C)`, as a file."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def request(body: bytes, kind: str = "image/png", length: int | None = None, more: str = "") -> bytes:
    """A whole request, or, with another `length`, less or more than one."""
    head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{more}"
    return f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body; status 0 where the connection ended without."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
        return int(head.split(b" ", 2)[1]), await (reader.readexactly(lengths[0]) if lengths else reader.read())
    except (OSError, asyncio.IncompleteReadError):
        return 0, b""


async def run(port: int, files: Sequence[bytes], numbers: Sequence[int], clients: int) -> Load:
    """Good requests from many clients at one time, each with a connection that it keeps.

    Args:
        port: on loopback.
        files: images to send.
        numbers: which of them, one a request.
        clients: how many.
    """
    load, waiting = Load(), iter(list(enumerate(numbers)))
    requests = [request(file) for file in files]

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i, number in waiting:
            began = time.perf_counter()
            while True:
                writer.write(requests[number])
                status, body = await answer(reader)
                if status != 503:
                    break
                await asyncio.sleep(0.05)  # as it is told to
            load.times.append(time.perf_counter() - began)
            load.answers[i] = status, body
            if not status:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


@dataclass(frozen=True)
class Bad:
    """A kind of bad client: what it does, and the status it must get; 0 is a connection that is closed on it."""

    act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    right: tuple[int, ...]


def _sends(data: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return act


def _drips(first: bytes) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while not reader.at_eof() and not writer.is_closing() and not reader._buffer:  # type: ignore[attr-defined]
            await asyncio.sleep(0.5)
            writer.write(b"x")

    return act


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    for _ in range(40):
        writer.write(b"80000\r\n" + bytes(0x80000) + b"\r\n")
        await writer.drain()


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(request(b"x", length=5000))
    await writer.drain()
    writer.transport.abort()


def kinds(good: bytes) -> dict[str, Bad]:
    """Every kind of bad client.

    Args:
        good: an image, to be spoilt.
    """
    with io.BytesIO() as file:
        Image.new("L", (2048, 2048)).save(file, "JPEG", progressive=True)
        jpeg = file.getvalue()
    scan = jpeg[jpeg.rindex(b"\xff\xda") : jpeg.rindex(b"\xff\xd9")]
    form = "multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'
    return {
        "bomb": Bad(_sends(request(png(Image.new("1", (16_000, 16_000))))), (413,)),
        "bomb within the limit": Bad(_sends(request(png(Image.new("RGB", (3000, 3000))))), (200,)),
        "JPEG of 5,000 scans": Bad(_sends(request(jpeg[:-2] + 5000 * scan + jpeg[-2:], "image/jpeg")), (422,)),
        "truncated": Bad(_sends(request(good[: len(good) // 2])), (422,)),
        "no image": Bad(_sends(request(b"Dear all,")), (415,)),
        "wrong type": Bad(_sends(request(good, "text/html")), (415,)),
        "no form": Bad(_sends(request(b"--c\r\n", form)), (400,)),
        "500 files": Bad(_sends(request(500 * (part + good + b"\r\n") + b"--b--\r\n", form)), (413,)),
        "no HTTP": Bad(_sends(b"\x16\x03\x01 hello\r\n\r\n"), (400, 0)),
        "a terabyte announced": Bad(_sends(request(b"x", length=10**12)), (413,)),
        "body without end": Bad(_endless, (413, 0)),
        "slow head": Bad(_drips(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: "), (0,)),
        "slow body": Bad(_drips(request(b"x", length=5000)), (408,)),
        "hangs up": Bad(_hangs_up, (0,)),
    }  # fmt: skip


async def spoil(port: int, load: Load, bad: dict[str, Bad], count: int, seconds: float) -> None:
    """Bad clients of every kind in turn, spread over so many seconds; slow ones go on beside the others.

    Args:
        port: on loopback.
        load: told what happened.
        bad: the kinds.
        count: of clients.
        seconds: between the first and the last.
    """

    async def one(name: str) -> None:
        load.bad[name] = load.bad.get(name, 0) + 1
        status = -1
        for _ in range(20):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                with contextlib.suppress(OSError):  # cut off while it sent
                    await bad[name].act(reader, writer)
                async with asyncio.timeout(60):
                    status, _ = await answer(reader)
                writer.close()
            except OSError as error:
                load.wrong.append(f"{name}: {error}")
                return
            # A server that is busy says so to everybody; and what a client still sends when it is cut off can have its
            # system throw the answer away before it is read. Both ask again.
            if status not in (0, 503) or status in bad[name].right:
                break
            await asyncio.sleep(0.5)
        if status not in bad[name].right:
            load.wrong.append(f"{name}: {status}")

    tasks = []
    for i in range(count):
        tasks.append(asyncio.create_task(one(list(bad)[i % len(bad)])))
        await asyncio.sleep(seconds / count)
    await asyncio.gather(*tasks)


def probabilities(body: bytes, names: Sequence[str]) -> NDArray[np.float64]:
    """Of all classes, in the order of `names`, from an answer that tells them all."""
    found = {one["class"]: one["probability"] for one in json.loads(body)["images"][0]["top"]}
    return np.array([found.get(name, np.nan) for name in names])
