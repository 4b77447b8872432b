"""Two runs side by side: for each mix, which figures became better or worse, and how sure that is. Pure.

Judged are percentiles of the latency (as ratios) and the shares of answered and late frames (as differences), over the
same seconds: the first tenth of each run is its warm-up and left out. The seconds are resampled in blocks (`bootstrap`);
where both runs are of the same scenario and length, the same blocks of time in both, so that its bursts and faults stand
on both sides. Verdicts rest on p-values corrected for their number; intervals are 95 % each by itself.

What this cannot know is how much the machine differs from one day to the next: that takes more runs of A.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from penstock_models.errors import UsageError
from penstock_sim.load.lane import LATE_MS
from penstock_sim.report.bootstrap import LEVEL, holm
from penstock_sim.report.latencies import WIDTH
from penstock_sim.report.measured import Draws, Kind, Measured, measured
from penstock_sim.report.outcome import Word, outcome
from penstock_sim.report.series import Series, series, step_of
from penstock_sim.run.records import Recorded, Row

V = 1
SHORTEST_S = 10
WARM_UP = 0.1
MOST_STEPS = 3600

LEAST_RATIO = 2 * WIDTH
"""Latencies that differ by less than the bins can show are no different."""

MOST_LOG = 50.0
"""Beyond it a ratio is no number that anybody reads."""

Verdict = Literal["better", "worse", "no difference seen", "not judged"]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of a mix. For "ms" `difference`, its interval `low` to `high` and `seen` are relative (0.1: a tenth
    slower), for the others absolute; `seen` is how large a difference would have been found in four runs of five."""

    mix: str
    figure: str
    kind: Kind
    a: float | None
    b: float | None
    verdict: Verdict
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    seen: float | None = None
    p: float | None = None


class Run(msgspec.Struct, frozen=True):
    """`seconds` are those that were compared, without the warm-up."""

    folder: str
    name: str
    word: Word
    seconds: int
    figures: dict[str, dict[str, float | None]]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    v: int = V
    a: Run
    b: Run
    worse: bool
    better: bool
    figures: tuple[Compared, ...]
    block_s: int
    same_seconds: bool
    notes: tuple[str, ...]


def compare(a: Recorded, b: Recorded) -> Comparison:
    """B against A.

    Raises:
        UsageError: a run that is void, or shorter than 10 s; no mix in both.
    """
    for recorded in (a, b):
        _usable(recorded)
    step = max(step_of(one.rows, MOST_STEPS) for one in (a, b))
    one, two = (series(_warm(recorded), step) for recorded in (a, b))
    same = a.scenario == b.scenario and abs(len(one.at_s) - len(two.at_s)) * step <= 2
    draw = Draws(len(one.at_s), len(two.at_s), same)
    if not one.mixes.keys() & two.mixes.keys():
        raise UsageError(f"expected runs with a mix in common, came {_named(one)} and {_named(two)}")
    figures = (*judge(one, two, draw), *_lost(a, b, _common(one, two)))
    return Comparison(
        a=_run(a, one),
        b=_run(b, two),
        worse=any(figure.verdict == "worse" for figure in figures),
        better=any(figure.verdict == "better" for figure in figures),
        figures=figures,
        block_s=draw.length * step,
        same_seconds=same,
        notes=tuple(_notes(a, b, one, two)),
    )


def judge(a: Series, b: Series, draw: Draws) -> list[Compared]:
    """The figures of the mixes that both have, each with its verdict."""
    found = [figure for mix in _common(a, b) for figure in measured(mix, a.mixes[mix], b.mixes[mix], draw)]
    return list(_judged(found))


def _common(a: Series, b: Series) -> list[str]:
    return [name for name in a.mixes if name in b.mixes]


def _usable(recorded: Recorded) -> None:
    summary, rows = recorded.summary, recorded.rows
    if len(rows) < SHORTEST_S:
        raise UsageError(
            f"{recorded.folder}: expected a run of {SHORTEST_S} s or more to compare, came {len(rows)} s"
        )
    lag = rows[-1].lag_p99_ms
    if not summary.on_time if summary is not None else lag is not None and lag > LATE_MS:
        raise UsageError(
            f"{recorded.folder}: expected a run whose load was on time, came a void one (p99 of the lag {lag} ms): "
            "its figures say nothing about the gateway"
        )


def _warm(recorded: Recorded) -> tuple[Row, ...]:
    """The rows after the warm-up."""
    return recorded.rows[math.ceil(len(recorded.rows) * WARM_UP) :]


def _judged(found: list[Measured]) -> Iterator[Compared]:
    """Only what can differ is one of the comparisons that are corrected for."""
    tested = [
        one for one in found if one.estimate is not None and (one.estimate.error or one.estimate.difference)
    ]
    corrected = holm([one.estimate.p for one in tested if one.estimate is not None])
    ps = {id(one): p for one, p in zip(tested, corrected)}
    for one in found:
        yield _compared(one, ps.get(id(one)), len(tested))


def _compared(one: Measured, p: float | None, comparisons: int) -> Compared:
    plain = Compared(
        mix=one.mix, figure=one.figure, kind=one.kind, a=_or_none(one.a), b=_or_none(one.b), verdict="not judged"
    )  # fmt: skip
    if (found := one.estimate) is None:
        return plain
    if p is None:
        return msgspec.structs.replace(plain, verdict="no difference seen", difference=0.0, seen=_unseen(one))
    differs = p < LEVEL and (one.kind != "ms" or abs(found.difference) > LEAST_RATIO)
    verdict: Verdict = "no difference seen"
    if differs:
        verdict = "better" if found.difference * one.sign > 0 else "worse"
    values = [found.difference, *found.interval, found.seen(comparisons)]
    if one.kind == "ms":
        values = [math.expm1(min(value, MOST_LOG)) for value in values]
    difference, low, high, seen = map(_or_none, values)
    return msgspec.structs.replace(
        plain, verdict=verdict, difference=difference, low=low, high=high, seen=seen, p=p
    )


def _unseen(one: Measured) -> float:
    """What would have been seen where nothing varied: of a share that is 0 or 1 in so many frames, three of them
    (Hanley and Lippman-Hand, JAMA 249, 1983)."""
    return 3 / one.most if one.kind == "share" else LEAST_RATIO


def _lost(a: Recorded, b: Recorded, mixes: list[str]) -> Iterator[Compared]:
    """Frames that the books miss. One is a fact and no chance; how many more of some are is not known of one run."""
    if a.summary is None or b.summary is None:
        return
    for mix in mixes:
        first, second = (_figure(one, mix, "lost") for one in (a, b))
        if first is None or second is None:
            continue
        verdict: Verdict = "no difference seen" if first == second else "not judged"
        if first != second and not min(first, second):
            verdict = "worse" if second else "better"
        yield Compared(
            mix=mix, figure="lost", kind="count", a=first, b=second, verdict=verdict, difference=second - first
        )  # fmt: skip


def _figure(recorded: Recorded, mix: str, name: str) -> float | None:
    return recorded.summary.figures.get(mix, {}).get(name) if recorded.summary is not None else None


def _run(recorded: Recorded, warm: Series) -> Run:
    summary = recorded.summary
    name = summary.name if summary is not None else recorded.folder.name
    seconds = int(warm.seconds.sum())
    return Run(
        str(recorded.folder),
        name,
        outcome(recorded).word,
        seconds,
        summary.figures if summary is not None else {},
    )


def _notes(a: Recorded, b: Recorded, one: Series, two: Series) -> Iterator[str]:
    for run, recorded in (("A", a), ("B", b)):
        if recorded.summary is None:
            yield f"{run} was cut off: what was written of it is compared"
        elif recorded.summary.differences:
            yield f"the books of {run} do not close: frames that are in no book are in no figure"
    if a.scenario != b.scenario:
        yield "the scenarios differ: what differs below may be theirs"
    for what, first, second in _conditions(a, b):
        if first != second:
            yield f"{what}: A {first}, B {second}"
    if left := sorted(one.mixes.keys() ^ two.mixes.keys()):
        yield f"in one run only, and not compared: {', '.join(left)}"


def _conditions(a: Recorded, b: Recorded) -> Iterator[tuple[str, object, object]]:
    if abs(len(a.rows) - len(b.rows)) > 2:
        yield "seconds", len(a.rows), len(b.rows)
    if a.summary is None or b.summary is None:
        return
    yield "seed", a.summary.seed, b.summary.seed
    mine: Mapping[str, object] = msgspec.structs.asdict(a.summary.machine)
    theirs: Mapping[str, object] = msgspec.structs.asdict(b.summary.machine)
    for name, value in mine.items():
        yield name.replace("_", " "), value, theirs[name]


def _named(found: Series) -> str:
    return ", ".join(found.mixes) or "none"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
