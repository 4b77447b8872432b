"""Opens the journal's SQLite file, and names what SQLite says.

Owns the format, the check at the start, and the split of errors by what can be done about them. Leaves to others:
what is written (`journal_file`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from penstock_gateway.journal_space import PAGE
from penstock_models.errors import PenstockError, UsageError

FORMAT = 1


class DiskFull(PenstockError):
    """No room. What was to be written is not; it can be tried again."""


class DiskBroken(PenstockError):
    """The file can no longer be trusted to hold what is written: after a failed fsync a retry proves nothing."""


_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS rows (row INTEGER PRIMARY KEY, stream TEXT NOT NULL, arrived INTEGER NOT NULL,
    topic TEXT NOT NULL, boot TEXT, seq INTEGER, rest BLOB, payload BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS streams (stream TEXT PRIMARY KEY, seen INTEGER NOT NULL, identity BLOB NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS digests (first INTEGER PRIMARY KEY, digests BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS starts (n INTEGER PRIMARY KEY, start TEXT NOT NULL, began INTEGER NOT NULL,
    seen INTEGER NOT NULL, last_row INTEGER NOT NULL, books TEXT NOT NULL, record TEXT) STRICT;
PRAGMA user_version = {FORMAT};
"""


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone, so that a power cut does not undo it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for directory in (folder, folder.parent):  # the file's name must survive a power cut as well
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def open_checked(path: Path, reports: list[str], now_ms: int) -> sqlite3.Connection:
    """Connect to a sound file of our format; a corrupt one is moved aside and reported, and a new one begun."""
    try:
        return _connect(path)
    except sqlite3.DatabaseError as exc:
        if exc.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise
        aside = path.with_name(f"{path.name}.corrupt-{now_ms}")
        for end in ("", "-wal"):
            if (part := path.with_name(path.name + end)).exists():
                part.rename(aside.with_name(aside.name + end))
        reports.append(f"journal_corrupt: {path} is damaged ({exc}): moved to {aside.name}, a new one begun")
    return _connect(path)


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # the log gets the same mode
    db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        db.execute(f"PRAGMA page_size = {PAGE}")
        db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        db.execute("BEGIN EXCLUSIVE").close()
        db.execute("COMMIT")
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > FORMAT:
            raise UsageError(
                f"{path}: format v {found}, expected at most v {FORMAT}: it was written by a newer penstock; "
                "upgrade, or move the file away"
            )
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _corrupt(verdict)
        if not found:
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _corrupt(verdict: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def is_full(exc: sqlite3.Error) -> bool:
    """Whether there was no room, on the disk or under the page cap."""
    return getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours, split by what can be done."""
    try:
        yield
    except OSError as exc:
        raise UsageError(
            f"{path}: {exc.strerror}: `state` must be a folder that the gateway may write"
        ) from exc
    except sqlite3.Error as exc:
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(f"{path}: no room to write ({exc}): free space there") from exc
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise UsageError(f"{path}: in use by another process: one gateway for one state folder") from exc
        name = getattr(exc, "sqlite_errorname", type(exc).__name__)
        raise DiskBroken(
            f"{path}: {exc} ({name}): nothing more is acknowledged; check the disk, then restart"
        ) from exc


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, on a connection that begins none by itself (`isolation_level=None`)."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
