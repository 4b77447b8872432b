"""The journal's SQLite file: its format, its one transaction, its recovery. Synchronous; one thread at a time.

Owns what is on disk. Leaves to others: threads and callbacks (`journal`), the arithmetic of the books (`starts`) and
of space (`journal_space`).

WAL with synchronous=FULL: a commit that returned survives a power cut. The lock is exclusive, so a second gateway on
the same folder is refused and no shared-memory file exists. Every `execute` gives up and retakes Python's lock, and a
busy event loop may hold that for milliseconds: so a commit is a handful of statements however many rows it has.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock_gateway.identity import Sealed
from penstock_gateway.journal_disk import disk_free, reserve, size
from penstock_gateway.journal_rows import Bulk, Entry, columns_of, entry_of
from penstock_gateway.journal_space import Space, Usage, divide, growth
from penstock_gateway.journal_sqlite import (
    DiskBroken,
    DiskFull,
    is_full,
    make_folder,
    named_errors,
    open_checked,
    transaction,
)
from penstock_gateway.ledger import Fate
from penstock_gateway.starts import KEPT, Books, How, StartRecord, Totals, close_start, off_by

_ROW_BITS = 20
"""A start's first row is its time in ms, shifted by so many bits: row ids grow over starts and outlive the file."""

_DIGEST = 16


class Transaction(msgspec.Struct, frozen=True, eq=False):
    """What becomes durable together. `nbytes` is the footprint of `entries`."""

    entries: Sequence[Entry] = ()
    settled: dict[Fate, list[int]] = {}
    counted: dict[Fate, int] = {}
    sealed: Sequence[Sealed] = ()
    digests: Sequence[bytes] = ()
    totals: Totals | None = None
    nbytes: int = 0

    @property
    def fates(self) -> int:
        """Rows to delete."""
        return sum(map(len, self.settled.values()))


class Opened(msgspec.Struct, frozen=True):
    """What opening found. `streams` are the seals by key, `digests` the remembered ones from the oldest.

    `reports` are lines for the log: a file moved aside, less space than wanted, books that did not add up.
    """

    start: StartRecord
    first_row: int
    carried: int
    starts: tuple[StartRecord, ...]
    streams: dict[str, bytes]
    digests: tuple[bytes, ...]
    reports: tuple[str, ...]


_ROWS = Bulk("rows", 8)
_STREAMS = Bulk(
    "streams", 3, "ON CONFLICT (stream) DO UPDATE SET seen = excluded.seen, identity = excluded.identity"
)
_encode_json = msgspec.json.Encoder().encode


class JournalFile:
    """The open file. Not thread-safe; it may change threads between calls."""

    def __init__(self, path: Path, db: sqlite3.Connection, space: Space, digest_limit: int) -> None:
        self.path = path
        self.space = space
        self.usage = Usage(0, 0, 0)
        self._db = db
        self._log = path.with_name(path.name + "-wal")
        self._ballast = path.with_name(path.name + ".ballast")
        self._digest_limit = digest_limit
        self._digest_next = 0
        self._books = Books()
        self._last_row = 0
        self._n = 0

    @classmethod
    def open(
        cls, path: Path, max_bytes: int, max_entry: int, max_streams: int, digest_limit: int, now_ms: int
    ) -> tuple[JournalFile, Opened]:
        """Open or create, check, close the books of the start before and begin a new one.

        Raises:
            UsageError: the file is in use, has a newer format, or the disk has no room to begin.
            DiskBroken: reading or writing it failed.
        """
        reports: list[str] = []
        with named_errors(path):
            make_folder(path.parent)
            db = open_checked(path, reports, now_ms)
            try:
                space = _divide(path, max_bytes, max_entry)
                reports += [space.warning] if space.warning else []
                file = cls(path, db, space, digest_limit)
                opened = file._begin(now_ms, max_streams, reports)
            except BaseException:
                db.close()
                raise
        return file, opened

    def _begin(self, now_ms: int, max_streams: int, reports: list[str]) -> Opened:
        self._configure()
        try:
            opened = self._recover(now_ms, max_streams, reports)
        except sqlite3.OperationalError as exc:
            if not is_full(exc):
                raise
            self.release_ballast()
            with contextlib.suppress(DiskFull):  # then what the log's file has left must do
                self.checkpoint()
            opened = self._recover(now_ms, max_streams, reports)
        reserve(self._log, self.space.log)
        self.restore_ballast()
        self._measure()
        return opened

    def _configure(self) -> None:
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            f"wal_autocheckpoint = {self.space.checkpoint_pages}",
            f"max_page_count = {self.space.pages}",
            "cache_size = -2048",
            "temp_store = MEMORY",
        ):
            self._db.execute(f"PRAGMA {pragma}").fetchall()

    def _recover(self, now_ms: int, max_streams: int, reports: list[str]) -> Opened:
        with transaction(self._db):
            rows = self._db.execute("SELECT count(*), max(row) FROM rows").fetchone()
            ended = self._close_last(rows[0], now_ms, None, reports)
            last = max(rows[1] or 0, ended)
            first_row = max(now_ms, (last >> _ROW_BITS) + 1) << _ROW_BITS
            self._last_row, self._books = first_row, Books.opened(rows[0])
            start = f"{first_row >> _ROW_BITS:x}"
            columns = (start, now_ms, now_ms, self._last_row, _text(self._books))
            self._n = self._insert_start(columns)
            self._db.execute(
                "DELETE FROM streams WHERE stream NOT IN"
                " (SELECT stream FROM streams ORDER BY seen DESC LIMIT ?)", (max_streams,)
            )  # fmt: skip
        running = StartRecord(start, now_ms, None, "running", self._books.journalled)
        streams = dict(self._db.execute("SELECT stream, identity FROM streams").fetchall())
        digests = self._load_digests()
        return Opened(running, first_row, rows[0], self.starts(), streams, digests, tuple(reports))

    def _insert_start(self, columns: tuple[Any, ...]) -> int:
        cursor = self._db.execute(
            "INSERT INTO starts (start, began, seen, last_row, books) VALUES (?, ?, ?, ?, ?)", columns
        )
        n = cursor.lastrowid or 0
        self._db.execute("DELETE FROM starts WHERE n <= ?", (n - 1 - KEPT,))
        return n

    def _close_last(self, rows: int, now_ms: int, how: How | None, reports: list[str]) -> int:
        """Close the books of the last start unless it did so itself; returns its last row."""
        last = self._db.execute(
            "SELECT n, start, began, seen, last_row, books, record FROM starts ORDER BY n DESC LIMIT 1"
        ).fetchone()
        if last is None:
            return 0
        n, start, began, seen, last_row, text, record = last
        if record is None:
            books = msgspec.json.decode(text, type=Books)
            if off := off_by(books, rows):
                reports.append(
                    f"journal_books: {self.path} has {off:+d} rows more than start {start} counted"
                )
            closed = close_start(start, began, now_ms if how else seen, how or "killed", books, rows)
            self._db.execute("UPDATE starts SET record = ? WHERE n = ?", (_text(closed), n))
        return int(last_row)

    def starts(self) -> tuple[StartRecord, ...]:
        """The ended starts, from the oldest."""
        found = self._db.execute("SELECT record FROM starts WHERE record IS NOT NULL ORDER BY n").fetchall()
        return tuple(msgspec.json.decode(text, type=StartRecord) for (text,) in found[-KEPT:])

    def _load_digests(self) -> tuple[bytes, ...]:
        found = self._db.execute("SELECT first, digests FROM digests ORDER BY first").fetchall()
        if found:
            self._digest_next = found[-1][0] + len(found[-1][1]) // _DIGEST
        return tuple(b[at : at + _DIGEST] for _, b in found for at in range(0, len(b), _DIGEST))

    def apply(self, work: Transaction, now_ms: int) -> Usage:
        """Make it durable: all of it, or nothing.

        Raises:
            DiskFull: nothing was changed, it can be tried again.
            DiskBroken: the file must not be used any more.
        """
        with named_errors(self.path):
            with transaction(self._db):
                books, last_row = self._write(work, now_ms)
            self._books, self._last_row = books, last_row
            self._digest_next += len(work.digests)
            self._measure()
            if self.usage.log > self.space.log:  # one turn of the loop brought more than a commit's worth
                with contextlib.suppress(DiskFull):  # the commit stands: it must not be tried again
                    self.checkpoint("TRUNCATE")
                    reserve(self._log, self.space.log)
                self._measure()
            return self.usage

    def _write(self, work: Transaction, now_ms: int) -> tuple[Books, int]:
        last_row = self._last_row
        if work.entries:
            self._insert_rows(work.entries)
            last_row = work.entries[-1].row
        if work.sealed:
            _STREAMS.insert(self._db, [(s.key, now_ms, s.blob) for s in work.sealed])
        if work.digests:
            self._insert_digests(work.digests)
        settled = {fate: self._delete(rows) for fate, rows in work.settled.items()}
        missing = sum(s.missing for s in work.sealed)
        books = self._books.after(len(work.entries), settled, work.counted, missing, work.totals)
        self._db.execute(
            "UPDATE starts SET seen = ?, last_row = ?, books = ? WHERE n = ?",
            (now_ms, last_row, _text(books), self._n),
        )
        return books, last_row

    def _insert_rows(self, entries: Sequence[Entry]) -> None:
        if _ROWS.insert(self._db, [columns_of(entry) for entry in entries]) != len(entries):
            raise DiskBroken(
                f"{self.path}: a row id was given twice near {entries[0].row}: row ids must grow"
            )

    def _insert_digests(self, digests: Sequence[bytes]) -> None:
        self._db.execute("INSERT INTO digests VALUES (?, ?)", (self._digest_next, b"".join(digests)))
        oldest = self._digest_next + len(digests) - self._digest_limit
        self._db.execute("DELETE FROM digests WHERE first + length(digests) / ? <= ?", (_DIGEST, oldest))

    def _delete(self, rows: Iterable[int]) -> int:
        """Delete rows; returns how many there were, so that a row settled twice is counted once."""
        text = f"[{','.join(map(str, rows))}]"
        sql = "DELETE FROM rows WHERE row IN (SELECT value FROM json_each(?))"
        return self._db.execute(sql, (text,)).rowcount

    def _measure(self) -> None:
        (pages,) = self._db.execute("PRAGMA page_count").fetchone()
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        self.usage = Usage(pages, free, size(self._log))

    def check_room(self, nbytes: int) -> None:
        """Make sure that rows of that footprint fit, before SQLite wedges itself on trying.

        Raises:
            DiskFull: they may not, now.
            DiskBroken: they never will: waiting for room would be waiting for ever.
        """
        if not nbytes:
            return
        # Where the ballast is gone, its room is for fates, and to lay it again.
        kept = 0 if self._ballast.exists() else self.space.ballast
        free = max(0, disk_free(self.path.parent) - kept)
        if self._grows(nbytes, self.space.checkpoint_pages) <= free:
            return
        self.checkpoint()
        if (need := self._grows(nbytes, 0)) > free:
            raise DiskFull(
                f"{self.path}: {nbytes} bytes need {need} on disk, {free} are free: free space there"
            )

    def _grows(self, nbytes: int, log_pages: int) -> int:
        need = growth(self.space, self.usage, nbytes, log_pages)
        if need is None and nbytes > self.space.capacity:
            raise DiskBroken(
                f"{self.path}: one turn brought {nbytes} bytes, an empty journal holds {self.space.capacity}: "
                "raise [journal] max_bytes"
            )
        if need is None:
            raise DiskFull(
                f"{self.path}: no room for {nbytes} bytes under its cap of {self.space.pages} pages"
            )
        return need

    def checkpoint(self, mode: Literal["RESTART", "TRUNCATE"] = "RESTART") -> None:
        """Move the log into the database. The log's file keeps its blocks, unless truncated."""
        with named_errors(self.path):
            self._db.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def release_ballast(self) -> bool:
        """Give the ballast's room to SQLite; False when there was none."""
        if not self._ballast.exists():
            return False
        self._ballast.unlink()
        return True

    def restore_ballast(self) -> None:
        """Lay the ballast again where the disk has room for it twice."""
        if self._ballast.exists() or disk_free(self.path.parent) < 2 * self.space.ballast:
            return
        if not reserve(self._ballast, self.space.ballast):
            self._ballast.unlink()

    def read(self, after: int, before: int, max_bytes: int) -> list[Entry]:
        """Rows of (after, before) in order: as many as `max_bytes` of payload hold, and at least one if there is one."""
        entries, size = [], 0
        sql = "SELECT * FROM rows WHERE row > ? AND row < ? ORDER BY row LIMIT 256"
        with named_errors(self.path), contextlib.closing(self._db.execute(sql, (after, before))) as found:
            for columns in found:
                entries.append(entry_of(columns))
                size += len(columns[-1])
                if size >= max_bytes:
                    break
        return entries

    def end(self, now_ms: int) -> None:
        """Write that this start ended cleanly."""
        with named_errors(self.path), transaction(self._db):
            (rows,) = self._db.execute("SELECT count(*) FROM rows").fetchone()
            self._close_last(rows, now_ms, "clean", [])

    def close(self) -> None:
        self._db.close()


def _text(value: object) -> str:
    return _encode_json(value).decode()


def _divide(path: Path, max_bytes: int, max_entry: int) -> Space:
    own = sum(size(path.with_name(path.name + end)) for end in ("", "-wal", ".ballast"))
    return divide(max_bytes, max_entry, disk_free(path.parent), own, str(path.parent))


def wall_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
