"""The bytes that go out: a camera's own, unless another size or quality is asked for or there are none."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock_gateway.camera.pictures import Picture
from penstock_models.errors import UsageError
from penstock_models.images import decode_image
from penstock_models.opencv import cv2
from penstock_models.rejection import Rejection

DEFAULT_QUALITY = 85
_MOST_SIDE = 16_384


class Unreadable(Exception):
    """A picture that cannot be decoded, or not be encoded."""


class Encoding(msgspec.Struct, frozen=True):
    """What is asked for. `size` is the largest (width, height): the picture keeps its shape and is never enlarged."""

    quality: int | None = None
    size: tuple[int, int] | None = None

    @property
    def asked(self) -> bool:
        return self.quality is not None or self.size is not None


def parse_size(text: str) -> tuple[int, int]:
    """Read `WIDTHxHEIGHT` in pixels."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= side <= _MOST_SIDE for side in size):
        raise UsageError(f"expected --size as WIDTHxHEIGHT such as 640x480, came {text[:40]!r}")
    return size


def encoded(picture: Picture, encoding: Encoding) -> tuple[bytes, str]:
    """(bytes, media type). What came encoded goes out byte for byte where nothing else is asked for.

    Raises:
        Unreadable: it had to be decoded, and is broken.
    """
    if picture.data and not encoding.asked:
        return picture.data, picture.media_type
    try:
        image = decode_image(picture.data) if picture.data else picture.image
        done, data = cv2.imencode(
            ".jpg",
            _fitted(image, encoding.size),
            (cv2.IMWRITE_JPEG_QUALITY, encoding.quality or DEFAULT_QUALITY),
        )
    except (Rejection, cv2.error) as error:
        raise Unreadable(str(error)) from None
    if not done:
        raise Unreadable(f"a picture of shape {image.shape} {image.dtype} cannot be JPEG")
    return data.tobytes(), "image/jpeg"


def _fitted(image: Any, size: tuple[int, int] | None) -> Any:
    if size is None:
        return image
    height, width = image.shape[:2]
    scale = min(size[0] / width, size[1] / height, 1.0)
    if scale == 1.0:
        return image
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, fitted, interpolation=cv2.INTER_AREA)
