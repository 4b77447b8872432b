"""The cameras and sensors of the demo: what they send, and what can be read off their live books.

Everything is synthetic and seeded; the seeds lie beyond those that the demo's models were made and measured with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from penstock_models.items import Anomaly, Answer, Detection
from penstock_sim.load.publisher import VirtualStream
from penstock_sim.load.schedule import Periodic
from penstock_sim.load.track import StreamTrack
from penstock_sim.sources import Ring
from penstock_sim.sources.rings import scene_ring, vibration_ring
from penstock_sim.sources.signals import Vibration

CAMERA, SENSOR = "cam", "vib"

_CAMERAS = {"gate": 3_000_016, "dock": 3_000_012, "aisle": 3_000_010}
_SENSORS = {"pump": 3_000_007, "fan": 3_000_002, "press": 3_000_003}
_CAMERA_HZ, _SENSOR_HZ = 10.0, 8.0
_FRAMES, _WINDOWS = 60, 64
_HEALTHY_FIRST = 16
"""Windows before the fault of a sensor that has one: two seconds of quiet."""
_SEARCH = range(0, 4000, 80)
_SPEED_S = 3.0


class _Model(msgspec.Struct, frozen=True):
    name: str
    version: int


class Shown(msgspec.Struct, frozen=True):
    """The part of a result that the demo shows."""

    answered_by: str | None = None
    model: _Model | None = None
    placement: str | None = None
    detections: tuple[Detection, ...] | None = None
    anomaly: Anomaly | None = None

    @property
    def answer(self) -> Answer:
        return Answer(detections=self.detections, anomaly=self.anomaly)

    def words(self) -> str:
        """What was found, in a few words; an anomaly score as a multiple of its threshold."""
        if self.detections is not None:
            counts: dict[str, int] = {}
            for found in self.detections:
                counts[found.label] = counts.get(found.label, 0) + 1
            return ", ".join(f"{count} {label}" for label, count in sorted(counts.items())) or "nothing there"
        if self.anomaly is None:
            return ""
        score, threshold = self.anomaly.score, self.anomaly.threshold
        if threshold is None:
            return f"score {score:.3g}"
        return f"{'ANOMALY' if score > threshold else 'healthy'} {score / threshold:.1f}×"

    def who(self) -> str:
        """Who answered: where, which model version, proven to run on what."""
        model = f" {self.model.name}:{self.model.version}" if self.model else ""
        return f"{self.answered_by}{model} on {self.placement}" if self.answered_by else ""


_shown = msgspec.json.Decoder(Shown)


def shown(track: StreamTrack) -> Shown | None:
    """The latest answer of a stream, None before the first."""
    return None if track.last is None else _shown.decode(track.last[1])


def cameras() -> dict[str, Ring]:
    """The cameras' pictures by device name; takes a few seconds."""
    return {name: scene_ring(seed, _CAMERA_HZ, frames=_FRAMES) for name, seed in _CAMERAS.items()}


def sensors() -> dict[str, Ring]:
    """The sensors' windows by device name, as CBOR envelopes, which any MQTT version carries whole."""
    return {
        name: vibration_ring(
            seed, _SENSOR_HZ, "cbor", first=0 if number else _before_fault(seed), windows=_WINDOWS
        )
        for number, (name, seed) in enumerate(_SENSORS.items())
    }


def streams(cameras: Mapping[str, Ring], sensors: Mapping[str, Ring]) -> list[VirtualStream]:
    """Every device as a stream of QoS 1, phases spread so that they do not beat together."""
    devices = [(n, CAMERA, ring) for n, ring in cameras.items()] + [
        (n, SENSOR, r) for n, r in sensors.items()
    ]
    return [
        VirtualStream(device, kind, ring, Periodic(ring.rate_hz, index / len(devices) / ring.rate_hz), qos=1)
        for index, (device, kind, ring) in enumerate(devices)
    ]


class Speed:
    """Answers per second of one stream over the last few seconds."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, int]] = deque()

    def update(self, now_s: float, answers: int) -> float:
        """Note the number of answers at `now_s`; returns the rate."""
        self._points.append((now_s, answers))
        while self._points[0][0] < now_s - _SPEED_S:
            self._points.popleft()
        begin_s, begin = self._points[0]
        return (answers - begin) / (now_s - begin_s) if now_s > begin_s else 0.0


class BestPicture:
    """Remembers the camera picture on which the most was found, with its answer."""

    def __init__(self, cameras: Mapping[str, Ring]) -> None:
        self._cameras = cameras
        self._score = -1.0
        self.found: tuple[bytes, Answer] | None = None

    def look(self, track: StreamTrack) -> None:
        """Look at a stream's latest answer; what is no camera is passed over."""
        ring, answer = self._cameras.get(track.device), shown(track)
        if ring is None or answer is None or track.last is None or answer.detections is None:
            return
        score = sum(detection.score for detection in answer.detections)
        if score > self._score:
            self._score = score
            self.found = (ring.frames[track.last[0] % len(ring.frames)].data, answer.answer)


def _before_fault(seed: int) -> int:
    """The window that lies a little before the first fault of a machine."""
    signal = Vibration(seed)
    episodes = (signal.episode(n) for n in _SEARCH)
    begin = next((episode.begin for episode in episodes if episode is not None), _HEALTHY_FIRST)
    return begin - _HEALTHY_FIRST
