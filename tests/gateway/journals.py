"""Journals for the tests of the journal: one that is opened and closed, entries, and copies of its files."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from penstock_gateway.journal import Entry, Journal
from penstock_gateway.ledger import Fate
from penstock_gateway.mqtt import Message
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
