"""How the journal divides the room that it may use on disk. Pure arithmetic; sizes in bytes.

    max_bytes, or what the file system has free, whichever is less
    ├── ballast      a file of nothing, deleted when the disk is full so that SQLite can move again
    ├── log          SQLite's write-ahead log: a checkpoint's worth, and one commit
    └── pages        the database file, capped by SQLite itself
        └── capacity the part that new rows may fill; the rest takes what was on its way when it became full

SQLite in WAL mode cannot even delete on a full disk, since a deletion is written to the log first. So nothing is
written that the disk may not hold twice, in log and database, and the log's file takes its share from the beginning and
does not give it back: that is the room in which deletions, and the books of the next start, can always be written.
"""

from __future__ import annotations

import functools

import msgspec

PAGE = 4096
_LOCAL_MAX = PAGE - 35
_LOCAL_MIN = 489  # SQLite's file format: what stays on the leaf of a row that overflows, at least
_OVERFLOW = PAGE - 4
_COMMIT_PAGES = 24
"""Pages that a commit writes beside its rows: books, streams, digests, inner pages."""


class Space(msgspec.Struct, frozen=True):
    """The division. `commit` is the size at which a batch is closed, `max_entry` the largest row that is accepted;
    `warning` is None unless the disk has less than was asked for."""

    pages: int
    capacity: int
    ballast: int
    checkpoint_pages: int
    commit: int
    max_entry: int
    log: int
    warning: str | None = None

    @property
    def fates(self) -> int:
        """Rows that one transaction may delete: each may write a page of its own to the log."""
        return self.log // PAGE - self.checkpoint_pages - _COMMIT_PAGES


class Usage(msgspec.Struct, frozen=True):
    """What is in use after a commit: pages of the file, those of them that are free, bytes of the log's file."""

    pages: int
    free_pages: int
    log: int

    @property
    def used(self) -> int:
        return (self.pages - self.free_pages) * PAGE


def divide(max_bytes: int, max_entry: int, disk_free: int, own: int, where: str) -> Space:
    """Divide what may be used.

    Args:
        max_bytes: what the configuration allows.
        max_entry: the largest message that routes accept, with its properties.
        disk_free: what the file system has left.
        own: what the journal's files take now; theirs to use again.
        where: the folder, for the warning.
    """
    total, warning = max_bytes, None
    if max_bytes > own + disk_free:
        total = own + disk_free * 15 // 16
        warning = (
            f"journal_space: [journal] max_bytes is {max_bytes}, but {where} has {disk_free} bytes free: "
            f"using {total}; free space there or lower max_bytes"
        )
    ballast = min(1 << 20, total // 8)
    checkpoint = min(1 << 20, total // 16)
    entry = min(max_entry, total // 6)
    log = checkpoint + max(checkpoint, entry) + _COMMIT_PAGES * PAGE
    pages = max(32, (total - ballast - log) // PAGE)
    reserve = min(8 << 20, pages * PAGE // 6)
    return Space(
        pages=pages,
        capacity=pages * PAGE - reserve,
        ballast=ballast,
        checkpoint_pages=max(8, checkpoint // PAGE),
        commit=max(64 << 10, checkpoint),
        max_entry=entry,
        log=log,
        warning=warning,
    )


@functools.lru_cache(maxsize=4096)
def footprint(nbytes: int) -> int:
    """Bytes of pages that a row of `nbytes` takes: whole overflow pages, and its share of a leaf."""
    if nbytes <= _LOCAL_MAX:
        local, overflow = nbytes, 0
    else:
        local = _LOCAL_MIN + (nbytes - _LOCAL_MIN) % _OVERFLOW
        local = local if local <= _LOCAL_MAX else _LOCAL_MIN
        overflow = -(-(nbytes - local) // _OVERFLOW)
    return overflow * PAGE + PAGE // max(1, (PAGE - 12) // (local + 6))


def growth(space: Space, usage: Usage, nbytes: int, log_pages: int) -> int | None:
    """By how much the files may have to grow for a commit of rows with that footprint, at worst.

    Args:
        nbytes: the footprint of the rows.
        log_pages: pages of the log that may be taken already; 0 right after a checkpoint.

    Returns:
        Bytes; None when the page cap forbids it whatever the disk has.
    """
    need = nbytes + _COMMIT_PAGES * PAGE
    free = usage.free_pages * PAGE
    if need > free + (space.pages - usage.pages) * PAGE:
        return None
    log = log_pages * PAGE + need
    return max(0, need - free) + max(0, log - usage.log)
