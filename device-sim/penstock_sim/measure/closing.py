"""Do the devices' books and the gateway's ledger tell the same story? Pure.

The devices know what they sent and which results they heard; the ledger (contracts 4) says what became of each frame.
Every frame must have one fate in both. What differs is named: a run in which something differs has failed, whatever its
latencies are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock_gateway.ledger import BUCKETS

_STATUSES = {"ok": "answered", "degraded": "answered"}
"""The bucket of a result's status; other statuses are their bucket's name."""

_TOLD = ("answered", "expired", "rejected", "failed")
"""Buckets whose every frame has a result."""

_SOMETIMES_TOLD = "unchanged"
"""Has a result now and then."""

_UNTOLD_REASONS = {"topic"}


class Heard(msgspec.Struct, frozen=True):
    """A stream's books at the devices. `sent` counts frames, not their repetitions; `fates` counts first results by
    `status` or `status: reason`; `late` are answers heard longer after their deadline than any network takes."""

    sent: int
    fates: Mapping[str, int]
    repeated: int = 0
    unmatched: int = 0
    late: int = 0


class Difference(msgspec.Struct, frozen=True):
    """Something that the books of a stream ("all": of the run) and the ledger say differently."""

    stream: str
    what: str
    expected: int
    came: int

    def __str__(self) -> str:
        return f"{self.stream}: {self.what}: expected {self.expected}, came {self.came}"


class Allowed(msgspec.Struct, frozen=True):
    """What the run's own faults may have cost: so many frames on their way to the gateway, results on their way back, time
    on either way, and so many results of which a killed gateway's books know nothing, so that it may say some again."""

    lost: float = 0
    unheard: bool = False
    delayed: bool = False
    uncounted: int = 0


NOTHING = Allowed()


def differences(
    stream: str, heard: Heard, ledger: Mapping[str, Any], allowed: Allowed = NOTHING
) -> list[Difference]:
    """Everything that does not agree; empty where the books close.

    Args:
        ledger: as in contracts 4, summed over the gateway's starts: one integer a bucket, `received`, `reasons`, and of
            killed starts `unknown`.
    """
    found = [*_own_sum(stream, ledger), *_results(stream, heard, ledger, allowed)]
    arrived = ledger["received"] - ledger["duplicate"] - ledger.get("carried", 0)
    if arrived > heard.sent:
        found.append(Difference(stream, "frames in the ledger that were sent", heard.sent, arrived))
    elif (gone := heard.sent - arrived) > allowed.lost:
        found.append(Difference(stream, "frames lost", int(allowed.lost), gone))
    for what, count in (
        ("frames with a second result", max(0, heard.repeated - allowed.uncounted)),
        ("results of no frame that was sent", heard.unmatched),
    ):
        if count:
            found.append(Difference(stream, what, 0, count))
    if heard.late > ledger.get("late", 0) and not allowed.delayed:
        what = "answers after their deadline that the ledger counts as late"
        found.append(Difference(stream, what, ledger.get("late", 0), heard.late))
    return found


def lost(heard: Heard, ledger: Mapping[str, Any]) -> int:
    """How many frames were sent and never received."""
    arrived = ledger["received"] - ledger["duplicate"] - ledger.get("carried", 0)
    return max(0, heard.sent - int(arrived))


def _own_sum(stream: str, ledger: Mapping[str, Any]) -> list[Difference]:
    total = sum(ledger[bucket] for bucket in BUCKETS) + ledger["in_flight"]
    total += ledger.get("carried_out", 0) + ledger.get("unknown", 0)
    found = []
    if total != ledger["received"]:
        found.append(Difference(stream, "sum of the ledger's fates", ledger["received"], total))
    if ledger["in_flight"]:
        found.append(Difference(stream, "frames without a fate at the end", 0, ledger["in_flight"]))
    return found


def _results(stream: str, heard: Heard, ledger: Mapping[str, Any], allowed: Allowed) -> list[Difference]:
    """Each kind of result that was heard against the fates in the ledger."""
    told, counted = _by_fate(heard.fates), _told(ledger)
    found: list[Difference] = []
    uncounted = allowed.uncounted
    for fate in sorted(told.keys() | counted.keys()):
        came, expected = told.get(fate, 0), counted.get(fate, 0)
        forgiven = min(uncounted, max(0, came - expected))
        uncounted -= forgiven
        few = came < expected and not allowed.unheard and fate[0] != _SOMETIMES_TOLD
        if few or came > expected + forgiven:
            found.append(Difference(stream, f"results {': '.join(filter(None, fate))}", expected, came))
    return found


def _told(ledger: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """How many results of each fate there must be; of what is told sometimes, may be."""
    return {
        (bucket, reason): count
        for bucket, reasons in _reasons(ledger).items()
        for reason, count in reasons.items()
        if bucket in (*_TOLD, _SOMETIMES_TOLD) and reason not in _UNTOLD_REASONS
    }


def _by_fate(fates: Mapping[str, int]) -> dict[tuple[str, str], int]:
    told: dict[tuple[str, str], int] = {}
    for text, count in fates.items():
        status, _, reason = text.partition(": ")
        fate = (_STATUSES.get(status, status), reason)
        told[fate] = told.get(fate, 0) + count
    return told


def _reasons(ledger: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The counts by bucket and reason; what has no reason stands under ""."""
    reasons: dict[str, dict[str, int]] = {}
    for bucket in BUCKETS:
        named = dict(ledger.get("reasons", {}).get(bucket, {}))
        reasons[bucket] = named | {"": ledger[bucket] - sum(named.values())}
    return reasons
