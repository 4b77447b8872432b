"""What `penstock plan` must know of a machine beside its models: facts, from runs at two loads.

Processor times are measured. What is not measured by itself is fitted, so that the run at the low load is predicted as it was.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from penstock_models.measure import BenchReport
from penstock_sim.plan.profile import Facts
from tests.bench.plan_site import THREADS, Spent

LOW, LOW_SENSOR, FULL = 0.4, 0.7, 1.3
"""Loads of the calibration: of what the machine can do, of the scenario's rate, of what the machine can do. What a window costs
falls with the rate, as reads and commits take more of them at once; nothing here gives out under windows before the broker
does, so they have no full load."""

FITS = 6
"""Rounds of fitting."""

DAMPED = 0.7
"""Of a difference is made up for in a round: a longer rest makes frames wait longer, too."""

LEAST_MS = 0.05
"""Of a way."""

Still = Callable[[Facts], Mapping[str, float]]
"""What is predicted of the run at the low load, with these facts."""


class Cost(NamedTuple):
    """What a run tells: what a frame costs each time that it passes the event loop, and beside it; what it took in the gateway
    on average, and in all."""

    loop_ms: float
    beside_ms: float
    within_ms: float
    p50_ms: float
    p99_ms: float


def cost(found: Mapping[str, Any], spent: Spent) -> Cost:
    frames, passed = found["sent"], found["sent"] + found["fates"].get("ok", 0)
    beside_s = spent.beside_s + found["cpu_s"]
    latency = found["latency_ms"]
    return Cost(
        spent.loop_s / passed * 1e3, beside_s / frames * 1e3, spent.within_ms, latency["p50"], latency["p99"]
    )


def middle(costs: Sequence[Cost]) -> Cost:
    return Cost(*map(statistics.median, zip(*costs)))


def median_report(reports: Sequence[BenchReport]) -> BenchReport:
    """Each time of each row in the middle of those of several reports of one model."""
    rows = [
        msgspec.structs.replace(
            alike[0],
            p50_ms=statistics.median(row.p50_ms for row in alike),
            p95_ms=statistics.median(row.p95_ms for row in alike),
            items_per_s=statistics.median(row.items_per_s for row in alike),
            quantiles_ms=tuple(map(statistics.median, zip(*(row.quantiles_ms for row in alike)))),
        )
        for alike in zip(*(report.rows for report in reports))
    ]
    return msgspec.structs.replace(reports[0], rows=tuple(rows))


def of_cameras(low: Cost, full: Cost, still: Still) -> Facts:
    """Costs of busy cores from the full load, how much more they are on idle ones from the low one. What frames take in the
    gateway beyond what is known is a slot's rest; what the latencies have beyond that, the way."""
    longer = max(1.0, low.loop_ms / full.loop_ms)
    facts = msgspec.structs.replace(_measured(full), cold=1.0 + (longer - 1.0) / (1.0 - LOW))
    for _ in range(FITS):
        more_ms = low.within_ms - still(facts)["mean_ms"]
        facts = msgspec.structs.replace(facts, hop_ms=max(0.0, facts.hop_ms + DAMPED * more_ms))
    facts = msgspec.structs.replace(facts, before_ms=LEAST_MS, after_ms=LEAST_MS, after_p99_ms=LEAST_MS)
    for _ in range(FITS):
        found = still(facts)
        way_ms = max(LEAST_MS, facts.after_ms + (low.p50_ms - found["p50_ms"]) / 2)
        most_ms = max(way_ms, facts.after_p99_ms + low.p99_ms - found["p99_ms"])
        facts = msgspec.structs.replace(facts, before_ms=way_ms, after_ms=way_ms, after_p99_ms=most_ms)
    return facts


def of_sensors(low: Cost, still: Still) -> Facts:
    """Nearly all that a window takes is waiting for a commit, and its own: what commits take follows from the latencies."""
    facts = msgspec.structs.replace(_measured(low), journal_ms=low.p50_ms / 2, journal_p99_ms=low.p99_ms / 2)
    for _ in range(FITS):
        found = still(facts)
        facts = msgspec.structs.replace(
            facts,
            journal_ms=facts.journal_ms * low.p50_ms / found["p50_ms"],
            journal_p99_ms=facts.journal_p99_ms * low.p99_ms / found["p99_ms"],
        )
    return facts


def _measured(cost: Cost) -> Facts:
    return Facts(
        slots=THREADS, cores=THREADS, ingest_ms=cost.loop_ms, publish_ms=cost.loop_ms, beside_ms=cost.beside_ms,
        before_ms=0.0, after_ms=0.0, journal_ms=0.0,
    )  # fmt: skip
