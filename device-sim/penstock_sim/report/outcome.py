"""What a run's folder says in one word, and the checks that the word stands on: for the page and for CI. Pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Literal

import msgspec

from penstock_sim.run.records import Recorded, Summary
from penstock_sim.run.words import number

Word = Literal["PASSED", "FAILED", "VOID", "INCOMPLETE"]
State = Literal["passed", "failed", "skipped", "error"]

ON_TIME, CLOSED, TO_ITS_END, WHOLE = "load on time", "books close", "run to its end", "verdict of the run"

_MOST_DIFFERENCES = 20


class Check(msgspec.Struct, frozen=True):
    """One assertion; `about` says what came, or why it was not judged."""

    name: str
    state: State
    about: str
    value: float | None = None


class Outcome(msgspec.Struct, frozen=True):
    """`why` are whole sentences: what made the word."""

    word: Word
    why: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return self.word == "PASSED"


def outcome(recorded: Recorded) -> Outcome:
    """PASSED is only what the summary calls so: on time, closed, run to its end, every objective met."""
    summary = recorded.summary
    if summary is None:
        return _cut_off(recorded)
    checks = tuple(_checks(summary))
    failed = [check for check in checks if check.state == "failed"]
    if not summary.on_time:
        return Outcome("VOID", (checks[0].about, *(c.about for c in failed[1:])), checks)
    if failed:
        return Outcome("FAILED", tuple(f"{check.name}: {check.about}" for check in failed), checks)
    return Outcome("PASSED", ("the load was on time, the books close, every objective is met",), checks)


def _checks(summary: Summary) -> Iterator[Check]:
    yield _on_time(summary)
    yield _closed(summary)
    told = f"{summary.seconds:g} s of load"
    yield Check(TO_ITS_END, *(("failed", "stopped before its end") if summary.stopped else ("passed", told)))
    held = True
    for verdict in summary.objectives:
        about = f"came {number(verdict.value)}"
        held = held and verdict.met
        if not summary.on_time:
            yield Check(
                verdict.text, "skipped", f"{about}; not judged, the load was not on time", verdict.value
            )
        else:
            yield Check(verdict.text, "passed" if verdict.met else "failed", about, verdict.value)
    reasons = not summary.on_time or summary.stopped or summary.differences or not held
    if not summary.ok and not reasons:  # a newer run knows a reason that this report does not
        yield Check(WHOLE, "failed", "the run itself calls it failed")


def _on_time(summary: Summary) -> Check:
    lag = summary.figures.get("", {}).get("lag_p99_ms")
    unsent = {why: count for why, count in summary.unsent.items() if count}
    about = f"p99 of the sending's lag {number(lag)} ms, unsent {unsent or 'nothing'}"
    if summary.on_time:
        return Check(ON_TIME, "passed", about, lag)
    hint = "these figures say nothing about the gateway; use more machines or less load"
    return Check(ON_TIME, "failed", f"the generator was late: {about}; {hint}", lag)


def _closed(summary: Summary) -> Check:
    if summary.differences:
        told = [str(one) for one in summary.differences[:_MOST_DIFFERENCES]]
        more = len(summary.differences) - len(told)
        return Check(CLOSED, "failed", "; ".join([*told, *([f"and {more} more"] if more else [])]))
    if summary.ledger is None:
        return Check(CLOSED, "skipped", "the gateway's ledger was not asked: the books are one-sided")
    return Check(CLOSED, "passed", "the books of the devices and the gateway's ledger agree")


def _cut_off(recorded: Recorded) -> Outcome:
    why = (
        f"the run was cut off after {len(recorded.rows)} s: there is no run.json, so nothing is judged; "
        "what was written until then is shown"
    )
    names = (ON_TIME, CLOSED, TO_ITS_END, *_objectives(recorded.scenario))
    return Outcome("INCOMPLETE", (why,), tuple(Check(name, "error", "the run was cut off") for name in names))


def _objectives(scenario: str) -> list[str]:
    """Those of a scenario's text, as far as it can be read."""
    try:
        found = tomllib.loads(scenario).get("objectives", [])
    except tomllib.TOMLDecodeError:
        return []
    return [text for text in found if isinstance(text, str)] if isinstance(found, list) else []
