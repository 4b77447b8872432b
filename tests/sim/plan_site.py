"""Devices and work made by hand for the tests of the plan: service times that formulas know, arrivals of a known kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock_models.measure import QUANTILES, BenchReport, Row
from penstock_sim.load.schedule import Times
from penstock_sim.plan.curve import Curve
from penstock_sim.plan.overflow import Where
from penstock_sim.plan.profile import Facts, ModelProfile, Profile
from penstock_sim.plan.simulate import Outcome, Plan
from penstock_sim.plan.work import Route, Sending, Work

FREE = {"ingest_ms": 0.0, "publish_ms": 0.0, "before_ms": 0.0, "after_ms": 0.0, "journal_ms": 0.0}
"""Nothing but the model takes time."""

LONG_S = 1e6


def report(
    name: str,
    item_s: float,
    fixed_s: float = 0.0,
    busy: Sequence[int] = (1,),
    sizes: Sequence[int] = (1, 2, 4, 8),
) -> BenchReport:
    """A model that always takes α·n + β."""
    rows = tuple(
        Row(n, 100, ms, ms, 1000 * n / ms, threads, False, (ms,) * len(QUANTILES))
        for threads in busy
        for n in sizes
        for ms in (1e3 * (item_s * n + fixed_s),)
    )
    return BenchReport(name, 1, f"sha256:{name}", "cpu", 1.0, 1.0, rows)


def device(*reports: BenchReport, name: str = "edge", **facts: float) -> Profile:
    models = {one.name: ModelProfile(one, f"{name}.json") for one in reports}
    return Profile(name, Facts(**{**FREE, **facts}), models)  # type: ignore[arg-type]


def exponential(profile: Profile, model: str, mean_s: float) -> Profile:
    """The device, with service times that are exponential as well as the quantiles can say it."""
    curve = tuple(min(-mean_s * np.log1p(-min(share, 0.9999)), 9 * mean_s) for share in QUANTILES)
    longer = mean_s / float(np.trapezoid(curve, QUANTILES))
    profile.models[model]._hot[1] = {1: Curve(max(float(t) * longer, 1e-9) for t in curve)}
    return profile


def work(
    times: Sequence[float],
    *,
    mode: str = "every",
    streams: int = 1000,
    deadline_s: float = LONG_S,
    seed: int = 1,
    models: Sequence[str] = ("m",),
    queue: int = 10**7,
    on_full: str = "wait",
) -> Work:
    """Frames at these times, of streams in turns by chance, each with a device of its own; routes share the streams."""
    owners = np.random.default_rng(seed).integers(0, streams, len(times))
    routes = tuple(Route(f"r{n}", model, mode, deadline_s, queue, on_full) for n, model in enumerate(models))  # type: ignore[arg-type]
    sendings = tuple(
        Sending(f"mix{n % len(models)}", n, n % len(models), deadline_s, deadline_s, 1000)
        for n in range(streams)
    )
    return Work(
        routes, sendings, np.asarray(times, np.float64), owners, float(times[-1]) if len(times) else 1.0
    )


def poisson(rate: float, count: int, seed: int = 1) -> list[float]:
    return list(np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count)))


def edge_only(asked: Work, batch: int = 0, boxes: int = 1) -> Plan:
    here: Where = "edge"
    return Plan(tuple(r.model for r in asked.routes), (here,) * len(asked.routes), batch, boxes)


def waits(outcome: Outcome, service_s: float | None = None) -> Times:
    """Seconds of all answers beyond the service."""
    found: Times = np.concatenate([np.asarray(mix.latencies) for mix in outcome.mixes.values()])
    return found - (service_s or 0.0)


def settled(outcome: Outcome) -> int:
    return sum(sum(mix.fates.values()) for mix in outcome.mixes.values())
