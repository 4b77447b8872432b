"""The figures of a run, for each mix of devices and for all: what objectives are held against. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from penstock_gateway.ledger import BUCKETS
from penstock_models.errors import UsageError
from penstock_sim.load.track import StreamReport
from penstock_sim.measure.accuracy import Score
from penstock_sim.measure.closing import Heard, lost
from penstock_sim.measure.objectives import Objective

PERCENTILES = {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "p99_9_ms": 99.9}

OF_RUN = (
    "unsent", "refused", "foreign", "lag_p99_ms", "sent_lag_p99_ms", "lost_connections", "gateway_cpu",
    "gateway_rss_mb", "gateway_rss_growth", "broker_cpu",
)  # fmt: skip
"""Figures that only the whole run has."""

SHARES = (
    "answered_share", "late_share", "precision", "recall", "gateway_cpu", "gateway_rss_growth", "broker_cpu",
)  # fmt: skip
"""Figures that may be given in per cent."""

_OTHER_BUCKETS = tuple(bucket for bucket in BUCKETS if bucket != "answered")

NAMES = (
    "sent", "received", "results", "answered", "answered_share", "goodput_per_s", "late", "late_share",
    *_OTHER_BUCKETS, "lost", "repeated", "unmatched", "disordered", "corrections",
    "unanswered", "again", "forgotten", "unreceipted",
    *PERCENTILES, "max_ms", "stale_p99_ms", "precision", "recall", *OF_RUN,
)  # fmt: skip
"""In the order in which they are shown. `answered` is what the devices heard; the ledger's other buckets are its own."""

_SUMMED = (
    "unanswered", "repeated", "unmatched", "disordered", "corrections", "again", "forgotten", "unreceipted",
)  # fmt: skip

Figures = dict[str, float | None]


def fits(objective: Objective) -> None:
    """Whether the figure of an objective can be had as it asks for it.

    Raises:
        UsageError: a mix's figure that only the whole run has, or per cent of what is no share.
    """
    figure = objective.figure
    if objective.mix and figure in OF_RUN:
        raise UsageError(
            f"expected {figure} without a mix, as it is of the whole run, came {objective.text!r}"
        )
    if objective.text.endswith("%") and figure not in SHARES:
        raise UsageError(f"expected per cent of {', '.join(SHARES)} alone, came {objective.text!r}")


def of_streams(
    streams: Mapping[str, StreamReport],
    ledgers: Mapping[str, Mapping[str, Any]] | None,
    latency: HdrHistogram,
    seconds: float,
) -> Figures:
    """The figures of some streams together.

    Args:
        ledgers: the gateway's, by stream; None where the gateway cannot be asked.
        latency: of their answers, in microseconds.
        seconds: for how long they sent.
    """
    reports = list(streams.values())
    sent, answered = (sum(getattr(r, name) for r in reports) for name in ("sent", "answered"))
    late = sum(r.late for r in reports)
    score = _score(reports)
    stale = [value for r in reports if (value := r.stale_ms.get("p99")) is not None]
    figures: Figures = {
        "sent": sent,
        "results": sum(r.results for r in reports),
        "answered": answered,
        "answered_share": answered / sent if sent else None,
        "goodput_per_s": (answered - late) / seconds if seconds else None,
        "late": late,
        "late_share": late / answered if answered else None,
        "stale_p99_ms": max(stale, default=None),
        "precision": score.precision if score else None,
        "recall": score.recall if score else None,
    }
    figures |= {name: sum(getattr(report, name) for report in reports) for name in _SUMMED}
    figures |= latencies(latency)
    if ledgers is not None:
        figures |= _from_ledgers(streams, ledgers)
    return figures


def latencies(histogram: HdrHistogram) -> Figures:
    """Percentiles and the maximum in milliseconds; None without values. A percentile is the least value that so many per
    cent of the values do not exceed (nearest rank)."""
    count = histogram.get_total_count()
    if not count:
        return dict.fromkeys((*PERCENTILES, "max_ms"))
    # The histogram rounds a rank to the nearest whole one, which of few values is the wrong one: it is asked for whole ones.
    ranks = {
        name: 100.0 * math.ceil(percent * count / 100.0) / count for name, percent in PERCENTILES.items()
    }
    values = histogram.get_percentile_to_value_dict(ranks.values())
    figures: Figures = {name: values[rank] / 1000.0 for name, rank in ranks.items()}
    return figures | {"max_ms": histogram.get_max_value() / 1000.0}


def heard(report: StreamReport) -> Heard:
    return Heard(report.sent, report.fates, report.repeated, report.unmatched, report.surely_late)


def of_ledger(books: Heard, ledger: Mapping[str, Any]) -> dict[str, int]:
    """What a ledger says beside what the devices heard."""
    return {bucket: ledger[bucket] for bucket in ("received", *_OTHER_BUCKETS)} | {
        "lost": lost(books, ledger)
    }


def _from_ledgers(streams: Mapping[str, StreamReport], ledgers: Mapping[str, Mapping[str, Any]]) -> Figures:
    total: Counter[str] = Counter(of_ledger(NOBODY, EMPTY))
    for name, report in streams.items():
        total.update(of_ledger(heard(report), ledgers.get(name, EMPTY)))
    return dict(total)


EMPTY: Mapping[str, Any] = dict.fromkeys((*BUCKETS, "received", "in_flight"), 0)
"""The ledger of a stream of which the gateway saw nothing."""

NOBODY = Heard(0, {})


def _score(reports: Sequence[StreamReport]) -> Score | None:
    scores: Iterable[Score] = [r.score for r in reports if r.score is not None]
    total = Score()
    for score in scores:
        total.add(score)
    return total if total.frames else None
