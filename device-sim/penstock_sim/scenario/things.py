"""What a stream's `source` table may say: each kind with its keys, and the source that it opens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from penstock_sim.sources import Ring
from penstock_sim.sources.encodings import Encoding

Side = Annotated[int, Meta(ge=16, le=4096)]
Quality = Annotated[int, Meta(ge=1, le=100)]
RingSize = Annotated[int, Meta(ge=1, le=10_000)]
MAX_WINDOWS = 10_000
Rate = Annotated[float, Meta(gt=0, le=10_000)]


class Thing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", kw_only=True):
    """What a camera sees or a sensor feels. Each kind has an `open`, which gives its payloads with a seed, encoded; paths
    start at `folder`, and a file that is missing or of another kind is a UsageError. Synthetic ones are drawn once."""


class Scene(Thing, tag="scene", frozen=True, kw_only=True):
    """A drawn loading yard as JPEG, with the boxes that are true in it."""

    width: Side = 640
    height: Side = 480
    frames: RingSize = 30
    quality: Quality = 85

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.rings import scene_ring

        return scene_ring(seed, rate_hz, self.width, self.height, self.frames, self.quality)


class Video(Thing, tag="video", frozen=True, kw_only=True):
    """A video file, every `step`-th frame, `frames` of them at most, from the beginning again at its end."""

    file: str
    step: Annotated[int, Meta(ge=1, le=10_000)] = 1
    quality: Quality = 85
    frames: RingSize = 300

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.files import VideoFile, ring_of

        return ring_of(VideoFile(folder / self.file, self.step, self.quality), rate_hz, self.frames)


class Images(Thing, tag="images", frozen=True, kw_only=True):
    """The first `frames` pictures of a folder, bytes as they are."""

    folder: str
    frames: RingSize = 300

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.files import ImageFolder, ring_of

        return ring_of(ImageFolder(folder / self.folder, rate_hz, once=True), rate_hz, self.frames)


class Vibration(Thing, tag="vibration", frozen=True, kw_only=True):
    """A machine's vibration, 512 samples a window, with faults that come and go and are known."""

    encoding: Encoding = "tensor"
    windows: RingSize = 64

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.rings import vibration_ring

        return vibration_ring(seed, rate_hz, self.encoding, windows=self.windows)


class Temperature(Thing, tag="temperature", frozen=True, kw_only=True):
    """Slow temperatures of one room, °C, `size` samples a window, with jumps and stuck sensors that are known."""

    encoding: Encoding = "json"
    size: Annotated[int, Meta(ge=1, le=65_536)] = 16
    windows: RingSize = 64

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.rings import temperature_ring

        return temperature_ring(seed, rate_hz, self.encoding, self.size, self.windows)


class Accelerometer(Thing, tag="accelerometer", frozen=True, kw_only=True):
    """A worn three-axis accelerometer, m/s², (size, 3) a window: resting, walking, running."""

    encoding: Encoding = "cbor"
    size: Annotated[int, Meta(ge=1, le=65_536)] = 100
    windows: RingSize = 64

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.rings import accelerometer_ring

        return accelerometer_ring(seed, rate_hz, self.encoding, self.size, self.windows)


class Audio(Thing, tag="audio", frozen=True, kw_only=True):
    """A WAV file (PCM, 16 bits) as windows of `size` samples, i16, from the beginning again at its end."""

    file: str
    size: Annotated[int, Meta(ge=1, le=1_000_000)] = 16_000
    encoding: Encoding = "tensor"

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.rings import audio_ring

        return audio_ring(folder / self.file, rate_hz, self.encoding, self.size)


class Csv(Thing, tag="csv", frozen=True, kw_only=True):
    """The rows of a CSV file as windows, from the beginning again at its end."""

    file: str
    size: Annotated[int, Meta(ge=1, le=65_536)]
    hop: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    timestamp: str | None = None
    encoding: Encoding = "tensor"

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.csv_device import CsvDevice
        from penstock_sim.sources.files import ring_of

        windows = CsvDevice(folder / self.file, self.size, self.hop, self.timestamp, rate_hz, self.encoding)
        return ring_of(windows, rate_hz, MAX_WINDOWS)


class Bytes(Thing, tag="bytes", frozen=True, kw_only=True):
    """Random bytes of one size, for load that no model has to understand; `dtype` u8."""

    size: Annotated[int, Meta(ge=0, le=64 << 20)]
    media_type: Annotated[str, Meta(max_length=100)] = "application/x-tensor"
    frames: Annotated[int, Meta(ge=1, le=1000)] = 8

    def open(self, seed: int, rate_hz: float, folder: Path) -> Ring:
        from penstock_sim.sources.rings import bytes_ring

        return bytes_ring(seed, rate_hz, self.size, self.media_type, self.frames)


AnyThing = Scene | Video | Images | Vibration | Temperature | Accelerometer | Audio | Csv | Bytes
