"""Counts per bucket and their sum: what a scraper turns into quantiles. Observing is a bisect and two additions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How many observations were at most each bound, the last bucket open.

    Args:
        bounds: upper bounds, ascending, in the unit of what is observed.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self, scale: float = 1.0) -> list[tuple[str, float]]:
        """(upper bound, how many were at most that), as Prometheus wants it.

        Args:
            scale: what one unit of the bounds is in the unit to tell: 1e-3 for bounds in milliseconds and seconds.
        """
        total = 0
        rows = []
        for bound, n in zip([*self.bounds, None], self.counts, strict=True):
            total += n
            rows.append(("+Inf" if bound is None else f"{bound * scale:g}", float(total)))
        return rows
