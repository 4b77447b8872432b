"""Starts the process of a version, keeps the last lines that it says, and tells how it ended.

It gets an environment of its own making, no descriptors but its socket, and no terminal. It stays in our session: a
session of its own would be a scheduling group of its own on Linux with autogroups, in which nice 19 is worth nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from typing import cast

from penstock_models.children import command, ending, environment
from penstock_models.errors import one_line

CHILD = "penstock_models.isolation.child"
MAX_LAST_WORDS = 2000  # bytes of what it said on standard output and error
LAST_WORDS_S = 0.5  # for them to be read after its end
_SHOWN = 300


class Child(asyncio.SubprocessProtocol):
    """A running process. `ended` is done when it is gone, reaped, and its last words are read."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last_words = b""
        self.ended: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def start(cls, threads: int) -> tuple[Child, socket.socket]:
        """Start a process, and give our end of its socket.

        It ends with the thread that calls this, should that not outlive it: the thread of the event loop.

        Raises:
            OSError: the system cannot start one.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            _, child = await loop.subprocess_exec(
                cls,
                *command(CHILD, theirs.fileno(), os.getpid(), threads),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=environment(),
                cwd="/",
                process_group=0,  # ^C on our terminal is for us
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return child, ours

    @property
    def pid(self) -> int:
        return self._transport.get_pid()

    def kill(self) -> None:
        """End it, if it is there."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self._transport.get_returncode() is None:
            # Not the transport's own way, which looks for its end first, and may take it from who waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def epitaph(self) -> str:
        """How it ended, with its last words."""
        code = self._transport.get_returncode()
        how = "ended" if code is None else f"ended {ending(code)}"
        if code == -signal.SIGKILL:
            how += ", from outside or for want of memory"
        said = one_line(self._last_words.decode(errors="replace"), MAX_LAST_WORDS)
        return f"{how}; it said: {said[-_SHOWN:]}" if said else how

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._last_words = (self._last_words + data)[-MAX_LAST_WORDS:]

    def process_exited(self) -> None:
        self._loop.call_later(LAST_WORDS_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport.close()
        if not self.ended.done():
            self.ended.set_result(None)
