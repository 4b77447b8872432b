"""A device that keeps the contracts gets a clean bill, whatever format, rate, clock and luck it has."""

import itertools
from collections import Counter

import hypothesis.strategies as st
import msgspec
import numpy as np
from hypothesis import given, settings

from penstock_gateway.mqtt import Message
from penstock_sim.sources.encodings import MEDIA_TYPES, Encoding, encode_window, stamp
from tests.sim.patient import JPEG, PNG, WEBP, Patient

FRAMES = 120
SPAN_S = 40.0
PICTURES = {"image/jpeg": JPEG, "image/png": PNG, "image/webp": WEBP}
ENCODINGS: tuple[Encoding, ...] = ("tensor", "cbor", "json", "senml")


class Stream(msgspec.Struct, frozen=True):
    """What a stream sends. `kept`: its route is `every`, so the gateway sends receipts."""

    name: str
    picture: str
    encoding: Encoding
    dtype: str
    typed: bool
    numbered: bool
    timed: bool
    kept: bool
    every_s: float


class Life(msgspec.Struct, frozen=True):
    """What happens to the device. Times in seconds of the watch; `outage` (begin, length), 0 long for none."""

    v5: bool
    streams: tuple[Stream, ...]
    clock_s: float
    ntp: tuple[float, float]
    lags: tuple[float, ...]
    reboots: tuple[float, ...]
    outage: tuple[float, float]
    twice: frozenset[int]
    waits: tuple[float, ...]


@st.composite
def lives(draw: st.DrawFn) -> Life:
    clock = draw(st.floats(-4, 4))
    names = ["cam", "vib", "yard"][: draw(st.integers(1, 3))]
    jitter = st.floats(0, 1)
    bound = 0.2
    waits = []
    for _ in range(draw(st.integers(0, 6))):  # full jitter below a bound that doubles
        bound *= 2
        waits.append(draw(jitter) * bound)
    return Life(
        v5=draw(st.booleans()),
        streams=tuple(draw(streams(name)) for name in names),
        clock_s=clock,
        ntp=(draw(st.floats(0, SPAN_S)), draw(st.floats(max(-4.0, -4 - clock), min(4.0, 4 - clock)))),
        lags=tuple(draw(st.lists(st.floats(0, 0.9), min_size=1, max_size=5))),
        reboots=tuple(sorted(draw(st.lists(st.floats(1, SPAN_S), max_size=2)))),
        outage=(draw(st.floats(0, SPAN_S)), draw(st.sampled_from([0.0, 0.0, 3.0, 20.0]))),
        twice=draw(st.frozensets(st.integers(0, FRAMES), max_size=5)),
        waits=tuple(waits),
    )


@st.composite
def streams(draw: st.DrawFn, name: str) -> Stream:
    return Stream(
        name=name,
        picture=draw(st.sampled_from(["", *PICTURES])),
        encoding=draw(st.sampled_from(ENCODINGS)),
        dtype=draw(st.sampled_from(["uint8", "int16", "float32", "float64"])),
        typed=draw(st.booleans()),
        numbered=draw(st.booleans()),
        timed=draw(st.booleans()),
        kept=draw(st.booleans()),
        every_s=draw(st.sampled_from([0.02, 0.1, 0.5, 1.0, 7.0, 30.0])),
    )


class Device:
    """Lives a life in front of the doctor."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.patient = Patient()
        self.patient.clock_s = life.clock_s
        self.patient.v5 = life.v5
        self.lags = itertools.cycle(life.lags)
        self.sent = 0
        self.seqs: Counter[tuple[str, str]] = Counter()
        self.due: list[tuple[float, int, Message, tuple[int, str] | None]] = []
        self.tie = itertools.count()

    def live(self) -> None:
        events = sorted(
            [
                *((s.every_s * n, 0, s) for s in self.life.streams for n in range(count(s))),
                *((at, 1, None) for at in self.life.reboots),
                (self.life.ntp[0], 2, None),
            ],
            key=lambda event: event[:2],
        )
        for at, what, stream in events:
            self.pass_to(at)
            if what == 1:
                self.patient.restart(f"b{at:g}")
            elif what == 2:
                self.patient.clock_s += self.life.ntp[1]
            elif stream is not None:
                self.send(stream)
        self.pass_to(events[-1][0] + 60)
        self.come_back()

    def pass_to(self, at: float) -> None:
        """Let arrive what is on its way until then."""
        for due in sorted(d for d in self.due if d[0] <= at):
            self.due.remove(due)
            self.patient.at = due[0]
            self.patient.hear(due[2])
            if due[3] is not None:
                self.patient.receipt(due[3][0], boot=due[3][1], stream=due[2].topic.split("/")[5])
        self.patient.at = at
        self.patient.exam.tick(at)

    def send(self, stream: Stream) -> None:
        """A frame goes out, or is kept until the outage is over; TCP keeps the order."""
        seq = self.seqs[stream.name, self.patient.boot]
        self.seqs[stream.name, self.patient.boot] += 1
        message = self.message(stream, seq)
        begin, length = self.life.outage
        at = self.patient.at
        arrives = (begin + length if begin <= at < begin + length else at) + next(self.lags)
        arrives = max([arrives, *(due[0] for due in self.due)])
        times = 2 if self.sent in self.life.twice and stream.numbered else 1
        self.sent += 1
        for _ in range(times):
            receipt = (seq, self.patient.boot) if stream.kept and stream.numbered else None
            self.due.append((arrives, next(self.tie), message, receipt))

    def message(self, stream: Stream, seq: int) -> Message:
        told = (("boot", stream.numbered), ("seq", stream.numbered), ("ts", stream.timed))
        keys = [key for key, has in told if has]
        if stream.picture:
            typed = stream.picture if stream.typed else ""
            return self.patient.make(
                stream.name, "frame", PICTURES[stream.picture], typed, keys=keys, seq=seq
            )
        samples = np.arange(12).reshape(6, 2).astype(stream.dtype)
        # 3.1.1 has no properties to describe a tensor with, nor bytes that tell SenML from JSON
        encoding: Encoding = stream.encoding if self.life.v5 else "json"
        body, user = encode_window(samples, encoding)
        media_type = MEDIA_TYPES[encoding]
        if encoding in ("json", "cbor") and len(keys) == 3:  # they stand in the envelope
            body, keys = stamp(media_type, body, self.patient.boot, seq, self.patient.now()), []
            media_type = media_type if stream.typed else ""
        return self.patient.make(stream.name, "data", body, media_type, keys=keys, user=user, seq=seq)

    def come_back(self) -> None:
        """Connections that break and are made again, with back-off."""
        self.patient.status("online")
        for wait in self.life.waits:
            self.patient.status("offline")
            self.patient.wait(wait)
            self.patient.status("online")
            self.patient.wait(0.05)


def count(stream: Stream) -> int:
    return min(FRAMES, int(SPAN_S / stream.every_s) + 1)


@settings(max_examples=150)
@given(lives())
def test_a_healthy_device_gets_a_clean_bill(life: Life) -> None:
    device = Device(life)
    device.live()
    report = device.patient.report()
    assert report.findings == ()
    assert report.healthy
    assert report.frames >= sum(count(s) for s in life.streams)
