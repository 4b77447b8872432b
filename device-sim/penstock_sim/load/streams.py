"""The streams of virtual devices: what they send and when, and what one needs to make its next message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from penstock_sim.load.clock import RIGHT, DeviceClock
from penstock_sim.load.packets import PublishTemplate
from penstock_sim.load.schedule import Schedule
from penstock_sim.load.track import StreamReport, StreamTrack, report_of
from penstock_sim.sources import Payload, Source
from penstock_sim.store import Store


class VirtualStream(msgspec.Struct, frozen=True):
    """One stream of a virtual device. `topic` "" means the stream's own `frame` (images) or `data` topic. A deadline (ms),
    a priority and, on MQTT 5, an expiry are sent with each frame."""

    device: str
    stream: str
    source: Source
    schedule: Schedule
    qos: Literal[0, 1] = 0
    topic: str = ""
    deadline_ms: int | None = None
    priority: int | None = None
    expiry_s: int | None = None


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message before its packet: intended time of sending (monotonic s), number, capture time (epoch ms), body.
    `again` marks a repetition, which the books already hold."""

    intended_s: float
    seq: int
    ts: int
    payload: Payload
    again: bool = False


Change = Callable[[float, Payload], Payload]
"""What a fault makes of a payload that is intended so many seconds after the run's begin."""


class LoadStream:
    """A stream that sends: its payloads, its packets and its books, one for each `boot`.

    Args:
        clock: what its capture times are read from; `began_s` is the monotonic time that its jumps count from.
        keeps: how many frames it keeps until their receipt and sends again, for `every` routes; 0: none.
    """

    def __init__(
        self,
        stream: VirtualStream,
        topic: str,
        protocol: int,
        boot: str,
        clock: DeviceClock = RIGHT,
        keeps: int = 0,
    ) -> None:
        self.stream, self.qos = stream, stream.qos
        self.change: Change | None = None
        self.clock, self.began_s = clock, 0.0
        self.tracks: list[StreamTrack] = []
        self.again = self.forgotten = 0
        """Frames sent a second time, and frames given up without a receipt."""
        self._topic, self._protocol, self._keeps = topic, protocol, keeps
        self._more = {
            key: value
            for key, value in (("dl", stream.deadline_ms), ("pr", stream.priority))
            if value is not None
        }
        self._templates: dict[tuple[str, bool], PublishTemplate] = {}
        self.store: Store[Frame] | None = None
        self.use(stream.source)
        self.reboot(boot)

    def use(self, source: Source) -> None:
        """Send what this source yields from now on."""
        self._media_type = source.media_type
        self._payloads: Iterator[Payload] = source.payloads()
        self._ahead: Payload | None = next(self._payloads, None)

    def reboot(self, boot: str) -> StreamTrack:
        """Start again: a new `boot`, numbers from 0, an empty store and new books, which are returned."""
        self.boot = boot
        self._templates.clear()
        self.forgotten += len(self.store) if self.store is not None else 0
        self.store = Store(self._keeps) if self._keeps else None
        stream = self.stream
        stamped = self._template(self._media_type, False).stamped
        self.track = StreamTrack(
            stream.device, stream.stream, boot, stream.schedule.rate_hz, stamped, stream.deadline_ms
        )
        self.tracks.append(self.track)
        return self.track

    def take(self, intended_s: float, now_s: float, wall_ms: int) -> Frame | None:
        """The next frame, None at the source's end. Its capture time is the intended one, also where it goes out late."""
        payload = self._ahead
        if payload is None:
            return None
        self._ahead = next(self._payloads, None)
        if self.change is not None:
            payload = self.change(intended_s - self.began_s, payload)
        ts = payload.ts
        if ts is None:
            error_ms = self.clock.error_ms(intended_s - self.began_s)
            ts = int(wall_ms - (now_s - intended_s) * 1000.0 + error_ms)
        return Frame(intended_s, -1, ts, payload)

    @property
    def ended(self) -> bool:
        return self._ahead is None

    def packet(self, frame: Frame, wall_ms: int, packet_id: int) -> bytes:
        """The message of a frame, which is noted as sent now."""
        payload, seq = frame.payload, frame.seq
        template = self._template(payload.media_type or self._media_type, payload.spoiled)
        if frame.again:
            self.again += 1
        else:
            seq = self.track.sent
            self.track.record(frame.intended_s, wall_ms, payload.truth, template.stamped)
            if self.store is not None:
                self.store.keep(seq, msgspec.structs.replace(frame, seq=seq, again=True))
        return template.packet(payload.data, payload.user, seq, frame.ts, packet_id)

    def report(self) -> StreamReport:
        """The books over all boots."""
        kept = len(self.store) if self.store is not None else 0
        forgotten = self.forgotten + (self.store.forgotten if self.store is not None else 0)
        return msgspec.structs.replace(
            report_of(self.tracks), again=self.again, forgotten=forgotten, unreceipted=kept
        )

    def close(self) -> None:
        close = getattr(self._payloads, "close", None)
        if close is not None:
            close()

    def _template(self, media_type: str, spoiled: bool) -> PublishTemplate:
        key = media_type, spoiled
        if key not in self._templates:
            self._templates[key] = PublishTemplate(
                self._topic,
                self.qos,
                self._protocol,
                media_type,
                self.boot,
                self._more,
                spoiled,
                self.stream.expiry_s,
            )
        return self._templates[key]
