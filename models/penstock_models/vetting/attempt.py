"""One vetting child, seen from its parent: started with nothing but the model, listened to, timed, ended, reaped.

Owns what the child inherits, its time and its end. What it says, and what an end without a word means, is `listening`'s.
Blocking; whose turn it is, and cancelling, are `vet`'s.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from penstock_models.children import command, environment
from penstock_models.errors import UsageError
from penstock_models.gaps import Gaps
from penstock_models.versions.box import SystemBox
from penstock_models.vetting.listening import Advance, Ended, Listener, conclude, waited_s
from penstock_models.vetting.verdict import DEFAULT_LIMITS, Kind, Limits, Reason, Request, Vetted, refused

CHILD = "penstock_models.vetting.child"
END_S = 2.0  # from the child's last word to its end
SPARE_SHARE = 0.75  # of the box's free memory that a child may take

_CALLED_OFF = refused("internal", "it was called off before it was done")


class Subject(NamedTuple):
    """What is to be vetted. `name` and `version` are those of a bare model file's folder; `out` is the new file that its
    bundle is written into, where one is wanted."""

    kind: Kind
    path: Path
    name: str = ""
    version: int | None = None
    out: Path | None = None


class Attempt:
    """One child, once. `run` in one thread, `kill` from any."""

    def __init__(
        self,
        subject: Subject,
        devices: Sequence[str] = (),
        limits: Limits = DEFAULT_LIMITS,
        advance: Advance | None = None,
        gaps: Gaps | None = None,
    ) -> None:
        """
        Args:
            gaps: of those that serve, in which the child runs; None where nobody serves.
        """
        self.gaps = gaps or Gaps(1)
        self._subject = subject
        self._devices = tuple(devices)
        self._limits = limits
        self._advance = advance
        self._lock = threading.Lock()
        self._unreaped: int | None = None
        self._killed = False

    def run(self) -> Vetted:
        """The verdict; the child is gone and reaped by then. `internal` where it was killed by `kill`.

        Raises:
            UsageError: there is nothing at the path, or it cannot be read.
            OSError: the file for the bundle cannot be made.
        """
        subject = self._subject
        with contextlib.ExitStack() as opened:
            given = _opened(subject.path)
            opened.callback(os.close, given)
            mode = os.fstat(given).st_mode
            if not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and subject.kind != "model")):
                reason: Reason = "not_a_model" if subject.kind == "model" else "bundle"
                return refused(reason, f"{subject.path} is not a regular file")
            out = None
            if subject.out is not None:
                out = os.open(subject.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                opened.callback(os.close, out)
            return self._converse(given, out)

    def kill(self) -> None:
        """End the child, or let none be started."""
        with self._lock:
            self._killed = True
            if self._unreaped is not None:
                _end(self._unreaped)

    def signal(self, number: signal.Signals) -> None:
        """Send the child a signal, unless it is just being started or ended: nobody waits here."""
        if self._lock.acquire(blocking=False):
            try:
                if self._unreaped is not None:
                    os.kill(self._unreaped, number)
            finally:
                self._lock.release()

    def _converse(self, given: int, out: int | None) -> Vetted:
        limits = msgspec.structs.replace(self._limits, memory_bytes=_granted(self._limits.memory_bytes))
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb", buffering=0) as words:
            try:
                process = self._start(given, out, writer, limits)
            except OSError as error:
                return refused("internal", f"cannot start a process to try it in: {error.strerror}")
            finally:
                os.close(writer)
            if process is None:
                return _CALLED_OFF
            listener = Listener(self._advance)
            waited = 0.0
            try:
                listener.listen(process, words, limits.wall_s, self.gaps)
                waited = waited_s(process.pid)
            finally:
                self._reap(process, ended_by_itself=not (listener.late or listener.flooded))
        if self._killed:  # by us: that says nothing about the model
            return _CALLED_OFF
        if listener.verdict is not None:
            return listener.verdict
        ended = Ended(
            process.returncode, listener.stage, listener.tail(), listener.late, listener.flooded, waited
        )
        return conclude(ended, str(self._subject.path), limits)

    def _start(
        self, given: int, out: int | None, writer: int, limits: Limits
    ) -> subprocess.Popen[bytes] | None:
        """The child; None where it was killed before."""
        subject = self._subject
        request = Request(
            subject.kind,
            given,
            _text(str(subject.path)),
            os.getpid(),
            limits,
            self._devices,
            _text(subject.name),
            subject.version,
            out,
            self.gaps.slots,
        )
        words = command(CHILD, msgspec.json.encode(request).decode(), writer)
        folder = Path(tempfile.mkdtemp(prefix="penstock-vet-"))
        try:
            with self._lock:
                if self._killed:
                    return None
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(given, writer) if out is None else (given, writer, out),
                    cwd=folder,
                    env=environment(),
                    # A group to be ended as a whole; no session, as Linux lets priorities count within one only.
                    process_group=0,
                )
                self._unreaped = process.pid
                return process
        finally:
            # The child keeps the folder, in which nothing can be made any more, and nobody has to tidy it up.
            folder.rmdir()

    def _reap(self, process: subprocess.Popen[bytes], *, ended_by_itself: bool) -> None:
        """Wait for the end of the child; whoever said its last word and stays is ended, and whoever it left behind."""
        if ended_by_itself:
            _await_end(process.pid)
        with self._lock:
            _end(process.pid)
            self._unreaped = None  # for `kill`, which must not wait until the kernel has its memory back
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _await_end(pid: int) -> None:
    """Wait for a child without reaping it: its number, and its group's, would be free for others."""
    until = time.monotonic() + END_S
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < until:
        time.sleep(0.002)


def _end(pid: int) -> None:
    """Kill a child that is not reaped, and its group: where the kernel has no filter, it may have children of its own.

    A child may also have left its group, for that of its parent.
    """
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _text(name: str) -> str:
    """A file's name may hold bytes that are no text."""
    return os.fsencode(name).decode("utf-8", "replace")


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _granted(wanted: int) -> int:
    """No more memory than the box can spare, so that nobody else is pushed out by a model that nobody knows."""
    spare = int(SystemBox().room().available_bytes * SPARE_SHARE)
    return min(wanted, spare) if spare else wanted
