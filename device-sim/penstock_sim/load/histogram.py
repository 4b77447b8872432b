"""A histogram with logarithmic bins: percentiles within 1 % from bounded memory, however long a run lasts."""

from __future__ import annotations

from collections import Counter
from math import exp, log

_LOWEST = 0.001
_WIDTH = log(1.01)


class Histogram:
    """Counts positive values (milliseconds here); what is below 0.001 counts as 0.001."""

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0
        self.highest = 0.0

    def add(self, value: float) -> None:
        self._bins[int(log(value / _LOWEST) / _WIDTH) if value > _LOWEST else 0] += 1
        self.count += 1
        if value > self.highest:
            self.highest = value

    def merge(self, other: Histogram) -> None:
        self._bins += other._bins
        self.count += other.count
        self.highest = max(self.highest, other.highest)

    def percentile(self, percent: float) -> float | None:
        """The value that `percent` of the values do not exceed, within 1 %; None without values."""
        wanted, seen = self.count * percent / 100.0, 0
        for index in sorted(self._bins):
            seen += self._bins[index]
            if seen >= wanted:
                return min(_LOWEST * exp((index + 1) * _WIDTH), self.highest)
        return None

    def summary(self) -> dict[str, float | None]:
        """`p50`, `p95`, `p99` and `max`, rounded to microseconds; None without values."""
        values = {f"p{p}": self.percentile(p) for p in (50, 95, 99)}
        values["max"] = self.highest if self.count else None
        return {name: None if value is None else round(value, 3) for name, value in values.items()}
