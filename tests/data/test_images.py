import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from densely.data import images as module
from densely.data import read_image
from densely.errors import DataError, UsageError

rng = np.random.default_rng(0)
rgb = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, format, **options)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_come_back_exactly(format, options):
    np.testing.assert_array_equal(read_image(encoded(rgb, format, **options), (24, 24), 3), rgb)


def test_jpeg_and_paths(tmp_path):
    smooth = np.linspace(0, 255, 24 * 24).reshape(24, 24).astype(np.uint8)
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(smooth, "JPEG", quality=95).getvalue())
    for name in (path, str(path)):
        got = read_image(name, (24, 24))
        assert got.shape == (24, 24, 1)
        assert np.abs(got[..., 0].astype(int) - smooth).max() < 8


def test_channels():
    grey = rgb[..., 0]
    assert read_image(encoded(grey), (24, 24)).shape == (24, 24, 1)
    assert read_image(encoded(rgb), (24, 24)).shape == (24, 24, 3)
    np.testing.assert_array_equal(read_image(encoded(grey), (24, 24), 3), np.repeat(grey[..., None], 3, axis=2))
    luma = read_image(encoded(rgb), (24, 24), 1)[..., 0]
    assert np.abs(luma - rgb @ [0.299, 0.587, 0.114]).max() <= 1
    four = read_image(encoded(rgb), (24, 24), 4)
    np.testing.assert_array_equal(four[..., :3], rgb)
    assert (four[..., 3] == 255).all()


def test_cover_then_centre_crop():
    # Vertical bands of 20 pixels; the middle square of a 20 x 60 image is the middle band.
    wide = np.repeat([10, 120, 240], 20)[None, :].repeat(20, axis=0).astype(np.uint8)
    assert (read_image(encoded(wide), (20, 20)) == 120).all()
    assert (read_image(encoded(wide.T.copy()), (20, 20)) == 120).all()
    assert read_image(encoded(wide), (10, 30)).shape == (10, 30, 1)
    assert read_image(encoded(wide), (50, 7)).shape == (50, 7, 1)


def test_downscaling_is_antialiased():
    stripes = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    got = read_image(encoded(stripes), (8, 8))
    assert got.std() < 5
    assert abs(got.mean() - 127.5) < 5


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn 90 degrees clockwise to see it upright"
    got = read_image(encoded(rgb, "PNG", exif=exif), (24, 24), 3)
    np.testing.assert_array_equal(got, np.rot90(rgb, -1))


def test_16_bit_grey():
    deep = np.array([[0, 256, 32_768, 65_535]], dtype=np.uint16).repeat(4, axis=0)
    got = read_image(encoded(deep), (4, 4))
    assert got[0, :, 0].tolist() == [0, 1, 128, 255]


def test_palette_and_transparency():
    palette = Image.fromarray(rgb // 64 * 64).convert("P", palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(read_image(encoded(palette), (24, 24)), np.asarray(palette.convert("RGB")))

    half = np.dstack([np.full((8, 8, 3), (200, 0, 0), dtype=np.uint8), np.repeat([0, 255], 32).reshape(8, 8)])
    file = encoded(half.astype(np.uint8))
    on_white = read_image(file, (8, 8), 3)
    assert (on_white[:4] == 255).all()
    assert (on_white[4:] == (200, 0, 0)).all()
    file.seek(0)
    assert (read_image(file, (8, 8), 4)[:4, :, 3] == 0).all()

    see_through = Image.fromarray(np.repeat([0, 1], 32).reshape(8, 8).astype(np.uint8)).convert("P")
    see_through.putpalette([9, 9, 9, 50, 60, 70])
    got = read_image(encoded(see_through, transparency=0), (8, 8), 3)
    assert (got[:4] == 255).all()
    assert (got[4:] == (50, 60, 70)).all()


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_other_grey_modes(mode):
    image = Image.fromarray(rgb[..., 0]).convert(mode)
    assert read_image(encoded(image), (24, 24)).shape == (24, 24, 1)


def test_cmyk():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    got = read_image(encoded(red, "JPEG", quality=95), (16, 16))
    assert got.shape == (16, 16, 3)
    assert np.abs(got.astype(int) - (255, 0, 0)).max() < 10


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_the_first_frame_of_an_animation(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    file = encoded(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert (read_image(file, (8, 8)) == (255, 0, 0)).all()


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"GIF89a" + bytes(40), b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF"]
)
def test_not_an_image(tmp_path, content):
    path = tmp_path / "fake.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"fake\.png is not a"):
        read_image(path, (8, 8))


def test_a_gif_named_png(tmp_path):
    path = tmp_path / "animal.png"
    path.write_bytes(encoded(rgb, "GIF").getvalue())
    with pytest.raises(DataError, match=r"animal\.png is not a PNG, JPEG, WebP or BMP image"):
        read_image(path, (8, 8))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_truncated(tmp_path, format, keep):
    path = tmp_path / f"cut.{format.lower()}"
    whole = encoded(rgb, format).getvalue()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"cut\.\w+ (cannot be read|is not)"):
        read_image(path, (8, 8))


def bomb(side):
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_100, 10_000, 60_000])  # above our limit, above Pillow's warning, above its error
def test_bombs_are_refused_by_their_header(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(side))
    with pytest.raises(DataError, match=rf"bomb\.png has .* the limit of {module.MAX_PIXELS:,}"):
        read_image(path, (8, 8))


def test_usage():
    with pytest.raises(UsageError, match="no image at /nowhere"):
        read_image("/nowhere", (8, 8))
    with pytest.raises(UsageError, match="2 channels"):
        read_image(encoded(rgb), (8, 8), 2)
    with pytest.raises(UsageError, match="0x8"):
        read_image(encoded(rgb), (0, 8))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match=r"pipe\.png is a pipe, which nobody may ever write to: name a file"):
        read_image(tmp_path / "pipe.png", (8, 8), 1)
