"""The journal's books of its starts: exact over kills, clocks that go back and rows that are gone."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal_file import JournalFile, Opened, Transaction
from penstock_gateway.ledger import DUPLICATE, OK, Counts
from penstock_gateway.starts import Totals
from tests.gateway.journals import FAILED, MB, entry, journal, kill


async def test_missing_and_checkpoints_are_in_the_books_of_a_killed_start(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    stream, totals = StreamIdentity("dev/vib", 30.0), Counts()
    async with journal(path) as (opened, owner):
        stream.offer("boot", 0, 0.0)
        stream.offer("boot", 5, 0.0)
        stream.expire(31.0)
        opened.touch(stream)
        totals.received, totals.fates, totals.late = 10, {("superseded", "newer_frame"): 8}, 2
        opened.checkpoint(totals)
        totals.received = 99  # counted after the checkpoint
        opened.barrier(0, DUPLICATE)
        await owner.until(lambda: bool(owner.durable))
        copy = kill(path)
        assert opened.opened.start.how == "running"
    async with journal(copy) as (opened, _):
        last = opened.opened.starts[-1]
        assert (last.how, last.unknown, last.carried_out) == ("killed", 2, 0)
        assert last.ledger.received == 11
        assert last.ledger.fates == {"duplicate:duplicate": 1, "superseded:newer_frame": 8}
        assert (last.ledger.missing_upstream, last.ledger.late) == (4, 2)
        assert last.ended is not None and last.began <= last.ended


async def test_a_row_settled_twice_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal(path) as (opened, owner):
        row = opened.opened.first_row
        opened.append(entry(row), 0)
        await owner.until(lambda: bool(owner.durable))
        opened.settle(row, OK)
        opened.settle(row, FAILED)
    async with journal(path) as (opened, _):
        assert opened.opened.starts[-1].ledger.settled == 1
        assert opened.opened.reports == ()


async def test_starts_are_kept_to_sixteen_with_growing_rows_and_ids(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    ids, rows = [], []
    for _ in range(19):
        async with journal(path) as (opened, _):
            ids.append(opened.opened.start.start)
            rows.append(opened.opened.first_row)
    async with journal(path) as (opened, _):
        assert [s.start for s in opened.opened.starts] == ids[-16:]
        assert {s.how for s in opened.opened.starts} == {"clean"}
        assert len(set(ids)) == 19 and rows == sorted(set(rows))


def test_a_clock_that_goes_back_gives_no_row_twice(tmp_path: Path) -> None:
    path, firsts = tmp_path / "journal.db", []
    for now_ms in (2_000_000, 1_000_000, 1_000_000):
        file, opened = JournalFile.open(path, 16 * MB, MB, 10, 10, now_ms)
        file.apply(Transaction([entry(opened.first_row + (5 << 20))]), now_ms)
        firsts.append(opened.first_row)
        file.close()
    assert firsts[0] + (5 << 20) < firsts[1] and firsts[1] + (5 << 20) < firsts[2]


async def test_rows_that_somebody_removed_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal(path) as (opened, owner):
        opened.append(entry(opened.opened.first_row), 0)
        await owner.until(lambda: bool(owner.durable))
        copy = kill(path)
    with sqlite3.connect(copy) as db:
        db.execute("DELETE FROM rows")
    db.close()
    async with journal(copy) as (opened, _):
        (report,) = opened.opened.reports
        assert report.startswith("journal_books: ") and "-1 rows" in report
        assert opened.opened.starts[-1].ledger.received == 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_books_close_over_any_sequence_of_commits_and_kills(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random appends, fates, barriers and checkpoints; a kill is a file that is opened again without an end."""
    dice = random.Random(seed)
    path = tmp_path_factory.mktemp("books") / "journal.db"
    live: set[int] = set()
    for _ in range(dice.randint(1, 5)):
        now_ms = 1_790_000_000_000
        file, opened = JournalFile.open(path, 4 * MB, MB, 10, 10, now_ms)
        _check_last_start(opened, live, seed)
        counted = _live_through(file, opened, live, dice, now_ms)
        if dice.random() < 0.3:
            file.end(now_ms)
        file.close()
    file, opened = JournalFile.open(path, 4 * MB, MB, 10, 10, now_ms)
    _check_last_start(opened, live, seed)
    ledger = opened.starts[-1].ledger
    assert ledger.settled + opened.starts[-1].unknown == counted, seed
    file.close()


def _check_last_start(opened: Opened, live: set[int], seed: int) -> None:
    assert opened.carried == len(live) == opened.start.ledger.carried, seed
    assert opened.reports == (), seed
    for ended in opened.starts:
        assert ended.ledger.received == ended.ledger.settled + ended.carried_out + ended.unknown, seed
    if opened.starts:
        assert opened.starts[-1].carried_out == len(live), seed


def _live_through(file: JournalFile, opened: Opened, live: set[int], dice: random.Random, now_ms: int) -> int:
    """One start; returns how many frames have left it: settled, counted, or known to a checkpoint."""
    row, left, other = opened.first_row, 0, 0
    for _ in range(dice.randint(0, 8)):
        entries = [entry(row + n) for n in range(dice.randint(0, 5))]
        gone = [n for n in live if dice.random() < 0.5]
        counted, totals = dice.randint(0, 2), Counts()
        totals.received = other = other + dice.randint(0, 3)
        totals.fates = {OK: dice.randint(0, other)}
        half = len(gone) // 2
        work = Transaction(
            entries, {OK: gone[:half], FAILED: gone[half:]}, {DUPLICATE: counted}, totals=Totals.of(totals)
        )
        file.apply(work, now_ms)
        row += len(entries)
        live |= {made.row for made in entries}
        live -= set(gone)
        left += len(gone) + counted
    return left + other
