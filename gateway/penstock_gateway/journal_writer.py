"""The journal's writer thread: one transaction after the other, and what to do when the disk is full.

Owns the file while it runs. Sleeps until there is work; only while the disk is full does it wake by itself, with
back-off. Then nothing new is written, but fates still are: they free rows, and with them room.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from penstock_gateway.journal_file import JournalFile, Transaction, wall_ms
from penstock_gateway.journal_rows import Entry
from penstock_gateway.journal_space import Usage
from penstock_gateway.journal_sqlite import DiskFull

_RETRY_MIN_S, _RETRY_MAX_S = 0.05, 2.0


class Read(msgspec.Struct, frozen=True, eq=False):
    """Read carried rows of (after, before)."""

    after: int
    before: int
    max_bytes: int
    done: Callable[[list[Entry]], None]


class Stop(msgspec.Struct, frozen=True, eq=False):
    """Finish what came before, end the start's books and close the file."""


Job = Transaction | Read | Stop


class Tell(NamedTuple):
    """What the thread tells, through `post`.

    `committed`: the oldest transaction that was put and not yet told is durable. `freed`: only rows were deleted.
    """

    committed: Callable[[Usage], None]
    freed: Callable[[Usage], None]
    stuck: Callable[[str], None]
    unstuck: Callable[[], None]
    broken: Callable[[str], None]
    stopped: Callable[[bool], None]


class _Piece(Transaction, frozen=True, eq=False):
    """Fates cut off a transaction, to be written after it."""


class Writer:
    """The thread. `post(callback, *args)` hands a call to the event loop."""

    def __init__(self, file: JournalFile, tell: Tell, post: Callable[..., Any]) -> None:
        self._file = file
        self._tell = tell
        self._post = post
        self._inbox: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._backlog: deque[Transaction] = deque()
        self._stuck = self._stopping = False
        self._delay = _RETRY_MIN_S
        self.thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def put(self, job: Job) -> None:
        self._inbox.put(job)

    def _run(self) -> None:
        clean = False
        try:
            while not self._stopping:
                self._take(self._inbox.get())
                self._work_off()
            if not self._backlog:
                self._file.end(wall_ms())
                clean = True
        except Exception as exc:  # whatever it was: nothing more is durable, and somebody must hear of it
            self._post(self._tell.broken, str(exc) or repr(exc))
        finally:
            self._file.close()
            self._post(self._tell.stopped, clean)

    def _take(self, job: Job) -> None:
        match job:
            case Transaction():
                self._backlog.append(job)
                self._split()
            case Read(after, before, max_bytes, done):
                self._post(done, self._file.read(after, before, max_bytes))
            case Stop():
                self._stopping = True

    def _split(self) -> None:
        """A deletion writes its row's page: so many fates at once would overrun the log, and go into pieces."""
        limit = self._file.space.fates
        work = self._backlog[-1]
        if work.fates <= limit:
            return
        self._backlog[-1] = msgspec.structs.replace(work, settled={})
        for fate, rows in work.settled.items():
            for at in range(0, len(rows), limit):
                self._backlog.append(_Piece(settled={fate: rows[at : at + limit]}))

    def _work_off(self) -> None:
        while self._backlog:
            work = self._backlog[0]
            try:
                self._file.check_room(work.nbytes)
                usage = self._file.apply(work, wall_ms())
            except DiskFull as exc:
                if self._stopping:
                    return
                self._starve(str(exc))
                continue
            self._backlog.popleft()
            if isinstance(work, _Piece):
                self._post(self._tell.freed, usage)
            else:
                self._post(self._tell.committed, usage)
        if self._stuck:
            self._recover()

    def _starve(self, reason: str) -> None:
        """Wait for room, and make some."""
        released = self._file.release_ballast()
        if released:
            with contextlib.suppress(
                DiskFull
            ):  # somebody was quicker to take the room: wait like any other time
                self._file.checkpoint()
        if not self._stuck:
            self._stuck = True
            self._post(self._tell.stuck, reason)
        if released:
            return
        try:
            self._take(self._inbox.get(timeout=self._delay))
        except queue.Empty:
            self._delay = min(2 * self._delay, _RETRY_MAX_S)
        self._relieve()

    def _relieve(self) -> None:
        """Write the fates that wait behind rows for which there is no room; those of waiting rows stay."""
        first = next((work.entries[0].row for work in self._backlog if work.entries), 0)
        for at, work in enumerate(self._backlog):
            due = {fate: [row for row in rows if row < first] for fate, rows in work.settled.items()}
            if not any(due.values()):
                continue
            try:
                self._file.apply(Transaction(settled=due), wall_ms())
                self._file.checkpoint()
            except DiskFull:
                return
            rest = {fate: [row for row in rows if row >= first] for fate, rows in work.settled.items()}
            self._backlog[at] = msgspec.structs.replace(work, settled=rest)
            self._delay = _RETRY_MIN_S

    def _recover(self) -> None:
        self._stuck = False
        self._delay = _RETRY_MIN_S
        self._file.restore_ballast()
        self._post(self._tell.unstuck)
