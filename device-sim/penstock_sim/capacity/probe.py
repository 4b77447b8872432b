"""One level of a capacity search: the scenario with so many devices, run for some seconds, and judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.measure.figures import latencies
from penstock_sim.run import merge
from penstock_sim.run.local import LocalSite
from penstock_sim.run.records import Row, Summary, Writer, load
from penstock_sim.run.run import Run, View
from penstock_sim.scenario import Loaded
from penstock_sim.scenario.phases import Steady, joined

WARM_S = 2
"""Seconds at the begin of each level that are not judged."""


class Wanted(msgspec.Struct, frozen=True):
    """The objective: of the frames of mix `route` at most the share `missed` has no answer within `deadline_ms`."""

    route: str
    deadline_ms: int
    missed: float


class Probed(msgspec.Struct, frozen=True):
    """A level that was run. `rows` are the seconds that were judged, `why` says what did not hold."""

    devices: int
    seconds: float
    rows: tuple[Row, ...]
    summary: Summary
    figures: dict[str, float | None]
    why: str


def at_level(loaded: Loaded, wanted: Wanted, devices: int, seconds: float) -> Loaded:
    """The scenario with so many devices in the route's mix, each frame with the deadline, for `WARM_S` more than `seconds`.

    Raises:
        UsageError: no such mix.
    """
    scenario = loaded.scenario
    names = [mix.name for mix in scenario.device]
    if wanted.route not in names:
        raise UsageError(
            f"expected --route to name devices of the scenario ({', '.join(names)}), came {wanted.route!r}"
        )
    mixes = tuple(
        msgspec.structs.replace(
            mix,
            count=devices,
            stream=tuple(msgspec.structs.replace(s, deadline_ms=wanted.deadline_ms) for s in mix.stream),
        )
        if mix.name == wanted.route
        else mix
        for mix in scenario.device
    )
    phase = (Steady(seconds=WARM_S + seconds),)
    changed = msgspec.structs.replace(scenario, device=mixes, phase=phase, fault=())
    return msgspec.structs.replace(loaded, scenario=changed, load=joined(phase, loaded.folder))


async def probe(
    loaded: Loaded,
    wanted: Wanted,
    devices: int,
    seconds: float,
    folder: Path,
    site: LocalSite | None,
    view: View,
) -> Probed:
    """Run one level; its records stay in `folder`.

    Raises:
        PenstockError: the books of devices and gateway differ, so that no figure counts.
    """
    level = at_level(loaded, wanted, devices, seconds)
    writer = Writer(folder, level.text)
    summary = await Run(level, writer, view, site).go()
    if writer.problem:
        raise PenstockError(writer.problem)
    if summary.differences:
        raise PenstockError(f"the books do not agree, see {folder}: {summary.differences[0]}")
    rows = load(folder).rows[WARM_S:]
    found = measured(rows, wanted.route)
    return Probed(devices, seconds, rows, summary, found, shortfall(found, wanted, summary))


def measured(rows: Sequence[Row], mix: str) -> dict[str, float | None]:
    """The figures of a mix over these seconds; `missed` is the share without an answer in time."""
    seconds = [row.mixes[mix] for row in rows]
    sent, answered, late = (sum(getattr(s, name) for s in seconds) for name in ("sent", "answered", "late"))
    took = latencies(merge.histogram(second.latency for second in seconds))
    return {
        "sent": sent,
        "answered": answered,
        "missed": max(0.0, 1 - (answered - late) / sent) if sent else None,
        "p50_ms": took["p50_ms"],
        "p99_ms": took["p99_ms"],
    }


def shortfall(found: dict[str, float | None], wanted: Wanted, summary: Summary) -> str:
    """What did not hold, "" where all did."""
    lag = summary.figures[""]["lag_p99_ms"]
    if not summary.on_time:
        return f"void: the generator was late ({lag or 0:.1f} ms at p99)"
    missed = found["missed"]
    if missed is None or missed > wanted.missed:
        return f"{missed or 0:.1%} of the frames had no answer within {wanted.deadline_ms} ms"
    unmet = [verdict.text for verdict in summary.objectives if not verdict.met]
    return f"the scenario's own objective {unmet[0]} did not hold" if unmet else ""
