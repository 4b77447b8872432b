"""The books of a start of the gateway, and how they are closed after its end (contracts 4). Pure arithmetic.

A start's frames fall into two kinds. Those that passed the journal (a row, or a fate counted at a durable point) are
counted in the very transaction that writes or deletes the row, so for them

    durable received = durable settled + rows in the journal                                       (the invariant)

holds after every commit, and therefore after every kill: a transaction adds n rows and n to `received`, or deletes n
rows and adds n to the settled. Rows that a start found at its opening are `received` by it as `carried`. A frame that
was not yet durable at a kill is in no book: the broker delivers it again.

All others (`latest` routes, refusals without a durable point) come as totals at checkpoints. A killed start is exact
for them up to its last checkpoint; what was received by then and had no fate yet is `unknown`.

So for every ended start `received = settled + carried_out + unknown`, where `carried_out` are the rows left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from penstock_gateway.ledger import Counts, Fate

KEPT = 16
"""Starts that are remembered."""

How = Literal["running", "clean", "killed"]


class Totals(msgspec.Struct, frozen=True):
    """A `Counts` as it is stored; fates are keyed "bucket:reason"."""

    received: int = 0
    fates: dict[str, int] = {}
    missing_upstream: int = 0
    late: int = 0
    carried: int = 0

    @property
    def settled(self) -> int:
        return sum(self.fates.values())

    @classmethod
    def of(cls, counts: Counts) -> Totals:
        fates = {_key(fate): n for fate, n in counts.fates.items()}
        return cls(counts.received, fates, counts.missing_upstream, counts.late, counts.carried)

    def counts(self) -> Counts:
        """As the ledger's own type."""
        counts = Counts()
        counts.received = self.received
        counts.fates = {_fate(key): n for key, n in self.fates.items()}
        counts.missing_upstream = self.missing_upstream
        counts.late = self.late
        counts.carried = self.carried
        return counts

    def plus(self, other: Totals) -> Totals:
        return Totals(
            self.received + other.received,
            _sum(self.fates, other.fates),
            self.missing_upstream + other.missing_upstream,
            self.late + other.late,
            self.carried + other.carried,
        )


class Books(msgspec.Struct, frozen=True):
    """The durable books of one start: `journalled` moves with the rows, `other` is the last checkpoint."""

    journalled: Totals = Totals()
    other: Totals = Totals()

    @classmethod
    def opened(cls, carried: int) -> Books:
        """The books of a start that found `carried` rows."""
        return cls(Totals(received=carried, carried=carried))

    def after(
        self,
        appended: int,
        settled: Mapping[Fate, int],
        counted: Mapping[Fate, int],
        missing: int,
        other: Totals | None,
    ) -> Books:
        """The books after a transaction.

        Args:
            appended: rows added.
            settled: rows deleted, by fate.
            counted: frames that were received and settled without a row, by fate.
            missing: change of `missing_upstream`.
            other: totals of everything that is not journalled, replacing the last ones; None leaves them.
        """
        fates = _sum(self.journalled.fates, _keyed(settled))
        change = Totals(appended + sum(counted.values()), _keyed(counted), missing)
        journalled = msgspec.structs.replace(self.journalled, fates=fates).plus(change)
        return Books(journalled, self.other if other is None else other)


class StartRecord(msgspec.Struct, frozen=True):
    """One start. `ended` is None and `how` "running" while it runs; `ledger` has no frames in flight once it ended.

    `ended` of a killed start is the last moment at which the journal shows it alive.
    """

    start: str
    began: int
    ended: int | None
    how: How
    ledger: Totals
    carried_out: int = 0
    unknown: int = 0


def close_start(start: str, began: int, ended: int, how: How, books: Books, rows: int) -> StartRecord:
    """Close a start's books over the `rows` that it left in the journal.

    `received` is what the fates, the rows and the unknown say, so the sum closes whatever a damaged file holds;
    `off_by` tells whether it should have said something else.
    """
    unknown = max(0, books.other.received - books.other.settled)
    ledger = books.journalled.plus(books.other)
    received = ledger.settled + rows + unknown
    ledger = msgspec.structs.replace(ledger, received=received)
    return StartRecord(start, began, ended, how, ledger, rows, unknown)


def off_by(books: Books, rows: int) -> int:
    """By how many rows the invariant is broken; 0 unless the file was changed by somebody else."""
    return books.journalled.settled + rows - books.journalled.received


def _key(fate: Fate) -> str:
    return f"{fate[0]}:{fate[1]}"


def _fate(key: str) -> Fate:
    bucket, _, reason = key.partition(":")
    return bucket, reason


def _keyed(fates: Mapping[Fate, int]) -> dict[str, int]:
    return {_key(fate): n for fate, n in fates.items()}


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}
