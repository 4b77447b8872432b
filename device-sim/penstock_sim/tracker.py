"""Which sent frame a result answers, how long that took from the intended time, and what is still unanswered.

Pure bookkeeping for one publisher, no I/O. A stamped frame is matched by (device, boot, stream, seq). An unstamped one
(an image over MQTT 3.1.1) is taken to be the newest that was sent before the gateway's `arrived`, which holds on one
machine's clock while the way to the gateway is shorter than the stream's period.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from penstock_sim.histogram import Histogram

_HORIZON_S = 60.0
_SHORTEST, _LONGEST = 64, 1 << 16
_EMPTY = -1.0


class _Result(msgspec.Struct):
    """The part of contracts 3 that matching needs; other keys are skipped unread."""

    device: str
    stream: str
    status: str
    seq: int | None = None
    boot: str | None = None
    reason: str | None = None
    arrived: int = 0


_decoder = msgspec.json.Decoder(_Result)


class StreamReport(msgspec.Struct, frozen=True):
    """`answered` frames have a result that is an answer, `unanswered` ones no result at all. `fates` counts results by
    `status` or `status: reason`; `repeated` are second results of one frame; `unmatched`
    are results of another boot, or of a frame sent too long ago. Latency counts from the intended time of sending."""

    sent: int
    results: int
    answered: int
    unanswered: int
    repeated: int
    unmatched: int
    fates: dict[str, int]
    latency_ms: dict[str, float | None]


class StreamTrack:
    """One stream's sent frames: the last `horizon` of them can still be matched."""

    def __init__(self, device: str, stream: str, boot: str, rate_hz: float, stamped: bool = True) -> None:
        self.device, self.stream, self.boot, self.stamped = device, stream, boot, stamped
        self._size = max(_SHORTEST, min(_LONGEST, int(rate_hz * _HORIZON_S)))
        self._intended = array("d", [_EMPTY]) * self._size
        self._sent_ms = array("q", [0]) * self._size
        self.sent = self.matched = self.answered = self.repeated = self.unmatched = 0
        self.fates: Counter[str] = Counter()
        self.latency_ms = Histogram()
        self.last: tuple[int, bytes] | None = None
        """Sequence number and body of the latest matched result that is an answer."""

    def record(self, intended_s: float, sent_ms: int) -> None:
        """Note that the next frame went out: intended (monotonic seconds) and real (epoch ms) time of sending."""
        slot = self.sent % self._size
        self._intended[slot], self._sent_ms[slot] = intended_s, sent_ms
        self.sent += 1

    def resolve(self, result: _Result, body: bytes, now_s: float) -> None:
        self.fates[result.status if result.reason is None else f"{result.status}: {result.reason}"] += 1
        seq = result.seq if self.stamped else self._before(result.arrived)
        if seq is None or not max(0, self.sent - self._size) <= seq < self.sent:
            self.unmatched += 1
        elif self._intended[seq % self._size] == _EMPTY:
            self.repeated += 1
        else:
            self._match(seq, result, body, now_s)

    def report(self) -> StreamReport:
        results = self.fates.total()
        unanswered = self.sent - self.matched
        return StreamReport(
            self.sent, results, self.answered, unanswered, self.repeated, self.unmatched, dict(self.fates), self.latency_ms.summary()
        )  # fmt: skip

    def _match(self, seq: int, result: _Result, body: bytes, now_s: float) -> None:
        slot = seq % self._size
        self.latency_ms.add((now_s - self._intended[slot]) * 1000.0)
        self._intended[slot] = _EMPTY
        self.matched += 1
        if result.status in ("ok", "degraded"):
            self.answered += 1
            self.last = (seq, body)

    def _before(self, arrived_ms: int) -> int | None:
        oldest = max(0, self.sent - self._size)
        for seq in range(self.sent - 1, oldest - 1, -1):
            if self._sent_ms[seq % self._size] <= arrived_ms:
                return seq
        return None


class Tracker:
    """All streams of a publisher. Results of foreign devices (`foreign`) and what is no result (`undecodable`) are only
    counted."""

    def __init__(self, tracks: Iterable[StreamTrack]) -> None:
        self._tracks: Mapping[tuple[str, str], StreamTrack] = {(t.device, t.stream): t for t in tracks}
        self.foreign = self.undecodable = 0

    def result(self, body: bytes, now_s: float) -> None:
        """Take one message of a `…/result` topic, received at monotonic time `now_s`."""
        try:
            result = _decoder.decode(body)
        except msgspec.MsgspecError:
            self.undecodable += 1
            return
        track = self._tracks.get((result.device, result.stream))
        if track is None or (track.stamped and result.boot != track.boot):
            self.foreign += 1
        else:
            track.resolve(result, body, now_s)

    @property
    def outstanding(self) -> int:
        """Sent frames without a result; what is only counted by the gateway (superseded, dropped) stays here."""
        return sum(track.sent - track.matched for track in self._tracks.values())
