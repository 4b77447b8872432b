"""What the journal calls durable: in order, as it was given, private and bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock_gateway.identity import Progress, StreamIdentity
from penstock_gateway.journal import Entry
from penstock_gateway.ledger import DUPLICATE, OK
from penstock_gateway.mqtt import Message
from penstock_models.errors import UsageError
from tests.gateway.journals import MB, carried, entry, journal, kill


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


async def test_an_entry_beyond_the_largest_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    async with journal(tmp_path / "journal.db", max_entry=1000) as (opened, owner):
        with pytest.raises(UsageError, match="stream dev/vib: 20"):
            opened.append(entry(opened.opened.first_row, bytes(2000)), 0)
        opened.barrier("after")
        await owner.until(lambda: owner.durable == ["after"])
