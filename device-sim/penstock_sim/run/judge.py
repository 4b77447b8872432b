"""From the books of a run to its verdict: figures, what does not agree, which objectives hold. Pure but for the rows read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock_sim.load.track import StreamReport
from penstock_sim.measure import figures, ledgers
from penstock_sim.measure.closing import Difference, Heard, differences
from penstock_sim.measure.objectives import Objective
from penstock_sim.run import merge, wire
from penstock_sim.run.allowance import allowed, together
from penstock_sim.run.records import Machine, Row, Summary, load
from penstock_sim.scenario import Loaded

ALL = ""
Page = Mapping[str, Any]


def judge(
    loaded: Loaded,
    run: str,
    began: int,
    done: wire.Done,
    folder: Path,
    before: Page | None,
    after: Page | None,
    workers: int,
    machine: Machine,
    notes: tuple[str, ...],
) -> Summary:
    """The summary of a run whose rows lie in `folder`."""
    recorded = load(folder)
    by_stream = ledgers.streams(before, after) if after is not None else None
    ledger = ledgers.whole(before, after) if after is not None else None
    seconds = loaded.load.seconds
    found = {
        ALL: figures.of_streams(_together(done.streams.values()), by_stream, _latency(recorded.rows), seconds)
    }
    for name, books in done.streams.items():
        found[name] = figures.of_streams(books, by_stream, _latency(recorded.rows, name), seconds)
    found[ALL] |= _of_run(done, recorded.rows)
    if by_stream is None and ledger is not None:
        found[ALL] |= figures.of_ledger(_summed(_together(done.streams.values()).values()), ledger)
    differing = _differences(loaded, done, recorded.rows, by_stream, ledger)
    if done.undecodable:
        differing.append(
            Difference("all", "messages of the gateway that are no results", 0, done.undecodable)
        )
    if after is not None and ledger is None:
        differing.append(Difference("all", "starts that the gateway remembers from the begin on", 1, 0))
    mixes = [mix.name for mix in loaded.scenario.device]
    verdicts = tuple(
        Objective.parse(text, mixes, figures.NAMES).judge(found) for text in loaded.scenario.objectives
    )
    on_time = _on_time(done, found[ALL]["sent"] or 0)
    return Summary(
        name=loaded.scenario.name,
        run=run,
        seed=loaded.scenario.seed,
        began=began,
        seconds=seconds,
        ok=on_time and not differing and all(v.met for v in verdicts) and not done.stopped,
        on_time=on_time,
        stopped=done.stopped,
        objectives=verdicts,
        differences=tuple(differing),
        figures=found,
        fates={name: _fates(books.values()) for name, books in done.streams.items()},
        answered_by={
            name: _counts(r.answered_by for r in books.values()) for name, books in done.streams.items()
        },
        unsent=done.unsent,
        lost_connections=done.lost_connections,
        ledger=ledger,
        streams=_together(done.streams.values()),
        workers=workers,
        machine=machine,
        offset_ms=done.offset_ms,
        notes=notes,
    )


BEHIND_SHARE, BEHIND_FRAMES = 0.01, 3
"""What a generator may send late: a share of the frames, or a few moments of a short run."""


def _on_time(done: wire.Done, sent: float) -> bool:
    """Whether the load was what the scenario asked for, so that the figures say something about the gateway. What is left
    of a run that was stopped was not to be sent."""
    given_up = done.unsent.get("full", 0) + (0 if done.stopped else done.unsent.get("end", 0))
    return done.behind <= max(BEHIND_FRAMES, BEHIND_SHARE * sent) and not given_up


def _differences(
    loaded: Loaded,
    done: wire.Done,
    rows: Sequence[Row],
    by_stream: Mapping[str, Page] | None,
    ledger: Page | None,
) -> list[Difference]:
    """Stream by stream where the gateway still knows them, else in total."""
    if ledger is None:
        return []
    faults = loaded.scenario.fault
    may = {
        mix.name: allowed(faults, mix, rows, sum(r.forgotten for r in done.streams[mix.name].values()))
        for mix in loaded.scenario.device
    }
    if by_stream is None:
        heard = _summed(_together(done.streams.values()).values())
        return differences("all", heard, ledger, together(list(may.values())))
    return [
        one
        for mix, reports in done.streams.items()
        for name, report in reports.items()
        for one in differences(name, figures.heard(report), by_stream.get(name, figures.EMPTY), may[mix])
    ]


def _summed(reports: Iterable[StreamReport]) -> Heard:
    found = [figures.heard(report) for report in reports]
    return Heard(
        sum(one.sent for one in found),
        _counts(one.fates for one in found),
        sum(one.repeated for one in found),
        sum(one.unmatched for one in found),
        sum(one.late for one in found),
    )


def _of_run(done: wire.Done, rows: tuple[Row, ...]) -> figures.Figures:
    gateway = [row.processes["gateway"] for row in rows if "gateway" in row.processes]
    broker = [row.processes["broker"] for row in rows if "broker" in row.processes]
    remote = [row.gateway for row in rows if row.gateway is not None]
    rss = [one.rss_mb for one in gateway] or [one.rss_mb for one in remote if one.rss_mb is not None]
    cpu = [one.cpu for one in gateway[1:]] or [one.cpu for one in remote if one.cpu is not None]
    return {
        "unsent": sum(done.unsent.values()),
        "refused": done.refused,
        "foreign": done.foreign,
        "lag_p99_ms": done.lag_ms.get("p99"),
        "sent_lag_p99_ms": done.sent_lag_ms.get("p99"),
        "lost_connections": sum(done.lost_connections.values()),
        "gateway_cpu": sum(cpu) / len(cpu) if cpu else None,
        "gateway_rss_mb": max(rss, default=None),
        "gateway_rss_growth": rss[-1] / rss[len(rss) // 4] - 1 if len(rss) >= 8 else None,
        "broker_cpu": sum(b.cpu for b in broker[1:]) / (len(broker) - 1) if len(broker) > 1 else None,
    }


def _latency(rows: Iterable[Row], mix: str | None = None) -> Any:
    return merge.histogram(
        second.latency for row in rows for name, second in row.mixes.items() if mix in (None, name)
    )


def _together(books: Iterable[Mapping[str, StreamReport]]) -> dict[str, StreamReport]:
    return {name: report for streams in books for name, report in streams.items()}


def _fates(reports: Iterable[StreamReport]) -> dict[str, int]:
    return _counts(report.fates for report in reports)


def _counts(found: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in found:
        total.update(one)
    return dict(total)
