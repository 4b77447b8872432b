"""The figures of a simulated plan, for each mix of devices and for all: what objectives are held against. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from penstock_models.scheduling.scheduler import Fate
from penstock_sim.plan.profile import Profile
from penstock_sim.plan.simulate import Mix, Outcome, Plan

PERCENTILES = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p99_9_ms": 99.9}

NAMES = (
    "sent", "sent_per_s", "answered", "answered_share", "answered_per_s", "goodput_per_s", "missed", "late", "late_share",
    "superseded", "expired", "dropped", *PERCENTILES, "max_ms", "offloaded", "offloaded_share", "utilisation",
    "cost_per_hour", "watts",
)  # fmt: skip
"""In the order in which they are shown. `missed` is the share of the frames that got no answer in time; one that a newer
frame of its stream replaced missed nothing."""

OF_ALL = ("utilisation", "cost_per_hour", "watts")
"""Those that no mix has of its own."""

Figures = dict[str, float | None]


def figures(outcome: Outcome, plan: Plan, edge: Profile, cloud: Profile | None) -> dict[str, Figures]:
    """By mix; "" for all."""
    found = {name: _of_mix([mix], outcome.seconds) for name, mix in outcome.mixes.items()}
    whole = _of_mix(list(outcome.mixes.values()), outcome.seconds)
    return {"": whole | _of_all(outcome, plan, edge, cloud, whole), **found}


def cost_per_hour(plan: Plan, edge: Profile, cloud: Profile | None, requests_per_hour: float = 0.0) -> float:
    """Money an hour: boxes and machines, and so many requests to the cloud."""
    money = plan.edge * edge.facts.per_hour
    if cloud is not None and plan.uses_cloud:
        money += plan.cloud * cloud.facts.per_hour + requests_per_hour * cloud.facts.per_request
    return money


def saturation(outcome: Outcome) -> tuple[str, float]:
    """What is busiest, and how busy: what gives out first when the load grows."""
    busy = {
        f"{tier} {part}": getattr(values, part)
        for tier, values in outcome.tiers.items()
        for part in ("slots", "loop", "journal", "link")
    }
    name = max(busy, key=lambda part: busy[part])
    return name, busy[name]


def _of_mix(mixes: Sequence[Mix], seconds: float) -> Figures:
    fates: Counter[Fate] = sum((mix.fates for mix in mixes), Counter())
    buckets: Counter[str] = Counter()
    for (bucket, _), count in fates.items():
        buckets[bucket] += count
    sent, late, offloaded = (
        sum(getattr(mix, name) for mix in mixes) for name in ("sent", "late", "offloaded")
    )
    answered = buckets["answered"]
    latencies = np.concatenate([np.asarray(mix.latencies) for mix in mixes]) * 1e3
    there = len(latencies) > 0
    wanted = sent - buckets["superseded"]
    return {
        "sent": sent,
        "sent_per_s": sent / seconds,
        "answered": answered,
        "answered_share": answered / sent if sent else None,
        "answered_per_s": answered / seconds,
        "goodput_per_s": (answered - late) / seconds,
        "missed": (wanted - answered + late) / sent if sent else None,
        "late": late,
        "late_share": late / answered if answered else None,
        **{bucket: buckets[bucket] for bucket in ("superseded", "expired", "dropped")},
        **{
            name: float(np.percentile(latencies, percent)) if there else None
            for name, percent in PERCENTILES.items()
        },
        "max_ms": float(latencies.max()) if there else None,
        "offloaded": offloaded,
        "offloaded_share": offloaded / answered if answered else None,
    }


def _of_all(
    outcome: Outcome, plan: Plan, edge: Profile, cloud: Profile | None, whole: Mapping[str, float | None]
) -> Figures:
    requests = (whole["offloaded"] or 0.0) / outcome.seconds * 3600
    watts = 0.0
    for name, profile, count in (("edge", edge, plan.edge), ("cloud", cloud, plan.cloud)):
        if profile is not None and name in outcome.tiers:
            facts = profile.facts
            busy = outcome.tiers[name].slots
            watts += count * (facts.watts_idle + (facts.watts_busy - facts.watts_idle) * busy)
    return {
        "utilisation": saturation(outcome)[1],
        "cost_per_hour": cost_per_hour(plan, edge, cloud, requests),
        "watts": watts,
    }
