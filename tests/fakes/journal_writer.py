"""A process that writes a journal as fast as it can and says on standard output what is durable.

    python -m tests.fakes.journal_writer FOLDER MAX_BYTES

Appends rows in bursts, settles every second row once it is durable, and prints one line a commit: the last row,
and the last number that a receipt would cover. Ends when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal import Entry, Journal
from penstock_gateway.ledger import OK
from penstock_gateway.mqtt import Message

STREAM = "dev/vib"
BURST = 20


class _Writer:
    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.stream = StreamIdentity(STREAM, gap_s=30.0)
        self.journal: Journal

    def on_durable(self, tokens: Sequence[Any], streams: Sequence[StreamIdentity]) -> None:
        told = self.stream.durable
        if tokens and told.boot:
            print(tokens[-1], told.through, flush=True)
        for row in tokens:
            if row % 2 == 0:
                self.journal.settle(row, OK)
        self.room.set()

    def on_stuck(self, reason: str) -> None:
        print("stuck", reason, flush=True)

    def on_unstuck(self) -> None:
        print("unstuck", flush=True)

    def on_broken(self, reason: str) -> None:
        print("broken", reason, flush=True)

    async def run(self, folder: Path, max_bytes: int) -> None:
        self.journal = await Journal.open(folder / "journal.db", max_bytes, self)
        numbers = itertools.count()
        for first in itertools.count(self.journal.opened.first_row, BURST):
            for row in range(first, first + BURST):
                self._append(row, next(numbers))
            self.room.clear()
            await self.room.wait()

    def _append(self, row: int, seq: int) -> None:
        self.stream.offer("boot", seq, time.monotonic())
        message = Message("a/topic", row.to_bytes(8, "little") * 80, qos=1)
        self.journal.append(Entry(row, STREAM, message, time.time_ns() // 1_000_000, "boot", seq), row)
        self.journal.touch(self.stream)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    writing = asyncio.create_task(_Writer().run(Path(sys.argv[1]), int(sys.argv[2])))
    await asyncio.wait((writing, loop.run_in_executor(None, sys.stdin.read)), return_when="FIRST_COMPLETED")
    writing.cancel()


if __name__ == "__main__":
    asyncio.run(_main())
