"""What a vetting child says while it works, and what it means where it ends without a verdict.

Owns the bounds of what is listened to, and the reasons of those ends. Starting and ending the child is `attempt`'s.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from penstock_models.children import ending
from penstock_models.errors import one_line, out_of_memory
from penstock_models.gaps import Gaps
from penstock_models.vetting.verdict import (
    Limits,
    Progress,
    Reason,
    Said,
    Vetted,
    over_memory,
    refused,
    tidy,
)

Advance = Callable[[int, int], None]

MAX_LINE = 256 * 1024
MAX_TAIL = 4096
STARVED_SHARE = 0.5  # of its wall time; from there on the box was too busy, and the model may be a good one


class Ended(NamedTuple):
    """How a child ended without a verdict. `code` as of `subprocess`; `tail` the end of its standard error; `waited_s`
    how long it stood ready and got no processor."""

    code: int
    stage: str
    tail: str
    late: bool = False
    flooded: bool = False
    waited_s: float = 0.0


class Listener:
    """What a child said so far, within bounds."""

    def __init__(self, advance: Advance | None) -> None:
        self.verdict: Vetted | None = None
        self.stage = "starting"
        self.late = False
        self.flooded = False
        self._advance = advance
        self._line = b""
        self._tail = b""
        self._decoder = msgspec.json.Decoder[Said](Said)

    def tail(self) -> str:
        return self._tail.decode("utf-8", "replace")

    def listen(self, process: subprocess.Popen[bytes], words: IO[bytes], wall_s: float, gaps: Gaps) -> None:
        """Until both pipes end, the time is over in which it was not stopped, or it says more than a child ever has to say."""
        until = gaps.running_s + wall_s
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(words, selectors.EVENT_READ, self._said)
            selector.register(process.stderr, selectors.EVENT_READ, self._complained)
            while selector.get_map() and not (self.late or self.flooded):
                left = until - gaps.running_s
                ready = selector.select(max(0.0, left))
                self.late = left <= 0
                for key, _ in ready:
                    chunk = os.read(key.fd, 65536)
                    if chunk:
                        key.data(chunk)
                    else:
                        selector.unregister(key.fileobj)

    def _said(self, chunk: bytes) -> None:
        *whole, self._line = (self._line + chunk).split(b"\n")
        self.flooded = len(self._line) > MAX_LINE
        for data in whole:
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                match self._decoder.decode(data):
                    case Vetted() as verdict:
                        self.verdict = tidy(verdict)
                    case Progress(stage, done, total):
                        self.stage = one_line(stage)
                        if done and self._advance:
                            self._advance(done, total)

    def _complained(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-MAX_TAIL:]


def conclude(ended: Ended, shown: str, limits: Limits) -> Vetted:
    """What the end of a child that gave no verdict says about the model."""
    reason, what = _meaning(ended, limits)
    return refused(reason, f"{shown}: {what}")


def _meaning(ended: Ended, limits: Limits) -> tuple[Reason, str]:
    stage = f"while {ended.stage}"
    last = one_line(ended.tail.strip().rpartition("\n")[2][-200:])
    if ended.late and ended.waited_s > STARVED_SHARE * limits.wall_s:
        waited = f"waited {ended.waited_s:.0f} of {limits.wall_s:g} s for a processor"
        return "starved", f"{waited}, {stage}; try again when the box is less busy"
    if ended.late:
        return "endless", f"was not done after {limits.wall_s:g} s, {stage}"
    if ended.flooded:
        return "internal", f"the child said more than {MAX_LINE} bytes {stage}"
    if ended.code == -signal.SIGXCPU:
        return "endless", f"used {limits.cpu_s} s of processor time and was not done, {stage}"
    if out_of_memory(ended.tail):
        return "memory", over_memory(limits.memory_bytes, ended.stage, ended.tail)
    if ended.code == -signal.SIGKILL:
        return "memory", f"was killed {stage}, as the kernel does where the box's memory runs out"
    if ended.code < 0:
        return "crashed", f"ended {ending(ended.code)} {stage} {last}"
    return "internal", f"the child left with code {ended.code} {stage}: {last}"


def waited_s(pid: int) -> float:
    """How long the threads of a process stood ready without a processor, together; 0 where the kernel does not say."""
    waited_ns = 0
    with contextlib.suppress(OSError, IndexError, ValueError):
        for place in Path(f"/proc/{pid}/task").iterdir():
            waited_ns += int((place / "schedstat").read_text().split()[1])
    return waited_ns / 1e9
