"""Images that wait are answered together.

While the network computes, whatever arrives waits; when it is done, all that waits goes in next, up to a number. Nobody
waits for company: an image that comes alone to an idle network is answered alone and at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from densely.serve.engine import Engine
from densely.serve.metrics import Metrics
from densely.serve.refusal import busy


@dataclass(frozen=True)
class Answer:
    """What the network says of one image.

    Attributes:
        probabilities: float32 `(classes,)`.
        maps: float32 `(h, w, classes)`, or None.
    """

    probabilities: NDArray[np.float32]
    maps: NDArray[np.float32] | None


@dataclass(frozen=True)
class _Waiting:
    image: NDArray[np.uint8]
    maps: bool
    answer: asyncio.Future[Answer]


class Batcher:
    """The queue before the network.

    Args:
        engine: the network.
        metrics: told of batches and of who waits.
        batch: images that are answered together, at most.
        queue: images that may wait.
    """

    def __init__(self, engine: Engine, metrics: Metrics, batch: int, queue: int) -> None:
        self.engine = engine
        self.metrics = metrics
        self.batch = batch
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(queue)
        self._thread = ThreadPoolExecutor(1, "network")
        metrics.queue.set_function(self._queue.qsize)

    async def answers(self, images: Sequence[NDArray[np.uint8]], maps: bool = False) -> list[Answer]:
        """What the network says of images, in their order.

        Args:
            images: uint8 `(H, W, C)` each.
            maps: whether class activation maps are wanted.

        Raises:
            Refused: if there is no room for all of them in the queue.
        """
        if self._queue.qsize() + len(images) > self._queue.maxsize:
            raise busy("Too many images are waiting")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(image, maps, loop.create_future()) for image in images]
        for one in waiting:
            self._queue.put_nowait(one)
        return await asyncio.gather(*(one.answer for one in waiting))

    async def run(self) -> None:
        """Answer, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self.batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [one for one in batch if not one.answer.done()]  # whose client has gone
            if not batch:
                continue
            try:
                found = await loop.run_in_executor(self._thread, self._ask, batch)
            except Exception as error:  # of this batch: the next may fare better
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, answer in zip(batch, found, strict=True):
                if not one.answer.done():
                    one.answer.set_result(answer)

    def _ask(self, batch: list[_Waiting]) -> list[Answer]:
        """In the network's own thread."""
        began = time.perf_counter()
        p, maps = self.engine.run(np.stack([one.image for one in batch]), any(one.maps for one in batch))
        self.metrics.network_seconds.observe(time.perf_counter() - began)
        self.metrics.batches.observe(len(batch))
        return [Answer(p[i], maps[i] if one.maps and maps is not None else None) for i, one in enumerate(batch)]

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)
