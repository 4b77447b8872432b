"""Turns a JPEG, PNG or WebP file into upright BGR pixels, or says why not.

The header is read first, so a picture beyond the pixel limit is refused before a pixel is decoded. JPEGs are decoded
strictly by libjpeg-turbo: OpenCV (and Pillow) answer most corrupt JPEGs with grey or shifted blocks and no error. PNG
and WebP are checked by their own checksums and lengths, and decoded by OpenCV. Alpha is dropped, as the training
pipelines of the usual models do; CMYK and grey become BGR; an animation gives its first frame.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import simplejpeg  # type: ignore[import-untyped]

from penstock_models.image_headers import Header, read_header
from penstock_models.opencv import cv2
from penstock_models.rejection import Rejection

MAX_PIXELS = 16_800_000

Picture = npt.NDArray[np.uint8]

_FLIPS: dict[int, int] = {2: 1, 4: 0}
_ROTATIONS = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}


def decode_image(data: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Picture:
    """Decode to (height, width, 3) uint8 in BGR order, turned upright.

    Raises:
        Rejection: `content_type` for data that is no JPEG, PNG or WebP, `pixels` beyond `max_pixels`, `decode` for a
            truncated or corrupt file.
    """
    header = checked_header(data, max_pixels)
    try:
        picture = _decode_jpeg(data, header) if header.format == "jpeg" else _decode_other(data)
    except (ValueError, cv2.error) as error:
        raise Rejection("decode", f"{header.format}: {' '.join(str(error).split())[:120]}") from error
    if picture is None:
        raise Rejection("decode", f"{header.format} of {len(data)} bytes is truncated or corrupt")
    return picture


def checked_header(data: bytes | memoryview, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of a picture within the pixel limit; the same errors as `decode_image`."""
    header = read_header(data)
    if header is None:
        raise Rejection("decode", f"{len(data)} bytes are no JPEG, PNG or WebP with a readable header")
    if header.width * header.height > max_pixels:
        size = f"{header.width}×{header.height}"
        raise Rejection("pixels", f"picture of {size} is over the limit of {max_pixels} pixels")
    if not header.width or not header.height:
        raise Rejection("decode", f"{header.format} says that it is {header.width}×{header.height}")
    return header


def _decode_jpeg(data: bytes | memoryview, header: Header) -> Picture | None:
    picture: Picture = simplejpeg.decode_jpeg(data, colorspace="BGR", strict=True)
    return upright(picture, header.orientation)


def _decode_other(data: bytes | memoryview) -> Picture | None:
    # OpenCV applies the orientation of PNG and WebP itself.
    picture: Picture | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return picture


def upright(picture: Picture, orientation: int) -> Picture:
    """Undo EXIF orientation 1 … 8."""
    turned = picture
    if orientation in _FLIPS:
        turned = cv2.flip(picture, _FLIPS[orientation])
    elif orientation in _ROTATIONS:
        turned = cv2.rotate(picture, _ROTATIONS[orientation])
    elif orientation == 5:
        turned = cv2.transpose(picture)
    elif orientation == 7:
        turned = cv2.rotate(cv2.transpose(picture), cv2.ROTATE_180)
    return turned
