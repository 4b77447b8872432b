"""A journal on a file that is damaged, newer, in use or none, on a dying disk, and with a row given twice."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock_gateway.journal import Journal
from penstock_gateway.journal_file import JournalFile
from penstock_models.errors import UsageError
from tests.fakes.journal_owner import JournalOwner
from tests.gateway.journals import MB, carried, entry, journal, listed


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
