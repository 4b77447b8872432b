"""A run's summary in words."""

from __future__ import annotations

from collections.abc import Iterator

from penstock_sim.run.records import Summary

_SHOWN = ("sent", "answered", "late", "lost", "p50_ms", "p99_ms")
_MOST = 10


def closing_lines(summary: Summary) -> Iterator[str]:
    for name, figures in summary.figures.items():
        shown = ", ".join(f"{key} {number(figures[key])}" for key in _SHOWN if figures.get(key) is not None)
        yield f"{name or 'all':<12} {shown}"
    if not summary.on_time:
        lag = summary.figures[""].get("lag_p99_ms")
        yield f"VOID: the generator was late (p99 {number(lag)} ms, unsent {summary.unsent}): use more machines or less load"
    yield from (f"BOOKS: {difference}" for difference in summary.differences[:_MOST])
    if (more := len(summary.differences) - _MOST) > 0:
        yield f"BOOKS: and {more} more, in run.json"
    if summary.ledger is not None and not summary.differences:
        yield "the books of the devices and the gateway's ledger agree"
    if refused := summary.figures[""].get("refused"):
        yield f"REFUSED: the broker took {number(refused)} messages with an error, such as an ACL that denies their topic"
    for verdict in summary.objectives:
        yield f"{'ok' if verdict.met else 'FAILED':<6} {verdict.text} (came {number(verdict.value)})"
    yield from summary.notes
    if summary.stopped:
        yield "stopped before its end"


def number(value: float | None) -> str:
    if value is None:
        return "nothing"
    return f"{value:g}" if value == int(value) else f"{value:.4g}"
