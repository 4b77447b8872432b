"""The gateway's numbers for Prometheus: histograms by model version, the ledger's fates, queues and links.

Everything but the histograms is read from the live objects when somebody scrapes. There is
no stream label: thousands of streams would be thousands of series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import CollectorRegistry

from penstock_gateway.ledger import Counts
from penstock_models.histogram import Histogram
from penstock_models.scheduling.runs import VersionRun

BOUNDS_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
STAGES = ("queue", "decode", "infer", "total")


class ModelTimes:
    """The four histograms of one model version, in milliseconds per answered frame."""

    __slots__ = ("decode", "infer", "queue", "total")

    def __init__(self) -> None:
        self.queue, self.decode, self.infer, self.total = (Histogram(BOUNDS_MS) for _ in STAGES)


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


class Metrics:
    """The scrape page; a collector of its own registry."""

    def __init__(
        self,
        tally: Tally,
        ledger: Callable[[], Counts],
        runs: Callable[[], Iterable[VersionRun]],
        gauges: Iterable[Gauge],
    ) -> None:
        self._tally = tally
        self._ledger = ledger
        self._runs = runs
        self._gauges = tuple(gauges)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def page(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._fates()
        yield from self._events()
        yield from self._times()
        yield from self._batches()
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
        for stage in STAGES:
            family = HistogramMetricFamily(
                f"penstock_{stage}_seconds", f"Time per answered frame: {stage}.", labels=labels
            )
            for key, times in self._tally.models.items():
                histogram: Histogram = getattr(times, stage)
                family.add_metric(key, histogram.cumulative(1e-3), sum_value=histogram.sum / 1e3)
            yield family

    def _batches(self) -> Iterator[Metric]:
        for name, text, of in (
            ("penstock_batch_items", "Frames per batch.", "sizes"),
            ("penstock_batch_over_predicted", "Time of a batch over what was predicted of it.", "predicted"),
        ):
            family = HistogramMetricFamily(name, text, labels=("model", "version"))
            for run in self._runs():
                histogram: Histogram = getattr(run, of)
                labels = (run.info.name, str(run.info.version))
                family.add_metric(labels, histogram.cumulative(), sum_value=histogram.sum)
            yield family
