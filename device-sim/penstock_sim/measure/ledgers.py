"""Ledgers over a run: what was there before is taken off, what several starts of the gateway counted is added. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from penstock_gateway.ledger import BUCKETS

Ledger = Mapping[str, Any]

_COUNTS = (*BUCKETS, "received", "missing_upstream", "late", "carried", "carried_out", "unknown")


def added(ledgers: Iterable[Ledger]) -> dict[str, Any]:
    """The sum; `in_flight` is the last one's, since what was in flight at an end is `carried_out` or `unknown`."""
    total: dict[str, Any] = dict.fromkeys((*_COUNTS, "in_flight"), 0) | {"reasons": {}}
    for ledger in ledgers:
        _add(total, ledger, 1)
        total["in_flight"] = ledger.get("in_flight", 0)
    return total


def since(after: Ledger, before: Ledger) -> dict[str, Any]:
    """What happened between two readings of one ledger."""
    total = added([after])
    _add(total, before, -1)
    return total


def streams(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Each stream's ledger over a run, from two status pages; None where the gateway started anew in between, which
    forgets its streams."""
    if before is None or before["start"] != after["start"]:
        return None
    return {name: since(ledger, before["streams"].get(name, {})) for name, ledger in after["streams"].items()}


def whole(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, Any] | None:
    """The total over a run, from two status pages and the closed books of the starts between them; None where the gateway
    does not remember the start any more in which the run began: it keeps the last 16."""
    if before is None or before["start"] == after["start"]:
        return since(after["ledger"], before["ledger"] if before is not None else {})
    starts = after["starts"]
    first = next((n for n, start in enumerate(starts) if start["start"] == before["start"]), None)
    if first is None:
        return None
    ended = [
        {**start["ledger"], "in_flight": 0, "carried_out": start["carried_out"], "unknown": start["unknown"]}
        for start in starts[first:]
    ]
    total = added([*ended, after["ledger"]])
    _add(total, before["ledger"], -1)
    return total


def _add(total: dict[str, Any], ledger: Ledger, sign: int) -> None:
    for name in _COUNTS:
        total[name] += sign * ledger.get(name, 0)
    for bucket, reasons in ledger.get("reasons", {}).items():
        counts = total["reasons"].setdefault(bucket, {})
        for reason, count in reasons.items():
            counts[reason] = counts.get(reason, 0) + sign * count
