"""Training and test pictures of the loading yard: rendered, JPEG-coded as a camera would, resized as the gateway does.

Seeds are split once and for all: training below `TEST_SEEDS`, tests from there on. Assigning boxes to the detector's
cells is `yard_loss`'s.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_models.images import decode_image
from penstock_sim.sources.scenes import LABELS, Scene

TEST_SEEDS = 1_000_000
_FRAMES = 20_000  # frame numbers are drawn below this
_MAX_BOXES = 32

Image = NDArray[np.uint8]


class Pictures(msgspec.Struct, frozen=True):
    """`images` uint8 RGB (n, height, width, 3); `boxes` float32 (n, 32, 5): x0, y0, x1, y1 in 0..1 and the label's
    index, −1 in rows that hold no box."""

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def jpeg(image: Image, quality: int = 90) -> bytes:
    """A BGR picture as a JPEG file."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"OpenCV did not encode a picture of {image.shape}")
    return data.tobytes()


def pictures(seeds: Sequence[int], per_scene: int, width: int, height: int) -> Pictures:
    """`per_scene` random frames of every scene; which ones follows from the scene's seed alone."""
    images, boxes = [], []
    for seed in seeds:
        rng = np.random.default_rng((seed, 100))
        scene = Scene(seed)
        for n in rng.integers(0, _FRAMES, per_scene):
            frame = scene.frame(int(n))
            images.append(as_input(frame.image, int(rng.integers(75, 96)), width, height))
            rows = [[*box.box, LABELS.index(box.label)] for box in frame.boxes][:_MAX_BOXES]
            table = np.full((_MAX_BOXES, 5), -1, np.float32)
            table[: len(rows)] = np.array(rows, np.float32).reshape(-1, 5)
            boxes.append(table)
    return Pictures(np.stack(images), np.stack(boxes))


def as_input(image: Image, quality: int, width: int, height: int) -> Image:
    """BGR picture → JPEG and back → linear resize → RGB: what the gateway makes of a camera's message."""
    decoded = decode_image(jpeg(image, quality))
    return np.asarray(cv2.cvtColor(cv2.resize(decoded, (width, height)), cv2.COLOR_BGR2RGB), np.uint8)


def mirrored(batch: Pictures) -> Pictures:
    """The pictures and boxes with left and right exchanged."""
    boxes = batch.boxes.copy()
    boxes[..., 0], boxes[..., 2] = 1 - batch.boxes[..., 2], 1 - batch.boxes[..., 0]
    return Pictures(
        batch.images[:, :, ::-1], np.where(batch.boxes[..., 4:] < 0, -1, boxes).astype(np.float32)
    )
