"""A journal that is full, or whose disk is, and what its log may take."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.journal_file import JournalFile, Transaction
from penstock_gateway.journal_space import Usage
from penstock_gateway.journal_sqlite import DiskFull
from penstock_gateway.ledger import OK, Counts
from tests.gateway.journals import MB, entry, journal, listed


async def test_a_turn_that_outgrows_the_log_leaves_no_larger_files(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db", 8 * MB, max_entry=1000) as (opened, owner):
        row = opened.opened.first_row
        for n in range(4000):
            opened.append(entry(row + n, bytes(640)), n)
        await owner.until(lambda: len(owner.durable) == 4000)
        sizes = {found.name: found.stat().st_size for found in listed(tmp_path)}
        assert sizes["journal.db-wal"] <= opened.space.log
        assert sum(sizes.values()) <= 8 * MB


class FullDisk:
    """A disk without room while `full`: rows are not taken, and the log cannot be moved. `applied` is what was."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.log_full = False
        self.applied: list[Transaction] = []
        apply, checkpoint = JournalFile.apply, JournalFile.checkpoint

        def apply_if_room(file: JournalFile, work: Transaction, now_ms: int) -> Usage:
            if self.full:
                raise DiskFull("no room for a row")
            self.applied.append(work)
            return apply(file, work, now_ms)

        def checkpoint_if_room(file: JournalFile, *mode: Any) -> None:
            if self.full or self.log_full:
                raise DiskFull("no room for the log")
            checkpoint(file, *mode)

        patch.setattr(JournalFile, "apply", apply_if_room)
        patch.setattr(JournalFile, "checkpoint", checkpoint_if_room)


async def test_a_log_that_cannot_be_moved_on_a_full_disk_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    async with journal(tmp_path / "journal.db") as (opened, owner):
        disk.full = True
        opened.append(entry(opened.opened.first_row), "a")
        await owner.until(lambda: bool(owner.said))
        assert owner.said == ["stuck: no room for a row"]
        assert not (tmp_path / "journal.db.ballast").exists()
        disk.full = False
        await owner.until(lambda: "unstuck" in owner.said)
        assert owner.durable == ["a"] and opened.broken is None


async def test_a_commit_whose_log_cannot_be_cut_is_not_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    async with journal(tmp_path / "journal.db", 16 * MB, max_entry=100_000) as (opened, owner):
        disk.log_full = True
        for n in range(100):
            opened.append(entry(opened.opened.first_row + n, bytes(90_000)), n)
        await owner.until(lambda: len(owner.durable) == 100 or opened.broken is not None)
        assert (opened.broken, owner.said) == (None, [])
        assert sum(len(work.entries) for work in disk.applied) == 100
        disk.log_full = False


async def test_while_the_disk_is_full_only_the_newest_totals_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk(monkeypatch)
    counts = Counts()
    async with journal(tmp_path / "journal.db") as (opened, owner):
        disk.full = True
        opened.checkpoint(counts)
        await owner.until(lambda: opened.stuck)
        for n in range(500):
            counts.received = n + 1
            opened.checkpoint(counts)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        disk.full = False
        await owner.until(lambda: len(owner.commits) == 2)
        assert [w.totals.received for w in disk.applied if w.totals is not None] == [0, 500]


async def test_many_fates_at_once_are_written_in_pieces_that_the_log_holds(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal(path, 8 * MB, max_entry=4000) as (opened, owner):
        row, n = opened.opened.first_row, 2 * opened.space.fates + 1
        for at in range(n):
            opened.append(entry(row + at, bytes(2100)), at)  # a page for each
            await asyncio.sleep(0)
        await owner.until(lambda: len(owner.durable) == n)
        for at in range(n):
            opened.settle(row + at, OK)
        await owner.until(lambda: opened.bytes_used < 100_000)
        assert next(f for f in listed(tmp_path) if f.name.endswith("-wal")).stat().st_size <= opened.space.log
    async with journal(path) as (opened, _):
        assert opened.opened.starts[-1].ledger.fates == {"answered:": n}


async def test_a_turn_that_no_empty_journal_could_hold_is_named_instead_of_waited_for(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db", MB) as (opened, owner):
        for n in range(2000):
            opened.append(entry(opened.opened.first_row + n, bytes(640)), n)
        await owner.until(lambda: bool(owner.said))
        assert owner.said[0].startswith("broken: ") and "raise [journal] max_bytes" in owner.said[0]
        assert owner.durable == []


async def test_full_says_stop_with_room_left_for_what_is_on_its_way(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db", 2 * MB) as (opened, owner):
        row = opened.opened.first_row
        for _ in range(2):
            first = row
            while not opened.full:
                for _ in range(20):
                    opened.append(entry(row, bytes(640)), row)
                    row += 1
                await owner.until(lambda row=row: owner.durable[-1:] == [row - 1])  # type: ignore[misc]
            used = opened.bytes_used
            for _ in range(50):  # the burst that was already read
                opened.append(entry(row, bytes(640)), row)
                row += 1
            await owner.until(lambda row=row: owner.durable[-1:] == [row - 1])  # type: ignore[misc]
            assert opened.full and owner.said == []
            assert used * 0.85 < opened.bytes_used
            for n in range(first, row):
                opened.settle(n, OK)
            await owner.until(lambda: opened.bytes_used < 200_000)
            assert not opened.full
        assert sum(found.stat().st_size for found in listed(tmp_path)) <= 2 * MB
