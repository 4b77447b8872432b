"""A full disk: nothing that was called durable is lost, fates can still be written, and it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal import Entry, Journal
from penstock_gateway.ledger import OK
from penstock_gateway.mqtt import Message
from tests.fakes.journal_owner import JournalOwner
from tests.fakes.journal_writer import STREAM

MB = 1 << 20
ASKED = 1 << 30


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    with small_disk(tmp_path / "disk") as path:
        yield path


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], timeout=30, check=True)


def fill(path: Path, name: str = "filler") -> Path:
    """Take what the disk has left."""
    filler = path / name
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 << 10))  # a short write takes the last page, the next one fails
    return filler


def entry(row: int) -> Entry:
    return Entry(row, "dev/vib", Message("a/topic", bytes(640), qos=1), 1_790_000_000_000)


async def append_until(journal: Journal, row: int, enough: Callable[[], bool]) -> int:
    """Append in bursts of 20, each given a turn of the loop; returns the row after the last one."""
    while not enough():
        for _ in range(20):
            journal.append(entry(row), row)
            row += 1
        await asyncio.sleep(0.001)
    return row


async def test_the_journal_runs_full_and_drains_twice_without_ever_being_stuck(disk: Path) -> None:
    owner = JournalOwner()
    journal = await Journal.open(disk / "state" / "journal.db", ASKED, owner)
    (report,) = journal.opened.reports
    assert report.startswith("journal_space: ") and str(ASKED) in report
    row, held = journal.opened.first_row, []
    for _ in range(2):
        first, row = row, await append_until(journal, row, lambda: journal.full)
        await owner.until(lambda row=row: owner.durable[-1] == row - 1)  # type: ignore[misc]
        held.append(row - first)
        for n in range(first, row):
            journal.settle(n, OK)
        await owner.until(lambda: journal.bytes_used < 200_000)
    assert owner.said == []
    assert min(held) > 4000, "most of the disk should hold rows"
    assert await journal.close(10)


async def test_a_disk_that_others_fill_stops_the_journal_which_goes_on_by_itself(disk: Path) -> None:
    path, owner = disk / "journal.db", JournalOwner()
    journal = await Journal.open(path, ASKED, owner)
    row = first = journal.opened.first_row
    row = await append_until(journal, row, lambda: len(owner.durable) >= 500)
    filler = fill(disk)
    row = await append_until(journal, row, lambda: journal.stuck)
    assert [word[:5] for word in owner.said] == ["stuck"] and journal.full
    waiting = row - 1 - owner.durable[-1]
    assert waiting > 0
    filler.unlink()
    await owner.until(lambda: "unstuck" in owner.said)
    assert owner.durable == list(range(first, row))
    assert (disk / "journal.db.ballast").stat().st_size == journal.space.ballast
    assert await journal.close(10)


async def test_fates_make_room_on_a_disk_that_stays_full(disk: Path) -> None:
    owner = JournalOwner()
    journal = await Journal.open(disk / "journal.db", ASKED, owner)
    row = first = journal.opened.first_row
    row = await append_until(journal, row, lambda: len(owner.durable) >= 2000)
    fill(disk)
    row = await append_until(journal, row, lambda: journal.stuck)
    fill(disk, "more")  # the ballast's room is taken too
    for n in range(first, owner.durable[-1] + 1):
        journal.settle(n, OK)
    await owner.until(lambda: "unstuck" in owner.said)
    await owner.until(lambda: len(owner.durable) == row - first)
    assert owner.durable == list(range(first, row))
    assert await journal.close(10)


def write_until_stuck(disk: Path, max_bytes: int) -> str:
    """Fill the disk under a writing process and kill that; returns the last line that it had said before it stuck."""
    command = [sys.executable, "-m", "tests.fakes.journal_writer", str(disk / "state"), str(max_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            fill(disk)
            while (line := process.stdout.readline()) and not line.startswith("stuck"):
                said = line
            assert line.startswith("stuck"), "the writer ended"
        finally:
            process.kill()
    return said


def test_a_gateway_killed_on_a_full_disk_starts_there_with_all_that_was_durable(disk: Path) -> None:
    row, through = map(int, write_until_stuck(disk, 4 * MB).split())
    fill(disk, "more")  # others take the room that the ballast gave
    asyncio.run(check(disk, row, through))


async def check(disk: Path, row: int, through: int) -> None:
    journal = await Journal.open(disk / "state" / "journal.db", 4 * MB, JournalOwner())
    last = journal.opened.starts[-1]
    assert last.how == "killed"
    assert last.ledger.received == last.ledger.settled + last.carried_out
    told = StreamIdentity.restore(STREAM, journal.opened.streams[STREAM], 30.0, 0.0).durable
    assert told.through == last.ledger.received - 1 >= through
    rows = {found.row async for found in journal.carried()}
    assert all(n in rows for n in range(int(last.start, 16) << 20, row + 1) if n % 2)
    assert await journal.close(10)
