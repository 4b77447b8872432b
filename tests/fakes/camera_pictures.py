"""Pictures that carry their number, painted into them as black and white blocks, so that it survives any encoding."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

BITS = 16
WIDTH, HEIGHT = 320, 240


def painted(number: int, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """A picture that shows a number, (height, width, 3) uint8."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), width // BITS)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def jpeg(image: Any, quality: int = 90) -> bytes:
    data: bytes = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return data


def number_of(data: bytes) -> int:
    """The number that an encoded picture shows."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None, "no picture"
    return number_in(image)


def number_in(image: Any) -> int:
    means = np.array_split(image.reshape(image.shape[0], -1), BITS, axis=1)
    return sum(int(block.mean() > 127) << bit for bit, block in enumerate(means))
