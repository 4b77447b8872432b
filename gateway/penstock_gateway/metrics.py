"""The gateway's numbers for Prometheus: histograms by model version, the ledger's fates, queues and links.

Observing is a bisect and two additions; everything else is read from the live objects when somebody scrapes. There is
no stream label: thousands of streams would be thousands of series.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from penstock_gateway.ledger import Counts

BOUNDS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
STAGES = ("queue", "decode", "infer", "total")


class Histogram:
    """Counts per bucket of milliseconds, the last one open, and their sum."""

    __slots__ = ("counts", "sum_ms")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_MS) + 1)
        self.sum_ms = 0.0

    def observe(self, ms: float) -> None:
        self.counts[bisect_left(BOUNDS_MS, ms)] += 1
        self.sum_ms += ms

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound in seconds, how many were at most that), as Prometheus wants it."""
        total = 0
        rows = []
        for bound, n in zip([*BOUNDS_MS, None], self.counts, strict=True):
            total += n
            rows.append(("+Inf" if bound is None else f"{bound / 1e3:g}", float(total)))
        return rows


class ModelTimes:
    """The four histograms of one model version, and how large its batches were."""

    __slots__ = ("batches", "decode", "frames", "infer", "queue", "total")

    def __init__(self) -> None:
        self.queue, self.decode, self.infer, self.total = (Histogram() for _ in STAGES)
        self.batches = 0
        self.frames = 0


@dataclass
class Tally:
    """Events that no ledger holds."""

    undelivered: int = 0
    """Results that could not be handed to the broker (outbox full while the connection is down)."""
    retained_ignored: int = 0
    unrouted: int = 0
    receipts: int = 0
    models: dict[tuple[str, str], ModelTimes] = field(default_factory=dict)

    def times(self, name: str, version: int) -> ModelTimes:
        return self.models.setdefault((name, str(version)), ModelTimes())


@dataclass(frozen=True)
class Gauge:
    """A value that is read at scrape time; `rows` yields (label values, value)."""

    name: str
    help: str
    labels: tuple[str, ...]
    rows: Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class _Collector:
    def __init__(self, tally: Tally, ledger: Callable[[], Counts], gauges: Iterable[Gauge]) -> None:
        self._tally = tally
        self._ledger = ledger
        self._gauges = tuple(gauges)

    def collect(self) -> Iterator[Metric]:
        yield from self._fates()
        yield from self._events()
        yield from self._times()
        for gauge in self._gauges:
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for labels, value in gauge.rows():
                family.add_metric(labels, value)
            yield family

    def _fates(self) -> Iterator[Metric]:
        counts = self._ledger()
        fates = CounterMetricFamily(
            "penstock_frames", "Frames by fate; `ok` is a plain answer.", labels=("bucket", "reason")
        )
        for (bucket, reason), n in counts.fates.items():
            fates.add_metric((bucket, reason or "ok"), n)
        yield fates
        for name, text, value in (
            ("penstock_frames_received", "Frames received.", counts.received),
            ("penstock_frames_late", "Frames whose run began in time and ended late.", counts.late),
            (
                "penstock_frames_missing_upstream",
                "Gaps in seq that were never filled.",
                counts.missing_upstream,
            ),
        ):
            yield CounterMetricFamily(name, text, value=value)
        yield GaugeMetricFamily("penstock_frames_in_flight", "Frames without a fate.", value=counts.in_flight)

    def _events(self) -> Iterator[Metric]:
        tally = self._tally
        for name, text, value in (
            (
                "penstock_results_undelivered",
                "Results dropped because the outbox was full.",
                tally.undelivered,
            ),
            ("penstock_retained_ignored", "Retained messages on frame topics.", tally.retained_ignored),
            ("penstock_unrouted", "Messages that no route takes.", tally.unrouted),
            ("penstock_receipts", "Receipts sent.", tally.receipts),
        ):
            yield CounterMetricFamily(name, text, value=value)

    def _times(self) -> Iterator[Metric]:
        labels = ("model", "version")
        batches = CounterMetricFamily("penstock_batches", "Batches run.", labels=labels)
        for key, times in self._tally.models.items():
            batches.add_metric(key, times.batches)
        yield batches
        for stage in STAGES:
            family = HistogramMetricFamily(
                f"penstock_{stage}_seconds", f"Time per answered frame: {stage}.", labels=labels
            )
            for key, times in self._tally.models.items():
                histogram: Histogram = getattr(times, stage)
                family.add_metric(key, histogram.cumulative(), sum_value=histogram.sum_ms / 1e3)
            yield family


class Metrics:
    """The scrape page."""

    def __init__(self, tally: Tally, ledger: Callable[[], Counts], gauges: Iterable[Gauge]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(tally, ledger, gauges))

    def page(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)
