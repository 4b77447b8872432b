"""The journal: what makes an `every` frame durable before it is acknowledged (contracts 5).

Owns the side of the event loop: collects what a turn of the loop brings, hands it to the writer thread once a commit,
and tells when it is durable. What piled up during a commit goes into the next one, and after a pause the first message
goes at once; under load commits keep a pace of 3 ms. Leaves to others: the file (`journal_file`), the thread
(`journal_writer`), who a frame is (`identity`), what is counted (`ledger`).

Everything given in one turn of the loop becomes durable together, and a touched stream is sealed at the end of that
turn: so offer a frame to its identity and append it without an await between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal_file import JournalFile, Opened, Transaction, wall_ms
from penstock_gateway.journal_rows import Entry, row_bytes
from penstock_gateway.journal_space import Usage, footprint
from penstock_gateway.journal_writer import Read, Stop, Tell, Writer
from penstock_gateway.ledger import Counts, Fate
from penstock_gateway.starts import Totals
from penstock_models.errors import UsageError

__all__ = ["Entry", "Journal", "JournalEvents"]

_READ_BYTES = 4 << 20
_PACE_S = 0.003
"""Under load a commit begins so long after the one before: it costs 0.3 ms of CPU however few rows it has."""
_FRAME_BYTES = (8 << 20) + (64 << 10)


class JournalEvents(Protocol):
    """What the journal tells its owner; called on the event loop."""

    def on_durable(self, tokens: Sequence[Any], streams: Sequence[StreamIdentity]) -> None:
        """A commit: the tokens of its entries and barriers in the order in which they were given, and the streams
        whose durable progress may have changed. Both are empty where only rows were deleted; `full` may have
        changed in any case."""

    def on_stuck(self, reason: str) -> None:
        """The disk is full: nothing becomes durable until `on_unstuck`. Stop reading; go on settling."""

    def on_unstuck(self) -> None:
        """There is room again, and everything that waited is durable."""

    def on_broken(self, reason: str) -> None:
        """The file failed for good: nothing becomes durable any more, and only a restart helps."""


class _Batch:
    """What the next commit will hold."""

    __slots__ = ("counted", "digests", "entries", "nbytes", "settled", "streams", "tokens", "totals")

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.tokens: list[Any] = []
        self.settled: dict[Fate, list[int]] = {}
        self.counted: dict[Fate, int] = {}
        self.streams: dict[str, StreamIdentity] = {}
        self.digests: list[bytes] = []
        self.totals: Totals | None = None
        self.nbytes = 0

    def has_work(self) -> bool:
        return bool(self.tokens or self.settled or self.streams or self.digests or self.totals)

    def sealed(self, now_s: float) -> Transaction:
        return Transaction(
            self.entries,
            self.settled,
            self.counted,
            [stream.seal(now_s) for stream in self.streams.values()],
            self.digests,
            self.totals,
            self.nbytes,
        )


class Journal:
    """An open journal. Every call but `open`, `carried` and `close` returns at once and costs about a microsecond."""

    def __init__(self, file: JournalFile, opened: Opened, events: JournalEvents) -> None:
        """Use `open`."""
        self.opened = opened
        self.space = file.space
        self.stuck = False
        self.broken: str | None = None
        self._usage = file.usage
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._batch = _Batch()
        self._flying: list[tuple[_Batch, Transaction]] = []
        self._unwritten = 0
        self._scheduled = False
        self._paced: asyncio.TimerHandle | None = None
        self._next_cut = 0.0
        self._closing = False
        self._stopped: asyncio.Future[bool] = self._loop.create_future()
        tell = Tell(self._committed, self._freed, self._stuck, self._unstuck, self._broken, self._ended)
        self._writer = Writer(file, tell, self._post)
        self._writer.thread.start()

    @classmethod
    async def open(
        cls,
        path: Path,
        max_bytes: int,
        events: JournalEvents,
        *,
        max_entry: int = _FRAME_BYTES,
        max_streams: int = 2000,
        digest_limit: int = 1 << 16,
    ) -> Journal:
        """Open or create the file at `path`, close the books of the start before, begin a new start.

        Args:
            path: the file; its folder is made if need be.
            max_bytes: what file, log and ballast may take on disk together.
            events: who hears of commits and trouble.
            max_entry: bytes of the largest message that will be appended, with its properties.
            max_streams: identities that are kept; the least recently seen beyond are forgotten.
            digest_limit: digests of frames without a number that are kept.

        Raises:
            UsageError: the file is in use or of a newer format.
            DiskFull, DiskBroken: there is no room to begin, or reading or writing failed.
        """
        file, opened = await asyncio.to_thread(
            JournalFile.open, path, max_bytes, max_entry, max_streams, digest_limit, wall_ms()
        )
        return cls(file, opened, events)

    @property
    def bytes_used(self) -> int:
        """Bytes of rows and books on disk, and what is on its way there."""
        return self._usage.used + self._unwritten

    @property
    def full(self) -> bool:
        """Whether reading should stop. What is on its way may still be appended."""
        return self.bytes_used >= self.space.capacity or self.stuck or self.broken is not None

    def append(self, entry: Entry, token: Any) -> None:
        """Journal a message; `token` comes back once it is durable.

        Raises:
            UsageError: it is larger than the journal takes (`space.max_entry`).
        """
        batch = self._batch
        nbytes = row_bytes(entry)
        if nbytes > self.space.max_entry:
            raise UsageError(
                f"stream {entry.stream}: {nbytes} bytes, at most {self.space.max_entry} fit the journal"
            )
        nbytes = footprint(nbytes)
        batch.entries.append(entry)
        batch.tokens.append(token)
        batch.nbytes += nbytes
        self._unwritten += nbytes
        if not self._scheduled:
            self._schedule()

    def barrier(self, token: Any, fate: Fate | None = None) -> None:
        """Get `token` back once everything given so far is durable, in order with the entries.

        With `fate`, a frame that needs no row (a duplicate, a refusal) is counted as received and settled in the same
        transaction.
        """
        batch = self._batch
        batch.tokens.append(token)
        if fate is not None:
            batch.counted[fate] = batch.counted.get(fate, 0) + 1
        if not self._scheduled:
            self._schedule()

    def settle(self, row: int, fate: Fate) -> None:
        """Delete a row and count its fate in the durable books, in one transaction."""
        settled = self._batch.settled
        rows = settled.get(fate)
        if rows is None:
            settled[fate] = [row]
        else:
            rows.append(row)
        if not self._scheduled:
            self._schedule()

    def touch(self, stream: StreamIdentity) -> None:
        """Keep this stream's state with the next commit, and confirm it to the stream when it is durable."""
        self._batch.streams[stream.key] = stream
        if not self._scheduled:
            self._schedule()

    def remember(self, digest: bytes) -> None:
        """Keep the digest of a frame without a number."""
        self._batch.digests.append(digest)
        if not self._scheduled:
            self._schedule()

    def checkpoint(self, counts: Counts) -> None:
        """Replace the durable totals of all frames that are neither rows nor counted at a barrier.

        `missing_upstream` there is that of streams that are never touched; `late` is everybody's. The caller calls
        this at most once a second, and not when nothing changed.
        """
        self._batch.totals = Totals.of(counts)
        if not self._scheduled:
            self._schedule()

    async def carried(self) -> AsyncIterator[Entry]:
        """The rows that earlier starts left, in order, read in pieces of about 4 MB."""
        after = 0
        while True:
            piece: asyncio.Future[list[Entry]] = self._loop.create_future()
            if self.broken is not None or self._closing:
                return
            self._writer.put(Read(after, self.opened.first_row, _READ_BYTES, _resolve(piece)))
            await asyncio.wait((piece, self._stopped), return_when=asyncio.FIRST_COMPLETED)
            entries = piece.result() if piece.done() else []
            for entry in entries:
                yield entry
            if not entries:
                return
            after = entries[-1].row

    async def close(self, timeout_s: float) -> bool:
        """Write what was given, end this start's books, close the file.

        Returns:
            False where that was not done in time or not possible: the next start then finds this one killed, and
            nothing was told durable that is not.
        """
        if not self._closing:
            self._cut()
            self._closing = True
            self._writer.put(Stop())
        done, _ = await asyncio.wait((self._stopped,), timeout=timeout_s)
        return bool(done) and self._stopped.result()

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._turn_ends)

    def _turn_ends(self) -> None:
        """Close the batch where it is large enough, where only fates can help, or where the writer is free.

        While the disk is full all else waits in one batch, where a checkpoint replaces the one before.
        """
        self._scheduled = False
        if (self.stuck and self._batch.settled) or self._batch.nbytes >= self.space.commit:
            self._cut()
        elif not self._flying:
            self._cut_in_time()

    def _cut_in_time(self) -> None:
        """Close the batch now, or when the pace allows it. No timer runs while nothing waits."""
        if self._loop.time() >= self._next_cut:
            self._cut()
        elif self._paced is None and self._batch.has_work():
            self._paced = self._loop.call_at(self._next_cut, self._cut)

    def _cut(self) -> None:
        if self._paced is not None:
            self._paced.cancel()
            self._paced = None
        if self._closing or self.broken is not None or not self._batch.has_work():
            return
        self._next_cut = self._loop.time() + _PACE_S
        batch, self._batch = self._batch, _Batch()
        work = batch.sealed(time.monotonic())
        self._flying.append((batch, work))
        self._writer.put(work)

    def _post(self, call: Any, *args: Any) -> None:
        """From the writer: call on the event loop, unless that has ended."""
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            return

    def _committed(self, usage: Usage) -> None:
        batch, work = self._flying.pop(0)
        self._usage = usage
        self._unwritten -= batch.nbytes
        for stream, sealed in zip(batch.streams.values(), work.sealed, strict=True):
            stream.confirm(sealed)
        if not self._flying:
            self._cut_in_time()
        self._events.on_durable(batch.tokens, tuple(batch.streams.values()))

    def _freed(self, usage: Usage) -> None:
        self._usage = usage
        self._events.on_durable((), ())

    def _stuck(self, reason: str) -> None:
        self.stuck = True
        self._cut()
        self._events.on_stuck(reason)

    def _unstuck(self) -> None:
        self.stuck = False
        self._events.on_unstuck()

    def _broken(self, reason: str) -> None:
        self.broken = reason
        self._events.on_broken(reason)

    def _ended(self, clean: bool) -> None:
        if not self._stopped.done():
            self._stopped.set_result(clean)


def _resolve(future: asyncio.Future[list[Entry]]) -> Callable[[list[Entry]], None]:
    def resolve(entries: list[Entry]) -> None:
        if not future.done():
            future.set_result(entries)

    return resolve
