"""The books of one stream: which of its frames a result answers, how long that took, and what is still unanswered.

Pure bookkeeping for one process, no I/O. A stamped frame is matched by its `seq`. An unstamped one (an image over MQTT
3.1.1) is taken to be the newest unanswered one that was sent before the gateway's `arrived`, which holds while the way to
the gateway is shorter than the stream's period.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from penstock_models.items import Anomaly, Detection
from penstock_sim.load.histogram import Histogram
from penstock_sim.measure.accuracy import Score
from penstock_sim.sources import Truth

SURELY_LATE_MS = 500.0
"""An answer that was heard so long after its deadline was late at the gateway, whatever the network took."""

_HORIZON_S = 60.0
_SHORTEST, _LONGEST = 64, 1 << 16
_EMPTY = -1.0


class Result(msgspec.Struct):
    """The part of contracts 3 that matching needs; other keys are skipped unread."""

    device: str
    stream: str
    status: str
    seq: int | None = None
    boot: str | None = None
    reason: str | None = None
    answered_by: str | None = None
    arrived: int = 0
    correction_of: str | None = None

    @property
    def fate(self) -> str:
        return self.status if self.reason is None else f"{self.status}: {self.reason}"

    @property
    def is_answer(self) -> bool:
        return self.status in ("ok", "degraded")


class _Found(msgspec.Struct):
    """The part that is held against the truth."""

    detections: tuple[Detection, ...] | None = None
    anomaly: Anomaly | None = None


_found = msgspec.json.Decoder(_Found)


class StreamReport(msgspec.Struct, frozen=True):
    """`answered` frames have a result that is an answer, `unanswered` ones no result at all. `fates` counts first results
    by `status` or `status: reason`; `repeated` are second results of one frame; `unmatched` are results of a frame that
    was not sent, or too long ago. `late` answers took longer than the stream's deadline from the intended time,
    `surely_late` ones much longer from their arrival at the gateway. `disordered` came after the answer of a newer
    frame. Latency counts from the intended time of sending; `stale_ms` is how old the newest answered frame was
    when the next one came. Of a device that keeps frames until their receipt, `again` were sent a second time, `forgotten`
    given up without one, and `unreceipted` are still kept."""

    sent: int
    results: int
    answered: int
    unanswered: int
    repeated: int
    unmatched: int
    fates: dict[str, int]
    latency_ms: dict[str, float | None]
    answered_by: dict[str, int] = {}
    late: int = 0
    surely_late: int = 0
    disordered: int = 0
    corrections: int = 0
    stale_ms: dict[str, float | None] = {}
    score: Score | None = None
    again: int = 0
    forgotten: int = 0
    unreceipted: int = 0


class StreamTrack:
    """One stream's sent frames: the last `horizon` of them can still be matched."""

    def __init__(
        self,
        device: str,
        stream: str,
        boot: str,
        rate_hz: float,
        stamped: bool = True,
        deadline_ms: float | None = None,
    ) -> None:
        self.device, self.stream, self.boot, self.stamped = device, stream, boot, stamped
        self._deadline_ms = deadline_ms
        self._size = max(_SHORTEST, min(_LONGEST, int(rate_hz * _HORIZON_S)))
        self._intended = array("d", [_EMPTY]) * self._size
        self._sent_ms = array("q", [0]) * self._size
        self._truth: dict[int, Truth] = {}
        self._anonymous: deque[int] | None = None  # few streams need one
        self.sent = self.matched = self.answered = self.repeated = self.unmatched = 0
        self.late = self.surely_late = self.disordered = self.corrections = 0
        self.fates: Counter[str] = Counter()
        self.answered_by: Counter[str] = Counter()
        self.latency_ms, self.stale_ms = Histogram(), Histogram()
        self.score: Score | None = None
        self.last: tuple[int, bytes] | None = None
        """Sequence number and body of the newest frame's matched result that is an answer."""
        self._last_intended = _EMPTY

    def record(
        self, intended_s: float, sent_ms: int, truth: Truth | None = None, stamped: bool = True
    ) -> None:
        """Note that the next frame went out: intended (monotonic seconds) and real (epoch ms) time of sending. A frame
        of a stamped stream may be unstamped: its result names no frame."""
        slot = self.sent % self._size
        self._intended[slot], self._sent_ms[slot] = intended_s, sent_ms
        if truth is not None:
            self._truth[slot] = truth
        elif self._truth:
            self._truth.pop(slot, None)
        if self.stamped and not stamped:
            if self._anonymous is None:
                self._anonymous = deque(maxlen=self._size)
            self._anonymous.append(self.sent)
        self.sent += 1

    def sent_ms(self, seq: int | None) -> float | None:
        """When that frame was sent (epoch ms); None where it is not known any more."""
        return None if seq is None or not self._known(seq) else self._sent_ms[seq % self._size]

    def resolve(
        self, result: Result, body: bytes, now_s: float, now_ms: float, arrived_ms: float
    ) -> float | None:
        """Take a result of this stream; the latency in ms where it is a frame's first one.

        Args:
            arrived_ms: the result's `arrived`, by our clock.
        """
        if result.correction_of is not None:
            self.corrections += 1
            return None
        seq = self._seq(result, arrived_ms)
        if seq is None or not self._known(seq):
            self.unmatched += 1
            return None
        if self._intended[seq % self._size] == _EMPTY:
            self.repeated += 1
            return None
        return self._match(seq, result, body, now_s, now_ms - arrived_ms)

    def report(self) -> StreamReport:
        return StreamReport(
            sent=self.sent,
            results=self.fates.total() + self.repeated + self.unmatched,
            answered=self.answered,
            unanswered=self.sent - self.matched,
            repeated=self.repeated,
            unmatched=self.unmatched,
            fates=dict(self.fates),
            latency_ms=self.latency_ms.summary(),
            answered_by=dict(self.answered_by),
            late=self.late,
            surely_late=self.surely_late,
            disordered=self.disordered,
            corrections=self.corrections,
            stale_ms=self.stale_ms.summary(),
            score=self.score,
        )

    def _match(self, seq: int, result: Result, body: bytes, now_s: float, since_arrived_ms: float) -> float:
        slot = seq % self._size
        intended, self._intended[slot] = self._intended[slot], _EMPTY
        latency_ms = (now_s - intended) * 1000.0
        self.latency_ms.add(latency_ms)
        self.fates[result.fate] += 1
        self.matched += 1
        truth = self._truth.pop(slot, None) if self._truth else None
        if result.is_answer:
            self._answer(seq, intended, latency_ms, since_arrived_ms)
            self.answered_by[result.answered_by or ""] += 1
            if truth is not None:
                self._judge(truth, body)
            if self.last is None or seq > self.last[0]:
                self.last = (seq, body)
        return latency_ms

    def _answer(self, seq: int, intended: float, latency_ms: float, since_arrived_ms: float) -> None:
        self.answered += 1
        if self._deadline_ms is not None:
            self.late += latency_ms > self._deadline_ms
            self.surely_late += since_arrived_ms > self._deadline_ms + SURELY_LATE_MS
        if self.last is not None and seq < self.last[0]:
            self.disordered += 1
            return
        if self._last_intended != _EMPTY:
            self.stale_ms.add((intended - self._last_intended) * 1000.0 + latency_ms)
        self._last_intended = intended

    def _judge(self, truth: Truth, body: bytes) -> None:
        found = _found.decode(body)
        if self.score is None:
            self.score = Score()
        self.score.judge(truth, found.detections, found.anomaly)

    def _seq(self, result: Result, arrived_ms: float) -> int | None:
        if not self.stamped:
            return self._before(arrived_ms)
        if result.seq is None and self._anonymous:
            return self._anonymous.popleft()
        return result.seq

    def _known(self, seq: int) -> bool:
        return max(0, self.sent - self._size) <= seq < self.sent

    def _before(self, arrived_ms: float) -> int | None:
        """The newest frame without a result that was sent by then; with a result where there is no other."""
        newest = None
        for seq in range(self.sent - 1, max(0, self.sent - self._size) - 1, -1):
            if self._sent_ms[seq % self._size] <= arrived_ms:
                if self._intended[seq % self._size] != _EMPTY:
                    return seq
                newest = seq if newest is None else newest
        return newest


def report_of(tracks: Sequence[StreamTrack]) -> StreamReport:
    """The report of one stream over its boots."""
    if len(tracks) == 1:
        return tracks[0].report()
    total = StreamTrack(tracks[0].device, tracks[0].stream, tracks[-1].boot, 1.0, tracks[-1].stamped)
    for track in tracks:
        for name in _SUMMED:
            setattr(total, name, getattr(total, name) + getattr(track, name))
        total.fates.update(track.fates)
        total.answered_by.update(track.answered_by)
        total.latency_ms.merge(track.latency_ms)
        total.stale_ms.merge(track.stale_ms)
        if track.score is not None:
            total.score = total.score or Score()
            total.score.add(track.score)
    return total.report()


_SUMMED = (
    "sent", "matched", "answered", "repeated", "unmatched", "late", "surely_late", "disordered", "corrections",
)  # fmt: skip
