"""The journal: durable in order, exact books over kills, damaged and newer files, a full cap."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_gateway.identity import Progress, StreamIdentity
from penstock_gateway.journal import Entry, Journal
from penstock_gateway.journal_file import JournalFile, Opened, Transaction
from penstock_gateway.journal_space import Usage
from penstock_gateway.journal_sqlite import DiskFull
from penstock_gateway.ledger import DUPLICATE, OK, Counts, Fate
from penstock_gateway.mqtt import Message
from penstock_gateway.starts import Totals
from penstock_models.errors import UsageError
from tests.fakes.journal_owner import JournalOwner

MB = 1 << 20
FAILED: Fate = ("failed", "model_error")


@asynccontextmanager
async def journal(
    path: Path, max_bytes: int = 16 * MB, **options: Any
) -> AsyncIterator[tuple[Journal, JournalOwner]]:
    owner = JournalOwner()
    opened = await Journal.open(path, max_bytes, owner, **options)
    try:
        yield opened, owner
    finally:
        await opened.close(20)


def entry(row: int, payload: bytes = b"p", **more: Any) -> Entry:
    return Entry(row, "dev/vib", Message("a/topic", payload, qos=1), 1_790_000_000_000, **more)


async def carried(opened: Journal) -> list[Entry]:
    return [found async for found in opened.carried()]


def listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def kill(path: Path) -> Path:
    """The file as a kill -9 now would leave it: a copy, since an open file is locked."""
    copy = path.with_name(f"killed-{time.monotonic_ns()}") / path.name
    copy.parent.mkdir()
    for end in ("", "-wal"):
        if (part := path.with_name(path.name + end)).exists():
            (copy.parent / part.name).write_bytes(part.read_bytes())
    return copy


async def test_tokens_come_back_in_order_after_the_commit_that_holds_them(tmp_path: Path) -> None:
    async with journal(tmp_path / "state" / "journal.db") as (opened, owner):
        row = opened.opened.first_row
        opened.append(entry(row), "a")
        opened.barrier("b", DUPLICATE)
        opened.append(entry(row + 1), "c")
        assert owner.durable == []
        await owner.until(lambda: len(owner.durable) == 3)
        assert owner.durable == ["a", "b", "c"]
        assert len(owner.commits) == 1


async def test_what_piles_up_during_a_commit_goes_into_the_next(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db") as (opened, owner):
        row = opened.opened.first_row
        for n in range(200):
            opened.append(entry(row + n), n)
            await asyncio.sleep(0)
        await owner.until(lambda: len(owner.durable) == 200)
        assert owner.durable == list(range(200))
        assert len(owner.commits) < 100


async def test_a_message_comes_back_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    full = Message(
        "a/ü", b"\0payload", qos=0, content_type="application/cbor", response_topic="r/t", correlation=b"\1\2",
        user=(("seq", "7"), ("seq", "8")),
    )  # fmt: skip
    async with journal(path) as (opened, owner):
        row = opened.opened.first_row
        opened.append(Entry(row, "dev/cam", full, 17, "boot", 2**53 - 1), 0)
        opened.append(entry(row + 1, b""), 1)
        await owner.until(lambda: len(owner.durable) == 2)
    async with journal(path) as (opened, owner):
        first, second = await carried(opened)
        assert (first.row, first.stream, first.arrived_ms, first.boot, first.seq) == (
            row,
            "dev/cam",
            17,
            "boot",
            2**53 - 1,
        )
        assert [getattr(first.message, f) for f in Message.__struct_fields__] == [
            getattr(full, f) for f in Message.__struct_fields__
        ]
        assert (second.row, second.message.qos, second.message.payload) == (row + 1, 1, b"")
        assert opened.opened.carried == 2


async def test_many_and_large_carried_rows_are_read_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal(path, 64 * MB) as (opened, owner):
        row = opened.opened.first_row
        for n in range(600):
            opened.append(entry(row + n, bytes(30_000)), n)
        await owner.until(lambda: len(owner.durable) == 600)
    async with journal(path, 64 * MB) as (opened, owner):
        rows = []
        async for found in opened.carried():
            rows.append(found.row)
            opened.settle(found.row, OK)  # settling while reading is what the gateway does
        assert rows == list(range(row, row + 600))
        assert max(rows) < opened.opened.first_row
    async with journal(path, 64 * MB) as (opened, owner):
        assert await carried(opened) == []
        assert opened.opened.starts[-1].ledger.fates == {"answered:": 600}


async def test_the_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.db"
    async with journal(path) as (opened, owner):
        opened.append(entry(opened.opened.first_row), 0)
        await owner.until(lambda: bool(owner.durable))
        files = sorted(found.name for found in path.parent.iterdir())
        assert files == ["journal.db", "journal.db-wal", "journal.db.ballast"]
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert {found.stat().st_mode & 0o777 for found in path.parent.iterdir()} == {0o600}


async def test_a_stream_s_state_is_durable_with_its_rows_and_confirmed_only_then(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    stream = StreamIdentity("dev/vib", 30.0)
    async with journal(path) as (opened, owner):
        row = opened.opened.first_row
        for seq in (0, 1, 4):
            stream.offer("boot", seq, 0.0)
            opened.append(entry(row + seq), seq)
            opened.touch(stream)
        opened.remember(b"d" * 16)
        assert stream.durable == Progress()
        await owner.until(lambda: len(owner.durable) == 3)
        assert owner.commits[0][1] == [stream]
        assert stream.durable == Progress("boot", 4, ((2, 3),))
        copy = kill(path)
    async with journal(copy) as (opened, _):
        blob = opened.opened.streams["dev/vib"]
        assert StreamIdentity.restore("dev/vib", blob, 30.0, 0.0).durable == stream.durable
        assert opened.opened.digests == (b"d" * 16,)


async def test_streams_and_digests_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal(path, digest_limit=4) as (opened, owner):
        for n in range(6):
            opened.touch(StreamIdentity(f"dev/{n}", 30.0))
            opened.remember(bytes([n]) * 16)
            opened.remember(bytes([n]) * 16)
            opened.barrier(n)
            await owner.until(lambda n=n: n in owner.durable)  # type: ignore[misc]
            await asyncio.sleep(0.002)  # `seen` has the resolution of a millisecond
    async with journal(path, max_streams=2) as (opened, _):
        assert sorted(opened.opened.streams) == ["dev/4", "dev/5"]
        assert opened.opened.digests == tuple(bytes([n]) * 16 for n in (4, 4, 5, 5))


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


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"not a database at all, but longer than a header" * 9,
        lambda data: data[: len(data) // 2],
        lambda data: data[:4096] + os.urandom(len(data) - 4096),
    ],
)
async def test_a_corrupt_file_is_moved_aside_and_reported(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "journal.db"
    async with journal(path) as (opened, owner):
        for n in range(200):
            opened.append(entry(opened.opened.first_row + n, bytes(640)), n)
        await owner.until(lambda: len(owner.durable) == 200)
    data = damage(path.read_bytes())
    path.write_bytes(data)
    async with journal(path) as (opened, owner):
        (report,) = opened.opened.reports
        assert report.startswith("journal_corrupt: ") and str(path) in report
        (aside,) = [found for found in listed(tmp_path) if "corrupt" in found.name]
        assert aside.read_bytes() == data
        opened.append(entry(opened.opened.first_row), "new")
        await owner.until(lambda: owner.durable == ["new"])


async def test_a_newer_format_and_a_second_gateway_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with journal(path):
        with pytest.raises(UsageError, match=r"journal\.db: in use by another process"):
            await Journal.open(path, MB, JournalOwner())
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(UsageError, match="format v 2, expected at most v 1"):
        await Journal.open(path, MB, JournalOwner())


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


async def test_an_entry_beyond_the_largest_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db", max_entry=1000) as (opened, owner):
        with pytest.raises(UsageError, match="stream dev/vib: 20"):
            opened.append(entry(opened.opened.first_row, bytes(2000)), 0)
        opened.barrier("after")
        await owner.until(lambda: owner.durable == ["after"])


async def test_a_row_id_given_twice_breaks_the_journal_instead_of_losing_a_row(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db") as (opened, owner):
        row = opened.opened.first_row
        opened.append(entry(row), 0)
        await owner.until(lambda: owner.durable == [0])
        opened.append(entry(row), 1)
        await owner.until(lambda: bool(owner.said))
        assert "a row id was given twice" in owner.said[0]
        assert opened.broken and opened.full
        assert owner.durable == [0]
        assert await opened.close(5) is False


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


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(UsageError, match=r"journal\.db: Is a directory: `state`"):
        JournalFile.open(tmp_path / "journal.db", MB, MB, 10, 10, 0)


async def test_an_error_of_the_disk_is_fatal_and_nothing_lost_was_called_durable(tmp_path: Path) -> None:
    """A limit on the size of files makes write() fail as a dying disk does: with an error that is not `full`."""
    path = tmp_path / "journal.db"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with journal(path) as (opened, owner):
        row = opened.opened.first_row
        opened.append(entry(row), 0)
        await owner.until(lambda: owner.durable == [0])
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        try:
            for n in range(1, 2000):
                opened.append(entry(row + n, bytes(640)), n)
                if n % 50 == 0:
                    await asyncio.sleep(0.001)
            await owner.until(lambda: bool(owner.said))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert owner.said[0].startswith("broken: ") and "SQLITE_IOERR_WRITE" in owner.said[0]
        assert await carried(opened) == []
        assert await opened.close(5) is False
        assert owner.durable == list(range(len(owner.durable)))
    async with journal(path) as (opened, _):
        assert [found.row - row for found in await carried(opened)] == owner.durable
        assert opened.opened.starts[-1].how == "killed"
