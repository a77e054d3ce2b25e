"""Bytes to pixels: what arrives is decoded in a few threads, and what would cost too much is refused before."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from densely.data.images import NotAnImageError, TooManyPixelsError, read_image
from densely.errors import DataError
from densely.machine import cores
from densely.serve.refusal import Refused

MAX_SCANS = 100
"""Of a JPEG. A progressive one has some ten; each can be a few bytes that cost a pass over all pixels, so that a small
file could keep a core busy for an hour."""
THREADS = 4
"""At most: while it is decoded, an image may take 26 bytes a pixel, or 400 MB at the default limit."""
_RUN_LENGTH = (1, 2)
"""BMP compressions that Pillow decodes in Python, seconds for a small file; next to nobody uses them."""


class Decoder:
    """A few threads that decode images to one size.

    Args:
        shape: height, width and channels of the result.
        pixels: of an image, at most.
    """

    def __init__(self, shape: tuple[int, int, int], pixels: int) -> None:
        self.size, self.channels = shape[:2], shape[2]
        self.pixels = pixels
        self._threads = ThreadPoolExecutor(min(THREADS, cores()), "decoder")

    async def pixels_of(self, data: bytes) -> NDArray[np.uint8] | Refused:
        """An image's pixels, uint8 `(H, W, C)`, as training would have read them; or why there are none."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.decode, data)

    def decode(self, data: bytes) -> NDArray[np.uint8] | Refused:
        """The same, here and now."""
        try:
            _check_cost(data)
            return read_image(io.BytesIO(data), self.size, self.channels, self.pixels)
        except TooManyPixelsError as error:
            return Refused(413, "too_many_pixels", str(error))
        except NotAnImageError as error:
            return Refused(415, "not_an_image", str(error))
        except DataError as error:
            return Refused(422, "damaged", str(error))

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _check_cost(data: bytes) -> None:
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:
        raise DataError(f"The image is a JPEG of more than {MAX_SCANS} scans: save it again as an ordinary one.")
    if data.startswith(b"BM") and int.from_bytes(data[30:34], "little") in _RUN_LENGTH:
        raise DataError("The image is a run-length encoded BMP: save it as PNG.")
