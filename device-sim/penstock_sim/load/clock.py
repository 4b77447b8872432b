"""Clocks: a device's own, which may be wrong, and by how much the gateway's differs from ours. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class DeviceClock(msgspec.Struct, frozen=True):
    """Reads `skew_ms` more than true, `drift_ppm` more each million; `jumps` are (seconds since the start, ms)."""

    skew_ms: float = 0.0
    drift_ppm: float = 0.0
    jumps: Sequence[tuple[float, float]] = ()

    def error_ms(self, at_s: float) -> float:
        """By how much it is ahead, `at_s` after the start."""
        jumped = sum(ms for when, ms in self.jumps if when <= at_s)
        return self.skew_ms + at_s * self.drift_ppm / 1000.0 + jumped


RIGHT = DeviceClock()


class ClockOffset:
    """Bounds of the gateway's clock minus ours, in ms, from what the two saw of one frame.

    A frame is sent before it arrives, and arrives before its result is heard: with the gateway's clock ahead by d,
    sent ≤ arrived − d ≤ heard. Each frame bounds d from both sides, and the bounds of all of them hold together (Cristian,
    Probabilistic clock synchronization, 1989); where they contradict each other a clock has moved, and the newest count.
    """

    def __init__(self) -> None:
        self.least_ms, self.most_ms = -math.inf, math.inf

    def see(self, arrived_ms: float, heard_ms: float, sent_ms: float | None = None) -> None:
        """Take in one frame's times; `sent_ms` None where nobody knows which frame it was. `arrived_ms` was cut to
        whole milliseconds, so that it was up to one later."""
        least, most = arrived_ms - heard_ms, math.inf if sent_ms is None else arrived_ms + 1.0 - sent_ms
        if least > self.most_ms or most < self.least_ms:
            self.least_ms, self.most_ms = -math.inf, math.inf
        self.least_ms, self.most_ms = max(self.least_ms, least), min(self.most_ms, most)

    @property
    def ms(self) -> float:
        """The smallest difference that explains what was seen: 0 on one machine."""
        return min(max(0.0, self.least_ms), self.most_ms)

    @property
    def bounds_ms(self) -> tuple[float, float] | None:
        """None until both sides are known."""
        known = math.isfinite(self.least_ms) and math.isfinite(self.most_ms)
        return (self.least_ms, self.most_ms) if known else None
