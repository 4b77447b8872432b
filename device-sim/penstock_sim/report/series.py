"""A run's rows as arrays over time, in steps of whole seconds: what plots and comparisons are made of. Pure.

The only module here that reads `Row`. A long run is gathered into steps of several seconds, so that neither a plot nor
a comparison grows without end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_gateway.ledger import BUCKETS
from penstock_sim.report.latencies import Floats, Latencies, collect
from penstock_sim.run.records import Row

MOST_STEPS = 1200

Places = NDArray[np.int64]
"""Of each row, its step."""

Gauge = Callable[[Row], float | None]


class MixSeries(msgspec.Struct, frozen=True):
    """One mix: counts a step, and its answers' latencies with a row a step."""

    sent: Floats
    answered: Floats
    late: Floats
    fates: Mapping[str, Floats]
    latencies: Latencies


class Series(msgspec.Struct, frozen=True):
    """`at_s` is the middle of each step, `seconds` how many seconds of it were written (0: a hole). `gauges` by name have
    NaN where nothing was read."""

    step_s: int
    at_s: Floats
    seconds: Floats
    mixes: Mapping[str, MixSeries]
    gauges: Mapping[str, Floats]

    def rate(self, counts: Floats) -> Floats:
        """Counts a step as counts a second; NaN in a hole."""
        return np.divide(counts, self.seconds, out=np.full_like(counts, np.nan), where=self.seconds > 0)


def _process(name: str, key: str) -> Gauge:
    """Of a process that ran here; the gateway's own page speaks for one elsewhere."""

    def read(row: Row) -> float | None:
        if (sample := row.processes.get(name)) is not None:
            return float(getattr(sample, key))
        return getattr(row.gateway, key) if name == "gateway" and row.gateway is not None else None

    return read


def _page(key: str) -> Gauge:
    return lambda row: getattr(row.gateway, key) if row.gateway is not None else None


def _network(name: str) -> Gauge:
    """Both ways together, kB/s."""

    def read(row: Row) -> float | None:
        sample = row.network.get(name)
        return sample.received_kb_s + sample.sent_kb_s if sample is not None else None

    return read


def _settled(bucket: str) -> Gauge:
    return lambda row: row.gateway.settled.get(bucket) if row.gateway is not None else None


GAUGES: Mapping[str, Gauge] = {
    "connected": lambda row: row.connected,
    "held": lambda row: row.held,
    "lag_p99_ms": lambda row: row.lag_p99_ms,
    "waiting": _page("waiting"),
    "in_flight": _page("in_flight"),
    "celsius": _page("celsius"),
    "frequency_ratio": _page("frequency_ratio"),
    **{f"settled_{bucket}": _settled(bucket) for bucket in BUCKETS},
    **{f"{name}_network": _network(name) for name in ("gateway", "broker", "generator")},
    **{
        f"{name}_{key}": _process(name, key)
        for key in ("cpu", "rss_mb")
        for name in ("gateway", "broker", "generator")
    },
}
_MEAN = {
    name
    for name in GAUGES
    if name in ("connected", "frequency_ratio")
    or name.endswith(("_cpu", "_network"))
    or name.startswith("settled_")
}
"""Averaged over a step; of the others the highest counts."""


def step_of(rows: Sequence[Row], most: int = MOST_STEPS) -> int:
    """Of how many seconds a step must be that there are at most so many."""
    first, last = _span(rows)
    return max(1, math.ceil((last - first + 1) / most))


def series(rows: Sequence[Row], step: int) -> Series:
    """Gather rows into steps of `step` seconds.

    Raises:
        UsageError: a row whose latencies are no histogram.
    """
    if not rows:
        return Series(step, np.zeros(0), np.zeros(0), {}, {})
    first, last = _span(rows)
    count = (last - first) // step + 1
    place = np.array([(row.second - first) // step for row in rows])
    names = {name: None for row in rows for name in row.mixes}
    return Series(
        step,
        first + (np.arange(count, dtype=np.float64) + 0.5) * step,
        np.bincount(place, minlength=count).astype(np.float64),
        {name: _mix(name, rows, place, count) for name in names},
        {name: _gauge(name, read, rows, place, count) for name, read in GAUGES.items()},
    )


def _span(rows: Sequence[Row]) -> tuple[int, int]:
    """The first and the last second."""
    seconds = [row.second for row in rows]
    return min(seconds, default=0), max(seconds, default=0)


def _mix(name: str, rows: Sequence[Row], place: Places, count: int) -> MixSeries:
    found = [(at, row.mixes[name]) for at, row in zip(place, rows) if name in row.mixes]
    where = np.array([at for at, _ in found])

    def summed(values: Sequence[int]) -> Floats:
        return np.bincount(where, np.array(values, np.float64), count).astype(np.float64)

    latencies: list[list[str]] = [[] for _ in range(count)]
    for at, second in found:
        latencies[at].append(second.latency)
    fates = {fate: None for _, second in found for fate in second.fates}
    return MixSeries(
        summed([second.sent for _, second in found]),
        summed([second.answered for _, second in found]),
        summed([second.late for _, second in found]),
        {fate: summed([second.fates.get(fate, 0) for _, second in found]) for fate in fates},
        collect(latencies),
    )


def _gauge(name: str, read: Gauge, rows: Sequence[Row], place: Places, count: int) -> Floats:
    found = [(at, value) for at, row in zip(place, rows) if (value := read(row)) is not None]
    result = np.full(count, np.nan)
    if not found:
        return result
    where, values = np.array([at for at, _ in found]), np.array([value for _, value in found], np.float64)
    if name in _MEAN:
        times = np.bincount(where, minlength=count)
        sums = np.bincount(where, weights=values, minlength=count)
        np.divide(sums, times, out=result, where=times > 0)
    else:
        np.fmax.at(result, where, values)
    return result
