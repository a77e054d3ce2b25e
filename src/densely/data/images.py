"""One image file into one array.

Files come from anywhere: formats and sizes are limited, and damage is never guessed away.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from densely.errors import DataError, DenselyError, UsageError, reason

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""Read by content, whatever the file is called: Pillow knows some forty more, few of them as well tested."""
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

MAX_PIXELS = 64_000_000
"""Checked before decoding: a few kilobytes can claim to be gigabytes of pixels. 64 megapixels suit a camera."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class NotAnImageError(DataError):
    """A file of another kind."""


class TooManyPixelsError(DataError):
    """An image above the limit, told by its header."""


class ImageInfo(NamedTuple):
    """What a file says about itself before its pixels are decoded: sides as stored, and whether it has no colour."""

    height: int
    width: int
    grey: bool


def image_info(file: str | Path | IO[bytes]) -> ImageInfo:
    """Size and kind from the header alone.

    Raises:
        UsageError: there is no such file.
        DataError: it is not an image, or too large.
    """
    with _opened(file) as image:
        return ImageInfo(image.height, image.width, _is_grey(image))


def check_shape(size: tuple[int, int] | None, channels: int | None) -> None:
    """Refuse a size or a number of channels that no image can be given; None stands for what is chosen later.

    Raises:
        UsageError: a side is below 1, or channels are not 1, 3 or 4.
    """
    if size is not None and min(size) < 1:
        raise UsageError(f"An image cannot be fitted to {size[0]}x{size[1]} pixels: both sides must be at least 1.")
    if channels is not None and channels not in _MODES:
        raise UsageError(f"An image cannot be given {channels} channels: choose 1 (grey), 3 (RGB) or 4 (RGBA).")


def read_image(
    file: str | Path | IO[bytes], size: tuple[int, int], channels: int | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Decode a PNG, JPEG, WebP or BMP, turn it upright, and fit it to `size`.

    The EXIF orientation is applied; of an animation the first frame is taken; 16-bit grey is scaled to 8 bits;
    palettes and CMYK become RGB; transparent pixels are laid on white unless four channels are asked for. The image is
    scaled (bicubic, antialiased) until it just covers `size`, and the overhang is cut off equally on both sides.

    Args:
        file: a path, or a binary file object.
        size: (height, width) of the result, in pixels.
        channels: 1 grey, 3 RGB, 4 RGBA; None (default) keeps grey at 1 and makes anything else 3.
        max_pixels: refuse an image with more, before it is decoded.

    Returns:
        uint8, (height, width, channels).

    Raises:
        UsageError: there is no such file, or size or channels are impossible.
        DataError: it is damaged or truncated; `NotAnImageError` if it is none, `TooManyPixelsError` if it has too many.
    """
    from PIL import Image, ImageOps

    check_shape(size, channels)
    height, width = size
    with _opened(file, max_pixels) as image:
        wanted = channels or (1 if _is_grey(image) else 3)
        upright = ImageOps.exif_transpose(image)
        converted = _converted(upright, _MODES[wanted])
        fitted = ImageOps.fit(converted, (width, height), method=Image.Resampling.BICUBIC)
        return np.array(fitted, dtype=np.uint8).reshape(height, width, wanted)


@contextmanager
def _opened(file: str | Path | IO[bytes], max_pixels: int = MAX_PIXELS) -> "Iterator[Image.Image]":
    """Pillow's image, its header read; whatever goes wrong with it inside becomes one sentence."""
    from PIL import Image, UnidentifiedImageError

    name = str(file) if isinstance(file, (str, Path)) else str(getattr(file, "name", "The image"))
    if isinstance(file, (str, Path)) and Path(file).is_fifo():
        raise UsageError(f"{name} is a pipe, which nobody may ever write to: name a file.")
    try:
        # Opened here, because Pillow leaves a file open that fails while its first bytes are read.
        with (
            open(file, "rb") if isinstance(file, (str, Path)) else nullcontext(file) as stream,
            Image.open(stream, formats=FORMATS) as image,
        ):
            pixels = image.width * image.height
            if pixels > max_pixels:
                raise TooManyPixelsError(
                    f"{name} has {pixels:,} pixels, above the limit of {max_pixels:,}: scale it down."
                )
            yield image
    except DenselyError:
        raise
    except FileNotFoundError as error:
        raise UsageError(f"There is no image at {name}: check the path.") from error
    except IsADirectoryError as error:
        raise UsageError(f"{name} is a folder: name an image in it.") from error
    except PermissionError as error:  # not the image's fault: it is not to be skipped
        raise DenselyError(f"{name} cannot be read: {error.strerror}.") from error
    except UnidentifiedImageError as error:
        raise NotAnImageError(f"{name} is not a PNG, JPEG, WebP or BMP image: convert or remove it.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow has a limit of its own, above ours, and looks first.
        raise TooManyPixelsError(f"{name} has more pixels than the limit of {max_pixels:,}: scale it down.") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders fail in many ways on a damaged file
        raise DataError(f"{name} cannot be read as an image ({reason(error)}): replace or remove it.") from error


def _is_grey(image: "Image.Image") -> bool:
    return image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")


def _converted(image: "Image.Image", mode: str) -> "Image.Image":
    from PIL import Image

    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow would clip 16 bits at 255; 65,535 / 257 is 255 exactly.
        # In place: a few kilobytes can be millions of pixels.
        deep = np.asarray(image).astype(np.int32)
        np.clip(deep, 0, 65_535, out=deep)
        deep += 128
        deep //= 257
        image = Image.fromarray(deep.astype(np.uint8))
    if image.has_transparency_data and mode != "RGBA":
        pixels = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, pixels)
    return image if image.mode == mode else image.convert(mode)
