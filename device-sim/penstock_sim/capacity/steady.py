"""Is a load that is held steady: do latencies, queues or memory drift, does the box slow down. Pure.

Thirds of the time are compared, so that one bad second says nothing: medians for what fluctuates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median

from penstock_sim.measure.figures import latencies
from penstock_sim.run import merge
from penstock_sim.run.records import Row

LATENCY_GROWTH, LATENCY_FLOOR_MS = 0.25, 5.0
RSS_GROWTH, RSS_FLOOR_MB = 0.10, 20.0
QUEUE_GROWTH = 1.0
SLOWER = 0.10

_FEWEST = 9
"""Seconds that can be cut into thirds that say something."""


def unsteady(rows: Sequence[Row], mix: str) -> list[str]:
    """What drifted or slowed down, each in words; empty where nothing did."""
    if len(rows) < _FEWEST:
        return []
    third = len(rows) // 3
    first, last = rows[:third], rows[-third:]
    return [
        words
        for words in (
            *_latency(first, last, mix),
            *_memory(first, last),
            *_queue(first, last),
            *_throttled(rows, first, last),
        )
        if words
    ]


def _latency(first: Sequence[Row], last: Sequence[Row], mix: str) -> Iterator[str]:
    before, after = _p99(first, mix), _p99(last, mix)
    if _grown(before, after, LATENCY_GROWTH, LATENCY_FLOOR_MS):
        yield f"drift: p99 rose from {before:.1f} to {after:.1f} ms"


def _memory(first: Sequence[Row], last: Sequence[Row]) -> Iterator[str]:
    before, after = _median(first, _rss), _median(last, _rss)
    if _grown(before, after, RSS_GROWTH, RSS_FLOOR_MB):
        yield f"drift: the gateway's memory rose from {before:.0f} to {after:.0f} MB"


def _queue(first: Sequence[Row], last: Sequence[Row]) -> Iterator[str]:
    """Frames in flight that grow, to more than half a second's."""
    before, after = _median(first, _in_flight), _median(last, _in_flight)
    sent = _median(last, lambda row: sum(one.sent for one in row.mixes.values())) or 0.0
    if _grown(before, after, QUEUE_GROWTH, sent / 2):
        yield f"drift: frames in flight rose from {before:.0f} to {after:.0f}"


def _grown(before: float | None, after: float | None, share: float, floor: float) -> bool:
    """Whether it grew by more than both."""
    return before is not None and after is not None and after - before > max(share * before, floor)


def _throttled(rows: Sequence[Row], first: Sequence[Row], last: Sequence[Row]) -> Iterator[str]:
    count = sum(row.gateway.throttled or 0 for row in rows if row.gateway is not None)
    hottest = max(
        (r.gateway.celsius for r in rows if r.gateway and r.gateway.celsius is not None), default=None
    )
    heat = f", {hottest:.0f} °C at most" if hottest is not None else ""
    if count:
        yield f"throttling: hot cores were slowed down {count} times{heat}"
    before, after = _median(first, _frequency), _median(last, _frequency)
    if before and after and after < before * (1 - SLOWER):
        yield f"throttling: the cores fell from {before:.0%} to {after:.0%} of their highest frequency{heat}"


def _p99(rows: Sequence[Row], mix: str) -> float | None:
    return latencies(merge.histogram(row.mixes[mix].latency for row in rows))["p99_ms"]


def _rss(row: Row) -> float | None:
    own = row.processes.get("gateway")
    return own.rss_mb if own is not None else row.gateway.rss_mb if row.gateway is not None else None


def _in_flight(row: Row) -> float | None:
    return row.gateway.in_flight if row.gateway is not None else None


def _frequency(row: Row) -> float | None:
    return row.gateway.frequency_ratio if row.gateway is not None else None


def _median(rows: Sequence[Row], of: Callable[[Row], float | None]) -> float | None:
    values = [value for row in rows if (value := of(row)) is not None]
    return median(values) if values else None
