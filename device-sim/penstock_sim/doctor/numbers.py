"""Rules about `seq` and `boot` (contracts 2, 5): gaps, numbers without a boot, boots that are no boots. Pure.

Gaps are found with the gateway's own windows. One is told once it is `gap_s` old, since a resend may fill it, and not
while the lowest is being filled: that is a backlog on its way. Where receipts say that the gateway has what did not come
by here, the loss is ours, and where they list it, it is theirs to judge.

A boot that opens while the one before goes on may be an older one, of which a device sends what it had kept: with holes,
since it sends only what has no receipt. Its gaps are not told.
"""

from __future__ import annotations

import math

from penstock_gateway.identity import MAX_BOOTS, MAX_RANGES, SeqWindow, Verdict
from penstock_sim.doctor.findings import Trouble
from penstock_sim.doctor.receipts import Receipts
from penstock_sim.doctor.seen import Seen

GAP_S = 5.0
"""How long a gap is waited for; the gateway's own wait is the route's `gap_s`."""
_REMEMBERED = 1024
"""Frames of a boot whose digest is kept, to tell a redelivery from a number that is used again."""
_CHURN = 4
"""Boots from which on fewer than two frames a boot are no restarts."""


class _Boot:
    """The numbers of one boot, and the newest frames' digests by number."""

    def __init__(self, first: int) -> None:
        self.window = SeqWindow(first)
        self.digests: dict[int, int] = {}
        self.filled = -math.inf
        """When a frame came that belongs into the lowest gap."""
        self.leftover = False

    def offer(self, seq: int, now: float) -> Verdict:
        """Judge a number, and remember it."""
        if self.window.awaiting and seq < next(self.window.awaited())[1]:
            self.filled = now
        return self.window.offer(seq, now)

    def differs(self, seq: int, digest: int) -> bool:
        """Whether this number was another frame before."""
        known = self.digests.get(seq)
        if known is None:
            self.digests[seq] = digest
            if len(self.digests) > _REMEMBERED:
                del self.digests[next(iter(self.digests))]
        return known is not None and known != digest


class Numbers:
    """The numbers of one stream."""

    def __init__(self, receipts: Receipts, gap_s: float = GAP_S) -> None:
        self._receipts = receipts
        self._gap_s = gap_s
        self._boots: dict[str, _Boot] = {}
        self._opened = ""
        self._last: Seen | None = None
        self.boots = self.frames = 0
        """Boots and numbered frames so far."""
        self.unseen = 0
        """Frames that the gateway has, and that did not come by here."""

    def observe(self, seen: Seen) -> list[Trouble]:
        boot, seq = seen.header.boot, seen.header.seq
        if seq is None:
            return []
        if boot is None:
            return [seen.trouble("boot", "a boot id beside seq", f"seq {seq} and no boot")]
        self._last = seen
        self.frames += 1
        found = self._reboot(seen, boot, seq) if boot not in self._boots else []
        state = self._boots[boot]
        verdict = state.offer(seq, seen.at)
        if boot != self._opened and verdict is not Verdict.DUPLICATE and self._opened in self._boots:
            self._boots[self._opened].leftover = True
        if state.differs(seq, seen.digest) and verdict is Verdict.DUPLICATE:
            came = f"seq {seq} of boot {boot!r} again, with another payload"
            found.append(seen.trouble("boot", "a new boot id at each start of the device", came))
        return [*found, *self.tick(seen.at)]

    def excuse(self, seen: Seen) -> None:
        """A number that was used for what is no frame: it is no gap in a boot that is being sent."""
        state = self._boots.get(seen.header.boot or "")
        if state is not None and seen.header.seq is not None:
            state.offer(seen.header.seq, seen.at)

    def tick(self, now: float) -> list[Trouble]:
        """The gaps that were waited for long enough, or are too many to be kept."""
        found = []
        for boot, state in self._boots.items():
            window = state.window
            due = window.next_due(self._gap_s)
            crowded = len(window.have) > 2 * MAX_RANGES
            if crowded or (due is not None and max(due, state.filled + self._gap_s) <= now):
                gaps = list(window.awaited())
                window.shrink(now)
                window.expire(now, self._gap_s)
                found += [t for gap in gaps if gap[1] <= window.passed_to for t in self._gap(boot, *gap)]
        return found

    @property
    def awaited(self) -> int:
        """Numbers that are missing still, for less than `gap_s`."""
        return sum(b - a for state in self._boots.values() for a, b in state.window.awaited())

    def _reboot(self, seen: Seen, boot: str, seq: int) -> list[Trouble]:
        self.boots += 1
        self._boots[boot], self._opened = _Boot(seq), boot
        if len(self._boots) > MAX_BOOTS:
            del self._boots[next(iter(self._boots))]
        if self.boots < _CHURN or self.frames >= 2 * self.boots:
            return []
        came = f"{self.boots} boots in {self.frames} frames"
        return [seen.trouble("boot", "the same boot id until the device starts again", came)]

    def _gap(self, boot: str, first: int, end: int) -> list[Trouble]:
        """A gap of numbers from `first` on, below `end`, that nobody filled."""
        known = self._receipts.knows(boot, first)
        if known == "safe":
            self.unseen += end - first
        if known is not None or self._boots[boot].leftover or self._last is None:
            return []
        expected = f"every seq of boot {boot!r}, within {self._gap_s:g} s"
        came = f"nothing between seq {first - 1} and {end}"
        return [Trouble("seq_gap", expected, came, self._last.topic, first, end - first)]
