"""Sources that read files: a folder of images, a video."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2

from penstock_models.errors import UsageError
from penstock_sim.sources.ahead import read_ahead
from penstock_sim.sources.source import Payload, Ring, Source

IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class ImageFolder:
    """The images of a folder by name, bytes as they are, repeated for ever or sent `once`.

    Raises:
        UsageError: the folder holds no JPEG, PNG or WebP file.
    """

    def __init__(self, folder: Path, rate_hz: float = 1.0, ahead: int = 8, once: bool = False) -> None:
        self._files = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_TYPES)
        if not self._files:
            raise UsageError(f"expected {', '.join(IMAGE_TYPES)} files in {folder}, found none")
        kinds = {IMAGE_TYPES[file.suffix.lower()] for file in self._files}
        self.name, self.rate_hz, self._ahead, self._once = folder.name, rate_hz, ahead, once
        self.media_type = kinds.pop() if len(kinds) == 1 else ""

    def payloads(self) -> Iterator[Payload]:
        files = self._files if self._once else itertools.cycle(self._files)
        return read_ahead((Payload(file.read_bytes()) for file in files), self._ahead)


class VideoFile:
    """The frames of a video file as JPEG, at the file's own rate; every `step`-th frame, once through.

    Raises:
        UsageError: OpenCV cannot open the file, or a step below 1.
    """

    media_type = "image/jpeg"

    def __init__(self, file: Path, step: int = 1, quality: int = 90, ahead: int = 32) -> None:
        if step < 1:
            raise UsageError(f"expected a step of 1 frame or more for {file}, got {step}")
        self.name, self._file = file.stem, file
        self._step, self._quality, self._ahead = step, quality, ahead
        video = self._open()
        self.rate_hz = (video.get(cv2.CAP_PROP_FPS) or 25.0) / step
        video.release()

    def payloads(self) -> Iterator[Payload]:
        return read_ahead(self._frames(), self._ahead)

    def _frames(self) -> Iterator[Payload]:
        video = self._open()
        try:
            for number in itertools.count():
                if not video.grab():
                    return
                if number % self._step == 0:
                    yield Payload(jpeg(video.retrieve()[1], self._quality))
        finally:
            video.release()

    def _open(self) -> cv2.VideoCapture:
        video = cv2.VideoCapture(str(self._file))
        if not video.isOpened():
            raise UsageError(f"expected a video file that OpenCV can read, got {self._file}")
        return video


def ring_of(source: Source, rate_hz: float, most: int) -> Ring:
    """The first payloads of a source as a ring, so that nothing is read or encoded while it is sent.

    Raises:
        UsageError: there is none.
    """
    payloads = source.payloads()
    try:
        return Ring(source.name, source.media_type, rate_hz, list(itertools.islice(payloads, most)))
    finally:
        if (close := getattr(payloads, "close", None)) is not None:
            close()


def jpeg(image: cv2.typing.MatLike, quality: int) -> bytes:
    """Encode a picture, uint8 BGR (height, width, 3)."""
    done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not done:
        raise UsageError(f"expected a picture that encodes as JPEG, got shape {image.shape} {image.dtype}")
    return data.tobytes()
