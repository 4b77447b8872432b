"""What is said of plans: the table of candidates, the chosen one, the nearest miss. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock_sim.plan.planning import Planning
from penstock_sim.plan.search import Candidate, Found, miss, nearest
from penstock_sim.plan.simulate import Plan

COLUMNS = ("plan", "cost/h", "p50 ms", "p99 ms", "missed", "replaced", "cloud", "busiest", "")
SHOWN = 20

V = 1


def named(plan: Plan) -> str:
    """A plan in a few words."""
    boxes = f"{plan.edge} box{'es' if plan.edge > 1 else ''}"
    if plan.uses_cloud:
        boxes += f" + {plan.cloud} cloud"
    routes = [
        model if where == "edge" else f"{model} → {where}" for model, where in zip(plan.models, plan.where)
    ]
    batch = f", batches ≤ {plan.batch}" if plan.batch else ""
    return f"{boxes}: {', '.join(dict.fromkeys(routes))}{batch}"


def row(candidate: Candidate) -> tuple[str, ...]:
    """A line of the table."""
    figures = candidate.figures[""]
    replaced = (figures["superseded"] or 0) / max(1.0, figures["sent"] or 0)
    return (
        named(candidate.plan),
        _number(candidate.cost),
        _number(figures["p50_ms"]),
        _number(figures["p99_ms"]),
        _share(figures["missed"]),
        _share(replaced),
        _share(figures["offloaded_share"]),
        candidate.busiest,
        "meets" if candidate.meets else _failing(candidate),
    )


def closing(found: Found, planning: Planning) -> list[str]:
    """The last words."""
    lines = [f"note: {note}" for note in planning.notes]
    if not planning.objectives:
        lines.append("no objectives: this is what the configuration as it stands would do")
    if found.chosen is not None:
        if planning.objectives:
            lines.append(f"cheapest that meets all objectives: {named(found.chosen.plan)}")
            if found.chosen.plan.batch:
                lines.append(
                    "note: how large batches become is the gateway's own choice: it has no key for it"
                )
        lines += _of(found.chosen)
    else:
        best = nearest(found.candidates, planning.objectives)
        lines.append(
            f"no plan of {len(found.candidates)} meets all objectives; the nearest one misses by"
            f" {miss(best, planning.objectives):.0%}: {named(best.plan)}"
        )
        lines += [f"  {_verdict(verdict)}" for verdict in best.verdicts if not verdict.met]
        lines += _of(best)
    if not found.complete:
        lines.append(f"not all was tried: the search ended after {len(found.candidates)} plans, see --most")
    return lines


def plain(found: Found, planning: Planning, scenario: str) -> dict[str, Any]:
    """For machines. `chosen` and `nearest` are places in `candidates`."""
    place = {id(candidate): n for n, candidate in enumerate(found.candidates)}
    best = nearest(found.candidates, planning.objectives)
    return {
        "v": V,
        "scenario": scenario,
        "frames": len(planning.work.times),
        "seconds": round(planning.work.seconds, 3),
        "objectives": [objective.text for objective in planning.objectives],
        "candidates": [
            {**msgspec.to_builtins(candidate), "meets": candidate.meets, "name": named(candidate.plan)}
            for candidate in found.candidates
        ],
        "chosen": place[id(found.chosen)] if found.chosen is not None else None,
        "nearest": place[id(best)],
        "complete": found.complete,
        "notes": list(planning.notes),
    }


def shown(found: Found) -> Sequence[Candidate]:
    """The candidates that the table has room for: the chosen one among them."""
    if len(found.candidates) <= SHOWN:
        return found.candidates
    ordered = sorted(found.candidates, key=lambda one: (one is not found.chosen, not one.meets, one.cost))
    return ordered[:SHOWN]


def _of(candidate: Candidate) -> list[str]:
    """What is predicted, for each mix."""
    lines = []
    for mix, figures in candidate.figures.items():
        if mix and len(candidate.figures) == 2:
            continue  # the only mix is all
        lines.append(
            f"  {mix or 'all'}: {_number(figures['answered_per_s'])} answers/s of {_number(figures['sent_per_s'])},"
            f" p50 {_number(figures['p50_ms'])}, p95 {_number(figures['p95_ms'])}, p99 {_number(figures['p99_ms'])} ms,"
            f" missed {_share(figures['missed'])}, offloaded {_share(figures['offloaded_share'])}"
        )
    lines.append(f"  busiest, and first to give out: {candidate.busiest}")
    return lines


def _failing(candidate: Candidate) -> str:
    return "; ".join(_verdict(verdict) for verdict in candidate.verdicts if not verdict.met)


def _verdict(verdict: Any) -> str:
    return f"{verdict.text}: {_number(verdict.value)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
