"""Pictures and envelopes that are strange, broken or hostile."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cbor2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quartered(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Red and green above, blue and white below."""
    return Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    sharp: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    picture.save(out, form, **{**sharp.get(form, {}), **options})
    return out.getvalue()


def jpeg() -> bytes:
    return encoded(quartered(), "JPEG")


def photo(width: int = 640, height: int = 480) -> bytes:
    """A JPEG with as much in it as a camera's."""
    noise = np.random.default_rng(1).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return encoded(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), "JPEG")


def see_through() -> bytes:
    picture = quartered().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return encoded(picture, "PNG")


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(quartered(), "JPEG", exif=exif)


def animated(form: str) -> bytes:
    """`quartered` first, then its negative."""
    after = ImageOps.invert(quartered())
    return encoded(quartered(), form, save_all=True, append_images=[after], duration=100)


def quarters_of(data: bytes) -> npt.NDArray[np.float64]:
    """What Pillow sees: the mean colour of each quarter of the upright first frame, (3, 2, 2), 0 … 1."""
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode == "RGBA":  # the colour below, as if nothing could be seen through
        picture = Image.merge("RGB", picture.split()[:3])
    pixels = np.asarray(picture.convert("RGB"), np.float64) / 255
    halves = [half for row in np.split(pixels, 2) for half in np.split(row, 2, axis=1)]
    return np.stack([half.mean((0, 1)) for half in halves]).T.reshape(3, 2, 2)


def corrupt(data: bytes) -> bytes:
    """Its length and its head are right; what is between is not."""
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 64]) + data[middle + 64 :]


def vast_png(width: int = 40_000, height: int = 20_000) -> bytes:
    """A valid PNG of one bit a pixel, all black: 97 kB that become 2.4 GB."""
    packer = zlib.compressobj(9)
    rows = bytes((1 + width // 8) * 100)
    body = b"".join(packer.compress(rows) for _ in range(height // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def vast_jpeg() -> bytes:
    """A small JPEG whose header says 65,000 × 65,000."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def opened(path: Path) -> Image.Image:
    return Image.open(path).convert("RGB")


def stored_turned(picture: Image.Image) -> bytes:
    """A JPEG that lies on its side and says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)


def cbor(value: object) -> bytes:
    return cbor2.dumps(value)


def typed_array(*values: float) -> cbor2.CBORTag:
    """RFC 8746: float32, little endian."""
    return cbor2.CBORTag(85, floats(*values))


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()
