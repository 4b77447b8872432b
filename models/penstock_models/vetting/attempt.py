"""One vetting child, seen from its parent: started with nothing but the model, listened to, timed, ended, reaped.

Owns what the child inherits and what its end means. Blocking; whose turn it is, and cancelling, are `vet`'s.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Literal, NamedTuple

import msgspec

import penstock_models
from penstock_models.errors import UsageError
from penstock_models.vetting.verdict import (
    Limits,
    Progress,
    Report,
    Request,
    Vetted,
    memory_wanted,
    out_of_memory,
    over_memory,
    refused,
)

Advance = Callable[[int, int], None]

CHILD = "penstock_models.vetting.child"
MAX_LINE = 256 * 1024
MAX_TAIL = 4096
END_S = 2.0  # from the child's last word to its end
STARVED_SHARE = 0.5  # of its wall time; from there on the box was too busy, and the model may be a good one
SPARE_SHARE = 0.75  # of the box's free memory that a child may take

# A driver is found and chosen by these; everything else of the environment stays outside.
_KEPT = ("LD_LIBRARY_PATH", "PATH", "HOME")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "OPENVINO_", "INTEL_OPENVINO_", "ORT_")


class Subject(NamedTuple):
    """What is to be vetted. `name` and `version` are those of a bare model file's folder."""

    kind: Literal["bundle", "bare", "model"]
    path: Path
    name: str = ""
    version: int | None = None


class Ended(NamedTuple):
    """How a child ended without a verdict. `code` as of `subprocess`; `tail` the end of its standard error; `waited_s`
    how long it stood ready and got no processor."""

    code: int
    stage: str
    tail: str
    late: bool = False
    flooded: bool = False
    waited_s: float = 0.0


class Attempt:
    """One child, once. `run` in one thread, `kill` from any."""

    def __init__(
        self, subject: Subject, devices: tuple[str, ...], limits: Limits, advance: Advance | None
    ) -> None:
        self._subject = subject
        self._devices = devices
        self._limits = limits
        self._advance = advance
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def run(self) -> Vetted:
        """The verdict; the child is gone and reaped by then.

        Raises:
            UsageError: there is nothing at the path, or it cannot be read.
        """
        subject = self._subject
        descriptor = _opened(subject.path)
        try:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and subject.kind != "model")):
                reason: Literal["not_a_model", "bundle"] = (
                    "not_a_model" if subject.kind == "model" else "bundle"
                )
                return refused(reason, f"{subject.path} is not a regular file")
            return self._converse(descriptor)
        finally:
            os.close(descriptor)

    def kill(self) -> None:
        """End the child, or let none be started."""
        with self._lock:
            self._killed = True
            if self._process is not None and self._process.returncode is None:
                # Its whole group: where the kernel has no filter, it may have children of its own.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def _converse(self, descriptor: int) -> Vetted:
        limits = msgspec.structs.replace(self._limits, memory_bytes=_granted(self._limits.memory_bytes))
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb", buffering=0) as words:
            try:
                process = self._start(descriptor, writer, limits)
            except OSError as error:
                return refused("internal", f"cannot start a process to try it in: {error.strerror}")
            finally:
                os.close(writer)
            listener = _Listener(self._advance)
            waited_s = 0.0
            try:
                listener.listen(process, words, self._limits.wall_s)
                waited_s = _waited_s(process.pid)
            finally:
                self._reap(process, ended_by_itself=not (listener.late or listener.flooded))
        if listener.verdict is not None:
            return listener.verdict
        ended = Ended(
            process.returncode, listener.stage, listener.tail(), listener.late, listener.flooded, waited_s
        )
        return conclude(ended, str(self._subject.path), limits)

    def _start(self, descriptor: int, writer: int, limits: Limits) -> subprocess.Popen[bytes]:
        subject = self._subject
        request = Request(
            subject.kind,
            descriptor,
            str(subject.path),
            os.getpid(),
            limits.memory_bytes,
            limits.cpu_s,
            self._devices,
            subject.name,
            subject.version,
        )
        words = [sys.executable, "-P", "-m", CHILD, msgspec.json.encode(request).decode(), str(writer)]
        folder = Path(tempfile.mkdtemp(prefix="penstock-vet-"))
        try:
            with self._lock:
                if self._killed:
                    raise ProcessLookupError(0, "it was called off")
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(descriptor, writer),
                    cwd=folder,
                    env=environment(os.environ),
                    # A group to be ended as a whole; no session, as Linux lets priorities count within one only.
                    process_group=0,
                )
                return self._process
        finally:
            # The child keeps the folder, in which nothing can be made any more, and nobody has to tidy it up.
            folder.rmdir()

    def _reap(self, process: subprocess.Popen[bytes], *, ended_by_itself: bool) -> None:
        """Wait for the end of the child; whoever said its last word and stays is ended."""
        if ended_by_itself:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        with self._lock:
            process.wait()
        assert process.stderr is not None
        process.stderr.close()


class _Listener:
    """What a child said so far, within bounds."""

    def __init__(self, advance: Advance | None) -> None:
        self.verdict: Vetted | None = None
        self.stage = "starting"
        self.late = False
        self.flooded = False
        self._advance = advance
        self._line = b""
        self._tail = b""
        self._decoder = msgspec.json.Decoder(Report)

    def tail(self) -> str:
        return self._tail.decode("utf-8", "replace")

    def listen(self, process: subprocess.Popen[bytes], words: IO[bytes], wall_s: float) -> None:
        """Until both pipes end, the time is over, or it says more than a child ever has to say."""
        until = time.monotonic() + wall_s
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(words, selectors.EVENT_READ, self._said)
            selector.register(process.stderr, selectors.EVENT_READ, self._complained)
            while selector.get_map() and not (self.late or self.flooded):
                left = until - time.monotonic()
                ready = selector.select(max(0.0, left))
                self.late = left <= 0 and not ready
                for key, _ in ready:
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        key.data(chunk)
                    else:
                        selector.unregister(key.fileobj)

    def _said(self, chunk: bytes) -> None:
        *lines, self._line = (self._line + chunk).split(b"\n")
        self.flooded = len(self._line) > MAX_LINE
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):
                match self._decoder.decode(line).said:
                    case Vetted() as verdict:
                        self.verdict = verdict
                    case Progress(stage, done, total):
                        self.stage = stage
                        if done and self._advance:
                            self._advance(done, total)

    def _complained(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-MAX_TAIL:]


def conclude(ended: Ended, shown: str, limits: Limits) -> Vetted:
    """What the end of a child that gave no verdict says about the model."""
    last = " ".join(ended.tail.strip().rpartition("\n")[2].split())[-200:]
    during = f"{shown}: "
    if ended.late and ended.waited_s > STARVED_SHARE * limits.wall_s:
        return refused(
            "starved",
            f"{during}waited {ended.waited_s:.0f} of {limits.wall_s:g} s for a processor, while {ended.stage};"
            " try again when the box is less busy",
        )
    if ended.late:
        return refused("endless", f"{during}was not done after {limits.wall_s:g} s, while {ended.stage}")
    if ended.flooded:
        return refused("internal", f"{during}the child said more than {MAX_LINE} bytes while {ended.stage}")
    if ended.code == -signal.SIGXCPU:
        return refused(
            "endless", f"{during}used {limits.cpu_s} s of processor time and was not done {ended.stage}"
        )
    if out_of_memory(ended.tail):
        wanted = memory_wanted(ended.tail)
        return refused("memory", over_memory(shown, limits.memory_bytes, ended.stage, wanted))
    if ended.code == -signal.SIGKILL:
        return refused(
            "memory",
            f"{during}was killed while {ended.stage}, as the kernel does where the box's memory runs out",
        )
    if ended.code < 0:
        return refused("crashed", f"{during}ended by {_signal(-ended.code)} while {ended.stage} {last}")
    return refused("internal", f"{during}the child left with code {ended.code} while {ended.stage}: {last}")


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: where to find libraries, one thread, nothing else of the parent's."""
    root = str(Path(penstock_models.__file__).resolve().parent.parent)
    given = [str(Path(p).resolve()) for p in outer.get("PYTHONPATH", "").split(os.pathsep) if p]
    kept = {k: v for k, v in outer.items() if k in _KEPT or k.startswith(_KEPT_PREFIXES)}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([root, *given]),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _granted(wanted: int) -> int:
    """No more memory than the box can spare, so that nobody else is pushed out by a model that nobody knows."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        spare = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        return min(wanted, int(spare * SPARE_SHARE))
    return wanted


def _waited_s(pid: int) -> float:
    """How long the threads of a process stood ready without a processor, together; 0 where the kernel does not say."""
    waited_ns = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        for place in Path(f"/proc/{pid}/task").iterdir():
            waited_ns += int((place / "schedstat").read_text().split()[1])
    return waited_ns / 1e9


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
