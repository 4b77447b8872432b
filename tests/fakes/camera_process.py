"""`penstock camera` as a real process, and an ear for its frames.

with mosquitto() as broker, FrameEar(broker) as ear, camera(broker, url, tmp_path) as process:
    ear.wait(lambda: len(ear.frames) > 10, "frames")
    assert process.stop() == 0
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import MQTTMessage

from penstock_gateway.camera.freshness import MAX_AGE_S
from tests.fakes.broker import Broker
from tests.fakes.camera import Camera
from tests.fakes.camera_pictures import number_of
from tests.fakes.clients import WAIT_S, Client

STOP_S = 15.0
FRAMES, STATUS = "penstock/v1/home/dev/door/cam/frame", "penstock/v1/home/dev/door/status"


@dataclass(frozen=True)
class Frame:
    """A frame as it came; `at` is the monotonic clock's time."""

    data: bytes
    content_type: str
    user: dict[str, str]
    at: float

    @property
    def number(self) -> int:
        """The number that is painted into it."""
        return number_of(self.data)


class FrameEar(Client):
    """Hears the frames of door/cam and the device's status; `protocol` as in `Client`."""

    def __init__(self, broker: Broker, protocol: int = 5) -> None:
        self.frames: list[Frame] = []
        self.states: list[tuple[str, bool]] = []
        """The statuses in order, and whether each was a retained one that lay there."""
        self._changed = threading.Condition()
        super().__init__(broker, protocol)

    def _on_connect(self) -> None:
        self._client.on_message = lambda *given: self._take(given[2])
        self._client.on_subscribe = lambda *_: self._connected.set()
        self._client.subscribe([(FRAMES, 1), (STATUS, 1)])

    def _take(self, message: MQTTMessage) -> None:
        with self._changed:
            if message.topic == STATUS:
                self.states.append((message.payload.decode(), message.retain))
            else:
                found = message.properties
                user = dict(getattr(found, "UserProperty", []))
                kind = getattr(found, "ContentType", "")
                self.frames.append(Frame(bytes(message.payload), kind, user, time.monotonic()))
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until the condition holds, looking after each message."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), f"{what}: not heard in {timeout_s} s"

    def wait_frames(self, more: int, timeout_s: float = WAIT_S) -> list[Frame]:
        """Wait for so many frames from now on, and return them."""
        before = len(self.frames)
        self.wait(lambda: len(self.frames) >= before + more, f"{more} frames", timeout_s)
        return self.frames[before : before + more]

    def wait_status(self, state: str) -> None:
        self.wait(lambda: [name for name, _ in self.states][-1:] == [state], state)


class CameraProcess:
    """One `penstock camera`; what it wrote lies in `folder`."""

    def __init__(self, words: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        self.out, self.err = folder / "camera.out", folder / "camera.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock_models.main", "camera", *words],
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    @property
    def log(self) -> str:
        return self.err.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def counters(self) -> dict[str, Any]:
        """What `--json` printed: one line, and nothing else."""
        (line,) = self.out.read_text().splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    def wait_log(self, text: str) -> None:
        """Wait until it has said so."""
        deadline = time.monotonic() + WAIT_S
        while text not in self.log:
            assert self.process.poll() is None, f"it ended: {self.log}"
            assert time.monotonic() < deadline, f"{text!r} is not in its log: {self.log}"
            time.sleep(0.02)

    def wait(self, timeout_s: float = STOP_S) -> int:
        return self.process.wait(timeout_s)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.wait()


@contextmanager
def camera(
    broker: Broker, source: str, folder: Path, *more: str, environment: dict[str, str] | None = None
) -> Iterator[CameraProcess]:
    """A running `penstock camera SOURCE --device door --stream cam --json`, and `more`."""
    words = [source, "--device", "door", "--stream", "cam", "--broker", broker.url, "--json", *more]
    started = CameraProcess(words, folder, environment)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(STOP_S)


def check_fresh(made: Camera, frames: list[Frame]) -> None:
    """None was older than 2 s when it came, and each says when it was taken."""
    for frame in frames:
        age_s = made.age_s(frame.number, frame.at)
        assert age_s <= MAX_AGE_S, f"picture {frame.number} was {age_s:.2f} s old"
        wall = time.time() - (time.monotonic() - made.taken[frame.number])
        assert abs(int(frame.user["ts"]) / 1000 - wall) < 1.0


def check_books(counters: dict[str, int]) -> None:
    assert counters["captured"] == sum(counters[name] for name in ("sent", "skipped", "stale", "failed"))
    assert counters["sent"] == sum(counters[name] for name in ("acked", "refused", "lost"))
    assert counters["oldest_ms"] <= MAX_AGE_S * 1000
