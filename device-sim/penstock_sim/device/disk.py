"""Kept frames on disk, so that they outlive the device's process and its power: one SQLite file for a device.

Each frame is durable when `add` returns (WAL, synchronous=FULL). A removal may be lost to a power cut: the frame is then
sent again, and the gateway knows its number. Thread-safe only under its caller's lock.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from penstock_gateway.journal_sqlite import transaction
from penstock_models.errors import PenstockError, UsageError
from penstock_sim.device.message import Frame

FORMAT = 1
_COLUMNS = "stream, boot, seq, head, payload"
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS frames (row INTEGER PRIMARY KEY, stream TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, head BLOB NOT NULL, payload BLOB NOT NULL, UNIQUE (stream, boot, seq)) STRICT;
PRAGMA user_version = {FORMAT};
"""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Frame).decode


class Disk:
    """The open file; nobody else may open it meanwhile."""

    def __init__(self, folder: Path, device: str) -> None:
        """Open or make it.

        Raises:
            UsageError: another process has it, or it has a newer format.
            PenstockError: the disk does not let it be read or written.
        """
        self.path = folder / f"{device}.kept"
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
                for directory in (folder, folder.parent):  # the file's name must survive a power cut as well
                    _sync(directory)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise UsageError(f"{self.path}: expected format {FORMAT} or older, came {version}")
        self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def frames(self) -> list[Frame]:
        """What an earlier run left, from the oldest."""
        with self._named():
            found = self._db.execute("SELECT head, payload FROM frames ORDER BY row").fetchall()
            return [msgspec.structs.replace(_decode(head), payload=payload) for head, payload in found]

    def add(self, frame: Frame) -> None:
        """Make a frame durable.

        Raises:
            PenstockError: the disk is full or broken; the file is as it was.
        """
        head = _encode(msgspec.structs.replace(frame, payload=b""))
        row = (frame.stream, frame.boot, frame.seq, head, frame.payload)
        with self._named(), transaction(self._db):
            self._db.execute(f"INSERT INTO frames ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", row)

    def remove(self, frames: Iterable[Frame]) -> None:
        """Forget frames that are safe.

        Raises:
            PenstockError: as `add`.
        """
        keys = [(frame.stream, frame.boot, frame.seq) for frame in frames]
        sql = "DELETE FROM frames WHERE stream = ? AND boot = ? AND seq = ?"
        with self._named(), transaction(self._db):
            self._db.executemany(sql, keys)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """What SQLite and the disk say, in one line."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise UsageError(
                    f"{self.path}: in use by another process: one device has one folder"
                ) from None
            raise PenstockError(f"{self.path}: expected to keep frames there: {error}") from None
        except msgspec.MsgspecError as error:
            raise PenstockError(f"{self.path}: expected frames that this version reads: {error}") from None
        except OSError as error:
            raise PenstockError(f"{self.path}: expected to keep frames there: {error.strerror}") from None


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
