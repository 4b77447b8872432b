"""What happened in one second of a run, for each mix of devices; what the plots are made of."""

from __future__ import annotations

from collections import Counter

import msgspec
from hdrh.histogram import HdrHistogram

_HIGHEST_US = 3_600_000_000
_DIGITS = 3


def new_histogram() -> HdrHistogram:
    """Microseconds up to an hour, within 0.1 %."""
    return HdrHistogram(1, _HIGHEST_US, _DIGITS)


class MixSecond(msgspec.Struct, frozen=True):
    """One second of a mix. `latency` is an HdrHistogram of microseconds in its V2 compressed form, base64."""

    sent: int
    answered: int
    late: int
    fates: dict[str, int]
    latency: str


class Window:
    """Counts until `cut`."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._latency = new_histogram()  # its own reset takes five times as long
        self._fates: Counter[str] = Counter()
        self._answered = self._late = 0

    def result(self, fate: str, is_answer: bool, latency_ms: float, deadline_ms: float | None) -> None:
        self._fates[fate] += 1
        if is_answer:
            self._answered += 1
            self._late += deadline_ms is not None and latency_ms > deadline_ms
            self._latency.record_value(min(_HIGHEST_US, max(1, round(latency_ms * 1000.0))))

    def cut(self, sent: int) -> MixSecond:
        """The second that ends now, in which so many were sent; the next begins."""
        if not self._fates:
            return MixSecond(sent, 0, 0, {}, "")
        encoded = self._latency.encode().decode() if self._answered else ""
        second = MixSecond(sent, self._answered, self._late, dict(self._fates), encoded)
        self._begin()
        return second
