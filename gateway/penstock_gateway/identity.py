"""Who a frame is: (device, boot, stream, seq), what is missing, and what a receipt may say (contracts 5).

Owns the judgement new / duplicate / late-recovered, the gaps and their ages, and the compact form that the journal
keeps. Pure: time comes in as seconds of a monotonic clock, nothing is read or written. Leaves to others: when to send
a receipt and its wire form, what `window` is, and the ledger.

How a boot is remembered. `have` is the set of numbers that came, as a sorted flat array of half-open ranges
[a0, b0, a1, b1, …): a number is in it exactly when its insertion point is odd. The gaps are the holes between `first`
and the highest number. Gaps are passed in order, so one number, `passed_to`, says which: a hole below it was counted
missing, a hole above it is still awaited. The first 16 awaited gaps are listed in receipts, and a gap's time begins
when it is listed: a device cannot resend what it was not told about. `_marks` holds (end, since): every listed gap
below `end`, and not below the mark before it, was listed at `since`.

A boot keeps at most 128 ranges. Beyond, the lowest hole is closed: an awaited gap is counted missing before its time,
and a number of a hole so forgotten that comes after all is taken for a duplicate. At 128 ranges in each of four boots
a stream costs about 10 kB; a stream in order costs one range.

Restart: ages are stored, not times. A gap's clock stands still from the last `seal` before the end until the next
start, so time in which nobody could receive a resend is not held against the device, and nothing is passed early.
"""

from __future__ import annotations

import enum
import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import msgspec

MAX_SEQ = (1 << 53) - 1
LISTED = 16
"""Gaps that a receipt lists; `through` stops before the next one."""
MAX_RANGES = 128
MAX_BOOTS = 4
_FORMAT = 1


class Verdict(enum.Enum):
    """What a frame is to its stream. NEW and LATE are to be processed, LATE was counted missing before."""

    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"


class Progress(msgspec.Struct, frozen=True):
    """What of a boot arrived: every seq ≤ `through` did, except those of `missing` (inclusive ranges, at most 16)
    and those passed before. A stream that never had a number has none: `boot` is "", `through` -1."""

    boot: str = ""
    through: int = -1
    missing: tuple[tuple[int, int], ...] = ()


class Sealed(msgspec.Struct, frozen=True, eq=False):
    """A stream's state at one moment, to be made durable together with the rows that it describes.

    `missing` is by how much `missing_upstream` rose (or fell) since the seal before.
    """

    key: str
    blob: bytes
    missing: int
    progress: Progress


class _Boot(msgspec.Struct, array_like=True, frozen=True):
    """One boot as it is stored. `marks` are (end, age in ms)."""

    boot: str
    first: int
    passed_to: int
    have: list[int]
    marks: list[tuple[int, int]]


class _Stored(msgspec.Struct, array_like=True, frozen=True):
    """A stream as it is stored: boots in the order of their last use, and the name of the newest."""

    v: int
    newest: str
    boots: list[_Boot]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Stored).decode


class SeqWindow:
    """The numbers of one boot of one stream."""

    __slots__ = ("_marks", "first", "have", "passed_to")

    def __init__(self, first: int) -> None:
        """Open the count at `first`, which itself has yet to be offered."""
        self.first = first
        self.passed_to = first
        self.have = array("q")
        self._marks: list[tuple[int, float]] = []

    def offer(self, seq: int, now_s: float) -> Verdict:
        """Judge a number and remember it. Numbers below the first one are new, not late."""
        have = self.have
        if have and seq == have[-1]:  # the next in order
            have[-1] = seq + 1
            return Verdict.NEW
        at = bisect_right(have, seq)
        if at & 1:
            return Verdict.DUPLICATE
        self._insert(at, seq)
        verdict = Verdict.LATE if self.first <= seq < self.passed_to else Verdict.NEW
        self._list(now_s)
        return verdict

    def _insert(self, at: int, seq: int) -> None:
        have = self.have
        joins_left = at > 0 and have[at - 1] == seq
        joins_right = at < len(have) and have[at] == seq + 1
        if joins_left and joins_right:
            del have[at - 1 : at + 1]
        elif joins_left:
            have[at - 1] = seq + 1
        elif joins_right:
            have[at] = seq
        else:
            have[at:at] = array("q", (seq, seq + 1))

    def _holes(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The half-open holes of [start, end), from the lowest. `start` is a number that came, and `end` one or past
        the highest: a pass ends where a range begins, so no hole is ever cut."""
        have = self.have
        for i in range(bisect_right(have, start), len(have) - 1, 2):
            if have[i] >= end:
                return
            yield have[i], have[i + 1]

    def awaited(self) -> Iterator[tuple[int, int]]:
        """The half-open gaps that were not passed, from the lowest."""
        return self._holes(self.passed_to, self.have[-1] if self.have else self.first)

    def _list(self, now_s: float) -> None:
        """Begin the time of gaps that entered the first 16; forget marks that no gap is left under."""
        gaps = [gap for gap, _ in zip(self.awaited(), range(LISTED), strict=False)]
        kept, start = [], self.passed_to
        for end, since in self._marks:
            if any(start <= gap[0] < end for gap in gaps):
                kept.append((end, since))
                start = end
        if gaps and gaps[-1][0] >= start:
            kept.append((gaps[-1][1], now_s))
        self._marks = kept

    def expire(self, now_s: float, gap_s: float) -> int:
        """Pass the gaps that were listed for `gap_s`; returns how many numbers are now counted missing."""
        missing = 0
        while self._marks and self._marks[0][1] + gap_s <= now_s:
            missing += self._pass(self._marks[0][0], now_s)
        return missing

    def _pass(self, end: int, now_s: float) -> int:
        missing = sum(b - a for a, b in self._holes(self.passed_to, end))
        self.passed_to = end
        self._marks = [mark for mark in self._marks if mark[0] > end]
        self._list(now_s)
        return missing

    def shrink(self, now_s: float) -> int:
        """Keep the memory bounded: close the lowest holes; returns how many awaited numbers that counts missing."""
        missing = 0
        while len(self.have) > 2 * MAX_RANGES:
            if self.have[2] > self.passed_to:
                missing += self._pass(self.have[2], now_s)
            del self.have[1:3]
        return missing

    @property
    def awaiting(self) -> bool:
        """Whether there is a gap to wait for."""
        return bool(self._marks)

    def next_due(self, gap_s: float) -> float | None:
        """When `expire` has something to pass."""
        return self._marks[0][1] + gap_s if self._marks else None

    def progress(self, boot: str) -> Progress:
        """What a receipt for this boot says."""
        if len(self.have) == 2:  # in order: no gap at all
            return Progress(boot, self.have[1] - 1)
        missing: list[tuple[int, int]] = []
        for a, b in self.awaited():
            if len(missing) == LISTED:
                return Progress(boot, a - 1, tuple(missing))
            missing.append((a, b - 1))
        return Progress(boot, self.have[-1] - 1, tuple(missing))

    def dump(self, boot: str, now_s: float) -> _Boot:
        marks = [(end, max(0, int((now_s - since) * 1000))) for end, since in self._marks]
        return _Boot(boot, self.first, self.passed_to, self.have.tolist(), marks)

    @classmethod
    def restore(cls, stored: _Boot, now_s: float) -> SeqWindow:
        window = cls(stored.first)
        window.passed_to = stored.passed_to
        window.have = array("q", stored.have)
        window._marks = [(end, now_s - age_ms / 1000) for end, age_ms in stored.marks]
        return window


class StreamIdentity:
    """The last boots of one (device, stream), and what of the newest is durable.

    `offer` and the journal's `append` of the same frame belong into one turn of the event loop, so that a seal never
    holds a number whose row is not in the same transaction.
    """

    __slots__ = ("_boots", "_newest", "_unsealed", "_used", "durable", "gap_s", "key")

    def __init__(self, key: str, gap_s: float) -> None:
        """`key` is "DEVICE/STREAM"."""
        self.key = key
        self.gap_s = gap_s
        self.durable = Progress()
        self._boots: dict[str, SeqWindow] = {}  # in the order of their last use
        self._newest = self._used = ""
        self._unsealed = 0

    def offer(self, boot: str | None, seq: int | None, now_s: float) -> tuple[Verdict, int]:
        """Judge a frame and remember it.

        Returns:
            The verdict, and the change of `missing_upstream` that it brings: -1 for a late frame, > 0 where a memory
            bound (128 ranges, four boots) made gaps be counted before their time, else 0.
        """
        if boot is None or seq is None:
            return Verdict.NEW, 0
        change = 0 if boot == self._used else self._use(boot, seq)
        window = self._boots[boot]
        verdict = window.offer(seq, now_s)
        if verdict is Verdict.LATE:
            change -= 1
        if len(window.have) > 2 * MAX_RANGES:
            change += window.shrink(now_s)
        self._unsealed += change
        return verdict, change

    def _use(self, boot: str, seq: int) -> int:
        """Make a boot the last used one; returns what an evicted boot still awaited."""
        known = self._boots.pop(boot, None)
        self._boots[boot] = known or SeqWindow(seq)
        self._used = boot
        if known is None:
            self._newest = boot
        if len(self._boots) <= MAX_BOOTS:
            return 0
        gone = self._boots.pop(next(iter(self._boots)))
        return sum(b - a for a, b in gone.awaited())

    def expire(self, now_s: float) -> int:
        """Pass what was listed for `gap_s`; returns the rise of `missing_upstream`."""
        missing = sum(window.expire(now_s, self.gap_s) for window in self._boots.values())
        self._unsealed += missing
        return missing

    @property
    def awaiting(self) -> bool:
        """Whether there is a gap to wait for."""
        return any(window.awaiting for window in self._boots.values())

    def next_due(self) -> float | None:
        """When `expire` is to be called next; None while nothing is missing."""
        return min(
            (d for w in self._boots.values() if (d := w.next_due(self.gap_s)) is not None), default=None
        )

    def progress(self) -> Progress:
        """What arrived of the newest boot, durable or not."""
        window = self._boots.get(self._newest)
        return window.progress(self._newest) if window else Progress()

    def seal(self, now_s: float) -> Sealed:
        """The state as it is now, for the journal's next transaction."""
        boots = [window.dump(boot, now_s) for boot, window in self._boots.items()]
        missing, self._unsealed = self._unsealed, 0
        return Sealed(self.key, _encode(_Stored(_FORMAT, self._newest, boots)), missing, self.progress())

    def confirm(self, sealed: Sealed) -> None:
        """That seal is durable: receipts may speak of it."""
        self.durable = sealed.progress

    @classmethod
    def restore(cls, key: str, blob: bytes, gap_s: float, now_s: float) -> StreamIdentity:
        """Rebuild from a seal.

        Raises:
            ValueError: the blob has a newer format, or is damaged.
        """
        try:
            stored = _decode(blob)
        except msgspec.DecodeError as exc:
            raise ValueError(f"stream {key}: identity is damaged or of a newer format ({exc})") from exc
        if stored.v != _FORMAT:
            raise ValueError(f"stream {key}: identity has format {stored.v}, this version reads {_FORMAT}")
        stream = cls(key, gap_s)
        stream._boots = {boot.boot: SeqWindow.restore(boot, now_s) for boot in stored.boots}
        stream._newest = stored.newest
        stream._used = next(reversed(stream._boots), "")
        stream.durable = stream.progress()
        return stream


class RecentDigests:
    """Digests of frames without a number, the newest `limit` of one connection.

    Redelivery is a matter of the connection, so the bound is too: `limit` is at least what the broker may have
    outstanding. A device's own second sending of the same payload is a new frame; only the broker's DUP is judged.
    """

    def __init__(self, limit: int, known: Iterable[bytes] = ()) -> None:
        self._limit = limit
        self._known = dict.fromkeys(known)

    def offer(self, digest: bytes, dup: bool) -> bool:
        """True when the frame is new; it is remembered then."""
        if dup and digest in self._known:
            return False
        self._known.pop(digest, None)
        self._known[digest] = None
        if len(self._known) > self._limit:
            del self._known[next(iter(self._known))]
        return True


def frame_digest(packet_id: int, topic: str, payload: bytes) -> bytes:
    """16 bytes that name one delivery of a frame without a number.

    A broker delivers again under the same packet id [MQTT-4.4.0-1]. Without the id a second sending of the same payload
    that was on its way when the gateway died, and so comes with DUP too, would be taken for the first.
    """
    state = hashlib.blake2b(packet_id.to_bytes(2, "little") + topic.encode() + b"\0", digest_size=16)
    state.update(payload)
    return state.digest()
