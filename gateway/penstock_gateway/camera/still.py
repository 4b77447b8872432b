"""A picture file as a source: its bytes as they are, once."""

from __future__ import annotations

import time
from pathlib import Path

from penstock_gateway.camera.pictures import MAX_PICTURE_BYTES, Picture
from penstock_models.errors import UsageError
from penstock_models.image_headers import read_header

_DEFAULT_INTERVAL_S = 1.0


class StillReader:
    """One JPEG, PNG or WebP file."""

    passed_over = 0

    def __init__(self, data: bytes, media_type: str, rate_hz: float | None) -> None:
        self.interval_s: float | None = 1 / rate_hz if rate_hz else _DEFAULT_INTERVAL_S
        self._data, self._media_type = data, media_type

    def read(self) -> Picture | None:
        data, self._data = self._data, b""
        return Picture(time.monotonic(), data, self._media_type) if data else None

    def close(self) -> None:
        pass


def open_still(path: Path, rate_hz: float | None) -> StillReader | None:
    """Read a picture file; None where it is another kind of file, or several pictures in one.

    Raises:
        UsageError: it cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: expected a readable file: {error.strerror}") from None
    header = read_header(data)
    if header is None or (header.format == "jpeg" and path.suffix.lower() in (".mjpeg", ".mjpg")):
        return None
    if len(data) > MAX_PICTURE_BYTES:
        raise UsageError(
            f"{path}: expected a picture of at most {MAX_PICTURE_BYTES} bytes, this one is larger"
        )
    return StillReader(data, f"image/{header.format}", rate_hz)
