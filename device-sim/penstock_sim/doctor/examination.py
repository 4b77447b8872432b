"""One device under examination: every message goes to its stream's rules, and a report comes out. Pure.

Bounded: `MAX_STREAMS` streams are watched, one more is counted only; findings are one a fault and stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from penstock_gateway.mqtt import Message
from penstock_models.errors import one_line
from penstock_sim.doctor.findings import MOST_TEXT, Finding, Findings, Trouble
from penstock_sim.doctor.places import Astray, Place, Places
from penstock_sim.doctor.reconnects import Reconnects
from penstock_sim.doctor.streams import USUAL, Rules, StreamView, WatchedStream

MAX_STREAMS = 64
SHORT_S = 10.0
"""A shorter watch cannot see what needs time to show."""
_ELSEWHERE = 8
"""Other topics with the device's name that are named where nothing else was heard."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the doctor says. `healthy` is a clean bill: something was heard, and nothing is wrong.

    `reconnects` names the witness of the device's connections; `notes` say what could not be judged.
    """

    device: str
    site: str
    seconds: float
    healthy: bool
    heard: bool
    frames: int
    streams: dict[str, StreamView]
    findings: tuple[Finding, ...]
    reconnects: str
    notes: tuple[str, ...]
    v: int = 1


class Examination:
    """Of one device.

    Args:
        began: monotonic seconds.
        log: whether a broker's log is the witness of connections, in place of the status topic.
    """

    def __init__(
        self, device: str, site: str, places: Places, began: float, rules: Rules = USUAL, log: bool = False
    ) -> None:
        self._device, self._site, self._places, self._began = device, site, places, began
        self._rules = rules
        self._findings = Findings(began)
        self._streams: dict[str, WatchedStream] = {}
        self._from_log = Reconnects("(the broker's log)") if log else None
        self._from_status = Reconnects()
        self._other_sites: Counter[str] = Counter()
        self._elsewhere: Counter[str] = Counter()
        self._astray = 0
        self._beyond = 0
        self._dropped: list[int] = []

    @property
    def frames(self) -> int:
        return sum(stream.frames for stream in self._streams.values())

    @property
    def findings(self) -> int:
        return len(self._findings.all())

    def take(self, messages: Sequence[Message], at: float, wall_ms: int) -> None:
        """What the listener heard at one moment."""
        for message in messages:
            place = self._places.find(message.topic)
            if message.topic.startswith("$SYS/"):
                self._system(message)
            elif isinstance(place, Place):
                self._placed(place, message, at, wall_ms)
            elif isinstance(place, Astray):
                self._strayed(place, message, at)
            else:
                _count(self._elsewhere, message.topic)

    def tick(self, at: float) -> None:
        """Time passed, whatever came."""
        for name, stream in self._streams.items():
            self._add(stream.tick(at), name, at)

    def connections(self, times: Iterable[float], epoch_s: float) -> None:
        """Connections that the broker's log tells of, in epoch seconds; the watch began at `epoch_s`."""
        if self._from_log is not None:
            for time in times:
                at = self._began + time - epoch_s
                self._add(self._from_log.connected(at), "", at)

    def report(self, at: float, protocol: int = 5, *more: str) -> Report:
        """Close, and tell; to be called once.

        Args:
            protocol: the MQTT version of our own connection: 3.1.1 (4) carries no properties to us.
            more: further notes.
        """
        expiring = protocol == 5 and any(stream.properties for stream in self._streams.values())
        for name, stream in self._streams.items():
            self._add(stream.close(at, expiring), name, at)
        if not self.frames:
            for topic in self._other_sites:
                trouble = Trouble("topic", f"the site {self._site!r}", topic, topic)
                self._add([trouble], "", at)
        findings = self._findings.all()
        heard = self.frames > 0
        return Report(
            device=self._device,
            site=self._site,
            seconds=round(at - self._began, 1),
            healthy=heard and not findings,
            heard=heard,
            frames=self.frames,
            streams={one_line(n, MOST_TEXT): s.view() for n, s in self._streams.items() if s.frames},
            findings=findings,
            reconnects=self._witness(),
            notes=(*more, *self._notes(at - self._began, protocol, expiring)),
        )

    def _placed(self, place: Place, message: Message, at: float, wall_ms: int) -> None:
        if place.kind == "status":
            self._add(self._status(message, at), "", at)
        elif place.kind == "other":
            return
        elif (stream := self._stream(place)) is None:
            self._beyond += 1
        elif place.kind == "receipt":
            stream.receipt(message, at)
        elif place.kind == "result":
            stream.result(message)
        else:
            self._add(stream.frame(place.kind, message, at, wall_ms), place.stream, at)

    def _status(self, message: Message, at: float) -> list[Trouble]:
        troubles = self._from_status.status(message.payload, at)
        return (
            [msgspec.structs.replace(t, topic=message.topic) for t in troubles]
            if self._from_log is None
            else []
        )

    def _stream(self, place: Place) -> WatchedStream | None:
        stream = self._streams.get(place.stream)
        if stream is None and len(self._streams) < MAX_STREAMS:
            stream = self._streams[place.stream] = WatchedStream(self._rules)
        return stream

    def _strayed(self, place: Astray, message: Message, at: float) -> None:
        if place.site:
            _count(self._other_sites, message.topic)
            return
        self._astray += 1
        self._add([Trouble("topic", place.expected, place.came, message.topic)], "", at)

    def _system(self, message: Message) -> None:
        if message.topic.endswith("/dropped") and message.payload.isdigit():
            self._dropped = [*self._dropped[:1], int(message.payload)]

    def _add(self, troubles: Iterable[Trouble], stream: str, at: float) -> None:
        for trouble in troubles:
            self._findings.add(trouble, stream, at)

    def _witness(self) -> str:
        if self._from_log is not None:
            return "broker log"
        return "status topic" if self._from_status.heard else "not seen"

    def _notes(self, seconds: float, protocol: int, expiring: bool) -> Iterable[str]:
        """What could not be judged, and what is not the device's doing."""
        if self.frames and seconds < SHORT_S:
            yield f"a watch of {seconds:.0f} s is too short for gaps, receipts and slow clocks: {SHORT_S:g} s at least"
        if self.frames and self._witness() == "not seen":
            yield "reconnects were not seen: the device has no status topic, and no broker log was given"
        elif self._from_log is not None and not self._from_log.heard:
            yield "the broker's log names no connection of the device in this time (--client-id says which is its)"
        if protocol == 4:
            yield "this broker speaks MQTT 3.1.1 only: content types, expiry and live retain flags are not seen"
        elif self.frames and not expiring:
            yield "expiry was not judged: no frame carries a property, so the device may speak MQTT 3.1.1"
        unnumbered = {n: s.unnumbered for n, s in self._streams.items() if s.unnumbered}
        if unnumbered:
            names = ", ".join(f"{one_line(n, 40)} ({count})" for n, count in unnumbered.items())
            yield f"frames without seq and boot, so that nobody can see a loss: {names}"
        for name, stream in self._streams.items():
            if stream.unseen:
                yield f"{one_line(name, 40)}: {stream.unseen} frames reached the gateway and not this subscriber"
            if stream.awaited:
                yield f"{one_line(name, 40)}: {stream.awaited} numbers were missing for a short time only at the end"
        yield from self._around()

    def _around(self) -> Iterable[str]:
        if len(self._dropped) == 2 and self._dropped[1] > self._dropped[0]:
            yield f"the broker dropped {self._dropped[1] - self._dropped[0]} messages meanwhile: gaps may be its own"
        if self._beyond:
            yield f"more than {MAX_STREAMS} streams: {self._beyond} messages of others were not looked at"
        if self.frames and self._other_sites:
            yield f"a device of that name is heard elsewhere too: {_some(self._other_sites)}"
        if not self.frames:
            where = ", ".join(self._places.wanted)
            yield (
                f"no frame that a gateway takes came at {where}: is the device on, is this its broker, may this user"
                " read there?"
            )
        if not self.frames and self._from_status.state:
            yield f"its status says {self._from_status.state!r}"
        if not self.frames and self._elsewhere:
            yield f"heard with that name: {_some(self._elsewhere)}; name the device's own topics with --filter"


def _count(counter: Counter[str], topic: str) -> None:
    if topic in counter or len(counter) < _ELSEWHERE:
        counter[topic] += 1


def _some(counter: Counter[str]) -> str:
    return ", ".join(f"{one_line(topic, 80)} ({count})" for topic, count in counter.most_common(3))
