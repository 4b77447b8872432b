"""Where a virtual device's payloads come from: scenes, vibration, a video file, a folder of images, a CSV file.

A source yields message bodies that are already encoded. What is synthetic is encoded once into a ring and repeated;
what is read from a file is read and encoded ahead in a thread, a bounded number of payloads. So the generator is
never the bottleneck, and memory is bounded. When and where a payload is sent belongs to `schedule` and `publisher`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import msgspec

from penstock_models.errors import UsageError
from penstock_sim.ahead import read_ahead
from penstock_sim.encodings import MEDIA_TYPES, Encoding, UserProperties, encode_window
from penstock_sim.scenes import Scene
from penstock_sim.signals import Vibration

IMAGE_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class Payload(msgspec.Struct, frozen=True, eq=False):
    """One message body without its stamp. `user` are fixed user properties; `ts` is the capture time (epoch ms) where
    the source knows it, None where the time of sending counts."""

    data: bytes
    user: UserProperties = ()
    ts: int | None = None


class Source(Protocol):
    """One virtual camera or sensor. `media_type` "" lets the gateway go by the signature."""

    @property
    def name(self) -> str: ...

    @property
    def media_type(self) -> str: ...

    @property
    def rate_hz(self) -> float:
        """The source's own rate: frames or windows per second."""

    def payloads(self) -> Iterator[Payload]:
        """The payloads from the first on; ends where the source ends, and repeats for ever where it is a ring."""


class Ring:
    """A fixed set of payloads, repeated for ever. Payload number n is `frames[n % len(frames)]`."""

    def __init__(self, name: str, media_type: str, rate_hz: float, frames: Sequence[Payload]) -> None:
        if not frames:
            raise UsageError(f"expected at least one payload for the source {name!r}, got none")
        self.name, self.media_type, self.rate_hz = name, media_type, rate_hz
        self.frames = tuple(frames)

    def payloads(self) -> Iterator[Payload]:
        return itertools.cycle(self.frames)


def scene_ring(
    seed: int, rate_hz: float = 10.0, width: int = 640, height: int = 480, frames: int = 60, quality: int = 85
) -> Ring:
    """A synthetic camera: `frames` consecutive pictures of one scene as JPEG."""
    scene = Scene(seed, width, height)
    ring = [Payload(_jpeg(scene.frame(n).image, quality)) for n in range(frames)]
    return Ring(f"scene-{seed}", "image/jpeg", rate_hz, ring)


def vibration_ring(
    seed: int,
    rate_hz: float = 4.0,
    encoding: Encoding = "tensor",
    first: int = 0,
    windows: int = 64,
) -> Ring:
    """A synthetic vibration sensor: the windows `first` to `first + windows` of one signal, `rate_hz` of them a second."""
    signal = Vibration(seed)
    encoded = (
        encode_window(signal.window(n)[0], encoding, sample_rate_hz=signal.rate_hz)
        for n in range(first, first + windows)
    )
    ring = [Payload(data, user) for data, user in encoded]
    return Ring(f"vibration-{seed}", MEDIA_TYPES[encoding], rate_hz, ring)


class ImageFolder:
    """The images of a folder by name, bytes as they are, repeated for ever.

    Raises:
        UsageError: the folder holds no JPEG, PNG or WebP file.
    """

    def __init__(self, folder: Path, rate_hz: float = 1.0, ahead: int = 8) -> None:
        self._files = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_TYPES)
        if not self._files:
            raise UsageError(f"expected {', '.join(IMAGE_TYPES)} files in {folder}, found none")
        kinds = {IMAGE_TYPES[file.suffix.lower()] for file in self._files}
        self.name, self.rate_hz, self._ahead = folder.name, rate_hz, ahead
        self.media_type = kinds.pop() if len(kinds) == 1 else ""

    def payloads(self) -> Iterator[Payload]:
        return read_ahead((Payload(file.read_bytes()) for file in itertools.cycle(self._files)), self._ahead)


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
                    yield Payload(_jpeg(video.retrieve()[1], self._quality))
        finally:
            video.release()

    def _open(self) -> cv2.VideoCapture:
        video = cv2.VideoCapture(str(self._file))
        if not video.isOpened():
            raise UsageError(f"expected a video file that OpenCV can read, got {self._file}")
        return video


def _jpeg(image: cv2.typing.MatLike, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, quality))
    if not done:
        raise UsageError(f"expected a picture that encodes as JPEG, got shape {image.shape} {image.dtype}")
    return data.tobytes()
