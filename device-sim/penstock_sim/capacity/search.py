"""Which load to try next: doubled until one fails, then halved in between. Pure.

A probe is short and machines are noisy, so one failure is asked again before it counts; what passed is held for long at
the end, which is the proof.
"""

from __future__ import annotations

import math

import msgspec

TRIES = 2
"""Probes of one level that have to fail before it counts as too much."""


class Search:
    """Asks for levels (numbers of devices) with `level` until that is None; `tell` it how each went.

    Args:
        first: where to begin.
        most: never more than this.
        tolerance: ends when the gap is at most this share of the level, or 1.
    """

    def __init__(self, first: int, most: int, tolerance: float = 0.05) -> None:
        self._most, self._tolerance = most, tolerance
        self.passed = 0
        """The largest level that passed; 0 before one did."""
        self.failed: int | None = None
        """The smallest level that failed."""
        self._failures = 0
        self.level: int | None = max(1, min(first, most))

    def tell(self, passed: bool) -> None:
        """How the probe of `level` went."""
        assert self.level is not None, "the search is over"
        if passed:
            self.passed = max(self.passed, self.level)
        else:
            self._failures += 1
            if self._failures < TRIES:
                return
            self.failed = self.level
        self._failures = 0
        self.level = self._next()

    def _next(self) -> int | None:
        if self.failed is None:
            return min(2 * self.passed, self._most) if self.passed < self._most else None
        gap = self.failed - self.passed
        if gap <= max(1, math.floor(self._tolerance * self.failed)):
            return None
        return self.passed + gap // 2


class Hold:
    """Which level to hold next: the found one, and after a failure some less, a few times.

    Raises:
        ValueError: nothing to hold.
    """

    def __init__(self, found: int, tries: int = 3, step: float = 0.1) -> None:
        if found < 1:
            raise ValueError("expected a level that passed")
        self._left, self._step = tries, step
        self.level: int | None = found
        self.held: int | None = None

    def tell(self, held: bool) -> None:
        """How holding `level` went."""
        assert self.level is not None, "the holding is over"
        self._left -= 1
        if held:
            self.held, self.level = self.level, None
        elif self._left <= 0 or self.level == 1:
            self.level = None
        else:
            self.level = max(1, min(self.level - 1, int(self.level * (1 - self._step))))


class Step(msgspec.Struct, frozen=True):
    """One level that was tried. `why` says what did not hold, "" where all did."""

    devices: int
    seconds: float
    passed: bool
    why: str
    figures: dict[str, float | None]
