"""What the page of a run shows as words and tables, from its summary. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from penstock_gateway.ledger import BUCKETS
from penstock_sim.measure.figures import NAMES
from penstock_sim.report import compare_words
from penstock_sim.report.compare import Comparison
from penstock_sim.run.records import Recorded, Summary
from penstock_sim.run.words import number

_HELD = {"passed": "yes", "failed": "NO", "skipped": "not judged", "error": "NOT KNOWN"}
_MAIN = (
    "sent", "answered", "answered_share", "late", "lost", "p50_ms", "p95_ms", "p99_ms", "max_ms", "precision", "recall",
    "gateway_cpu", "gateway_rss_mb",
)  # fmt: skip
"""The figures that are always in sight; those that an objective names are too."""

_MOST_DIFFERENCES = 50
_MOST_STREAMS = 20
_MOST_EVENTS = 200

Rows = list[tuple[str, list[str]]]


def of_run(recorded: Recorded) -> dict[str, Any]:
    """The template's values, beside the verdict and the plots."""
    summary = recorded.summary
    told = [event for event in recorded.events if event.kind in ("stage", "warning")]
    values: dict[str, Any] = {
        "name": summary.name
        if summary is not None
        else _of_scenario(recorded, "name") or recorded.folder.name,
        "about": _of_scenario(recorded, "about"),
        "held": _HELD,
        "subtitle": _subtitle(recorded),
        "scenario": recorded.scenario,
        "summary": summary,
        "told": told[:_MOST_EVENTS],
        "notes": summary.notes if summary is not None else (),
        "differences": summary.differences[:_MOST_DIFFERENCES] if summary is not None else (),
        "more_differences": max(0, len(summary.differences) - _MOST_DIFFERENCES)
        if summary is not None
        else 0,
        "machine": [("folder", str(recorded.folder))],
        "figures": [],
    }
    if summary is not None:
        values |= _of_summary(summary)
        values["machine"] += _machine(summary)
    return values


def of_two(found: Comparison) -> dict[str, Any]:
    """The values of a comparison's template, beside the plots."""
    judged = [
        {
            "mix": one.mix, "figure": one.figure, "verdict": one.verdict, "change": compare_words.change(one),
            "a": compare_words.value(one, one.a), "b": compare_words.value(one, one.b),
            "seen": compare_words.seen(one),
        }
        for one in found.figures
    ]  # fmt: skip
    mixes = [mix for mix in found.a.figures if mix in found.b.figures]
    return {
        "a": found.a, "b": found.b, "word": compare_words.word(found), "look": "failed" if found.worse else "passed" if found.better else "same", "notes": found.notes, "judged": judged,
        "verdict": compare_words.verdict(found), "method": compare_words.method(found),
        "columns": [f"{run}, {mix or 'all'}" for mix in mixes for run in "AB"],
        "figures": figure_rows([run.figures[mix] for mix in mixes for run in (found.a, found.b)]),
    }  # fmt: skip


def _of_summary(summary: Summary) -> dict[str, Any]:
    mixes = list(summary.figures)
    books = list(summary.fates)
    asked = [one.text for one in summary.objectives]
    main = [
        name
        for name in dict.fromkeys([*_MAIN, *(n for n in NAMES if any(_asks(text, n) for text in asked))])
        if any(figures.get(name) is not None for figures in summary.figures.values())
    ]
    return {
        "mixes": [name or "all" for name in mixes],
        "figures": figure_rows([summary.figures[name] for name in mixes]),
        "main": main,
        "by_mix": [(name or "all", _cells(summary.figures[name], main)) for name in mixes],
        "books": books,
        "fates": _count_rows([summary.fates[name] for name in books]),
        "answered_by": _count_rows([summary.answered_by.get(name, {}) for name in books]),
        "generator": _generator(summary),
        "ledger": _ledger(summary.ledger) if summary.ledger is not None else [],
        "streams": _streams(summary),
    }


def figure_rows(columns: Sequence[Mapping[str, float | None]]) -> Rows:
    """One row a figure that any column has, in the order in which they are always shown."""
    names = [*NAMES, *(name for column in columns for name in column if name not in NAMES)]
    return [
        (name, [_cell(column.get(name)) for column in columns])
        for name in dict.fromkeys(names)
        if any(column.get(name) is not None for column in columns)
    ]


def _cells(figures: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    return [_cell(figures.get(name)) for name in names]


def _cell(value: float | None) -> str:
    return "" if value is None else number(value)


def _asks(objective: str, name: str) -> bool:
    return re.search(rf"(?<![a-z0-9_]){name}(?![a-z0-9_])", objective) is not None


def _count_rows(columns: Sequence[Mapping[str, int]]) -> Rows:
    totals: dict[str, int] = {}
    for column in columns:
        for name, count in column.items():
            totals[name] = totals.get(name, 0) + count
    often = sorted(totals, key=lambda name: -totals[name])
    return [(name, [str(column.get(name, 0)) for column in columns]) for name in often]


def _generator(summary: Summary) -> list[tuple[str, str]]:
    figures = summary.figures.get("", {})
    return [
        ("load on time", "yes" if summary.on_time else "NO: the run is void"),
        ("p99 of real less intended time of sending", f"{number(figures.get('lag_p99_ms'))} ms"),
        ("not sent", _named(summary.unsent)),
        ("connections lost", _named(summary.lost_connections)),
        ("processes", str(summary.workers)),
    ]


def _ledger(ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    reasons = ledger.get("reasons", {})
    first = ["received", *BUCKETS, "in_flight"]
    names = [*first, *(name for name in ledger if name not in first and name != "reasons")]
    return [
        (name, f"{ledger[name]}" + (f" ({_named(reasons[name])})" if reasons.get(name) else ""))
        for name in names
        if name in ledger
    ]


def _streams(summary: Summary) -> Rows:
    worst = sorted(
        summary.streams, key=lambda name: summary.streams[name].answered - summary.streams[name].sent
    )
    found: Rows = []
    for name in worst[:_MOST_STREAMS]:
        report = summary.streams[name]
        if report.sent > report.answered:
            counts = (report.sent, report.answered, report.sent - report.answered, report.late)
            found.append((name, [*map(str, counts), number(report.latency_ms.get("p99"))]))
    return found


def _machine(summary: Summary) -> list[tuple[str, str]]:
    machine = summary.machine
    return [
        ("run", summary.run),
        ("processor", f"{machine.processor}, {machine.cores} cores, {machine.memory_gb:g} GB"),
        ("versions", f"penstock {machine.penstock}, Python {machine.python}"),
        ("seed", str(summary.seed)),
    ]


def _subtitle(recorded: Recorded) -> str:
    summary = recorded.summary
    if summary is None:
        return f"{len(recorded.rows)} s were written, in {recorded.folder}"
    began = datetime.fromtimestamp(summary.began / 1000, UTC)
    return (
        f"{began:%Y-%m-%d %H:%M:%S} UTC, {summary.seconds:g} s, {len(summary.streams)} streams; "
        f"{summary.machine.cores} cores, penstock {summary.machine.penstock}; {recorded.folder}"
    )


def _of_scenario(recorded: Recorded, key: str) -> str:
    """A text of the scenario, "" where it cannot be read."""
    try:
        return str(tomllib.loads(recorded.scenario).get(key, ""))
    except tomllib.TOMLDecodeError:
        return ""


def _named(counts: Mapping[str, int]) -> str:
    there: Iterable[str] = (f"{name} {count}" for name, count in counts.items() if count)
    return ", ".join(there) or "none"
