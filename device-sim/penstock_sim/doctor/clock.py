"""Rules about a device's clock, from capture times and arrivals: skew and jumps. Pure.

A frame's delay is its arrival less its `ts`. Networks, queues and backlogs only ever make it larger, so

- the least delay of a stretch is the best estimate of the clock's error, and a negative one proves a clock ahead;
- a backlog that is sent after an outage has delays that fall; it proves nothing;
- `ts` that goes back while `seq` goes up, or a delay that falls below zero by more than the bound, is a jump.

Frames that come again or late (`seq` not higher) are not looked at. Without numbers a step back counts only once it has
stayed for `bound`, since an older frame in between may have been kept. A jump ends a stretch; skew is judged of the
first one of each boot, so that a jump is not told twice.
"""

from __future__ import annotations

from collections import deque

from penstock_gateway.timing import EARLIEST_TS
from penstock_sim.doctor.findings import Trouble
from penstock_sim.doctor.seen import Seen

BOUND_S = 5.0
"""How wrong a clock may be, and how far NTP may step it."""
_FEW = 3
"""Frames at least from which something is concluded that one late frame could pretend."""


class _Stretch:
    """Frames between two jumps, or those that may begin a new stretch. Delays in ms."""

    def __init__(self, seen: Seen, delay: float) -> None:
        self.first = self.last = seen
        self.frames = 1
        self.low = self.low_first = delay
        self._recent = deque([delay], maxlen=_FEW)

    def add(self, seen: Seen, delay: float) -> None:
        self.last = seen
        self.frames += 1
        self.low = min(self.low, delay)
        self._recent.append(delay)
        if self.frames <= _FEW:
            self.low_first = self.low

    @property
    def period_ms(self) -> float:
        """The usual time between two arrivals."""
        return (self.last.at - self.first.at) * 1000 / max(1, self.frames - 1)

    def steady(self, bound_ms: float) -> bool:
        """Whether it lasted for the bound with the same least delay from its beginning to its end: no backlog."""
        lasted = (self.last.at - self.first.at) * 1000 >= bound_ms
        return lasted and self.frames >= _FEW and abs(self.low_first - min(self._recent)) < bound_ms / 2


class Clock:
    """The clock of one stream's frames."""

    def __init__(self, bound_s: float = BOUND_S) -> None:
        self._bound = bound_s * 1000
        self._boot: str | None = None
        self._stretch: _Stretch | None = None
        self._doubt: _Stretch | None = None
        self._jumped = False

    def observe(self, seen: Seen) -> list[Trouble]:
        ts = seen.header.ts
        if ts is None:
            return []
        troubles = []
        if seen.header.boot != self._boot:
            troubles = self.close()
            self._boot, self._stretch, self._doubt, self._jumped = seen.header.boot, None, None, False
        if ts < EARLIEST_TS:
            return [*troubles, seen.trouble("clock_skew", "a clock that was set", f"ts {ts}, before 2015")]
        delay = seen.wall_ms - ts
        if self._stretch is None:
            self._stretch = _Stretch(seen, delay)
            return troubles
        if not _newer(seen, self._stretch.last):
            return troubles
        return [*troubles, *self._step(self._stretch, seen, delay)]

    def close(self) -> list[Trouble]:
        """What the first stretch says of the clock."""
        stretch = self._stretch
        if stretch is None or self._jumped:
            return []
        if stretch.low < -self._bound:
            return [self._skew(stretch, "ahead of this machine's")]
        # A window's `ts` may be that of its first sample: it is then as old as the window is long.
        if stretch.steady(self._bound) and stretch.low > self._bound + stretch.period_ms:
            return [self._skew(stretch, "behind this machine's, or every frame is that late")]
        return []

    def _skew(self, stretch: _Stretch, words: str) -> Trouble:
        came = f"a clock {_seconds(abs(stretch.low))} {words}"
        expected = f"capture times within {_seconds(self._bound)} of their arrival"
        return stretch.first.trouble("clock_skew", expected, came, stretch.frames)

    def _step(self, stretch: _Stretch, seen: Seen, delay: float) -> list[Trouble]:
        before = stretch.last
        if self._jumps(stretch, seen, delay):
            return self._jump(_Stretch(seen, delay), before)
        if seen.header.seq is None and _ts(seen) - _ts(before) < -self._bound:
            return self._suspect(seen, delay, before)
        self._doubt = None
        stretch.add(seen, delay)
        return []

    def _jumps(self, stretch: _Stretch, seen: Seen, delay: float) -> bool:
        before, seq = stretch.last, seen.header.seq
        if seq is not None and _ts(seen) - _ts(before) < -self._bound:
            return True
        delay_before = before.wall_ms - _ts(before)
        if delay - delay_before >= -self._bound:
            return False
        if delay < -self._bound:
            return True
        # A slow clock that was put right: neither a pause nor a backlog lies between two frames in their usual beat,
        # of which the first was as late as those before it.
        usual = delay_before - stretch.low < self._bound / 2
        in_beat = usual and (seen.at - before.at) * 1000 <= 2 * stretch.period_ms
        follows = seq is not None and before.header.seq is not None and seq == before.header.seq + 1
        return follows and in_beat and stretch.steady(self._bound)

    def _suspect(self, seen: Seen, delay: float, before: Seen) -> list[Trouble]:
        if self._doubt is None or abs(delay - self._doubt.low) > self._bound / 2:
            self._doubt = _Stretch(seen, delay)
            return []
        self._doubt.add(seen, delay)
        return self._jump(self._doubt, before) if self._doubt.steady(self._bound) else []

    def _jump(self, begun: _Stretch, before: Seen) -> list[Trouble]:
        by = (_ts(begun.first) - _ts(before)) / 1000
        passed = begun.first.at - before.at
        expected = f"ts that goes on as the time does ({passed:.3g} s since the frame before)"
        self._stretch, self._doubt, self._jumped = begun, None, True
        return [begun.first.trouble("clock_jump", expected, f"a step of {by:+.3g} s")]


def _newer(seen: Seen, last: Seen) -> bool:
    mine, before = seen.header.seq, last.header.seq
    return mine is None or before is None or mine > before


def _ts(seen: Seen) -> int:
    assert seen.header.ts is not None
    return seen.header.ts


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.3g} s"
