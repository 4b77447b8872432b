"""A device in virtual time, and a doctor who watches it: verbs for what devices do, no broker and no waiting.

    patient = Patient()
    patient.stream(frames=50)
    patient.faults()  # {("seq_gap", "cam"), …}

Everything that it does by itself is right; what a story does otherwise is its fault.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence

import cv2
import msgspec
import numpy as np

from penstock_gateway.mqtt import Message
from penstock_sim.doctor.examination import Examination, Report
from penstock_sim.doctor.places import Places
from penstock_sim.doctor.streams import USUAL, Rules

EPOCH_MS = 1_800_000_000_000
_PICTURE = np.full((16, 24, 3), 90, np.uint8)
JPEG, PNG, WEBP = (cv2.imencode(ending, _PICTURE)[1].tobytes() for ending in (".jpg", ".png", ".webp"))


class Patient:
    """`at` is the time in seconds, `clock_s` by how much the device's clock is ahead, `lag_s` how long a frame takes."""

    def __init__(
        self, device: str = "door", filters: Sequence[str] = (), log: bool = False, rules: Rules = USUAL
    ) -> None:
        self.device, self.boot = device, "b1"
        self.at, self.clock_s, self.lag_s = 0.0, 0.0, 0.02
        self.v5 = True
        self.expiry_s: int | None = 2
        self.exam = Examination(device, "home", Places(device, "home", "penstock", filters), 0.0, rules, log)
        self._seqs: dict[str, itertools.count[int]] = {}
        self._report: Report | None = None

    def topic(self, stream: str, kind: str) -> str:
        return f"penstock/v1/home/dev/{self.device}/{stream}/{kind}"

    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.exam.tick(self.at)

    def hear(self, message: Message) -> None:
        """The doctor hears a message, now."""
        self.exam.take([message], self.at, EPOCH_MS + int(self.at * 1000))

    def now(self) -> int:
        """What the device's clock says."""
        return EPOCH_MS + int((self.at + self.clock_s) * 1000)

    def make(
        self,
        stream: str = "cam",
        kind: str = "frame",
        payload: bytes = JPEG,
        content_type: str = "image/jpeg",
        *,
        topic: str = "",
        keys: Iterable[str] = ("boot", "seq", "ts"),
        retain: bool = False,
        user: Iterable[tuple[str, str]] = (),
        **own: object,
    ) -> Message:
        """Capture a frame. `keys` are those that it carries, `own` other values for them (`seq=7`)."""
        seq = own.get("seq")
        if seq is None:
            seq = next(self._seqs.setdefault(stream, itertools.count()))
        values = {"boot": self.boot, "ts": self.now(), **own, "seq": seq}
        return Message(
            topic or self.topic(stream, kind),
            payload,
            content_type=content_type if self.v5 else "",
            retain=retain,
            expiry_s=self.expiry_s if self.v5 else None,
            user=(*((key, str(values[key])) for key in keys), *user) if self.v5 else (),
        )

    def arrive(self, message: Message) -> None:
        """Let a captured frame arrive, `lag_s` later."""
        self.at += self.lag_s
        self.hear(message)
        self.at -= self.lag_s

    def send(self, *given: object, **how: object) -> Message:
        """Capture a frame and let it arrive."""
        message = self.make(*given, **how)  # type: ignore[arg-type]
        self.arrive(message)
        return message

    def stream(self, frames: int = 50, every_s: float = 0.2, stream: str = "cam", **how: object) -> None:
        """Send at a beat."""
        for _ in range(frames):
            self.send(stream, **how)
            self.wait(every_s)

    def skip(self, stream: str = "cam", frames: int = 1) -> None:
        """Use numbers up, for frames that never arrive."""
        for _ in range(frames):
            self.make(stream)

    def restart(self, boot: str) -> None:
        """The device starts again: a new boot (unless it is the old one), numbers from zero."""
        self.boot = boot
        self._seqs.clear()

    def receipt(
        self,
        through: int,
        missing: Sequence[tuple[int, int]] = (),
        window: int = 1000,
        boot: str = "b1",
        stream: str = "cam",
    ) -> None:
        """The gateway says what it has."""
        body = {"v": 1, "boot": boot, "through": through, "missing": list(missing), "window": window}
        self.hear(Message(self.topic(stream, "receipt"), msgspec.json.encode(body), retain=True))

    def result(self, status: str, reason: str | None = None, stream: str = "cam") -> None:
        body = msgspec.json.encode({"v": 1, "status": status, "reason": reason})
        self.hear(Message(self.topic(stream, "result"), body))

    def status(self, word: str, retain: bool = True) -> None:
        self.hear(Message(f"penstock/v1/home/dev/{self.device}/status", word.encode(), retain=retain))

    def report(self, protocol: int = 5) -> Report:
        if self._report is None:
            self._report = self.exam.report(self.at, protocol)
        return self._report

    def faults(self) -> dict[tuple[str, str], int]:
        """What was found, by fault and stream, with how often."""
        return {(f.fault, f.stream): f.count for f in self.report().findings}


Story = Callable[[Patient], object]
"""What a device does while it is watched."""


def envelope(**keys: object) -> bytes:
    return json.dumps({"v": 1, "data": [1, 2], **keys}).encode()


def two_streams_of_two_types(patient: Patient) -> None:
    for _ in range(5):
        patient.send("cam")
        patient.send("vib", "data", envelope(), "application/json")
        patient.wait(0.2)


def lost(patient: Patient) -> None:
    patient.stream(20)
    patient.skip(frames=3)
    patient.stream(60)
