"""Lets processes that nobody waits for run in the gaps of those that serve: they are stopped while few slots are free.

A nice value does not do that: a thread that wakes up is put behind one that computes as readily as behind the one that
should give way (decision 015 has the measurements).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

PAUSE_S = 0.09
BREATH_S = 0.01
"""After so long a pause they run for a moment, so that they end also beside slots that are always busy."""

SPARE = 2
"""So many slots are free where they run: one for them, and one for what comes meanwhile."""

Send = Callable[[signal.Signals], None]
"""Sends a process a signal, while it is there."""


class Gaps:
    """How many of the slots are busy, and the processes that run while few are. Used from one event loop.

    `slots` is how many batches run at once where such a process comes to serve.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._most = max(0, slots - SPARE)
        self._busy = 0
        self._processes: set[Send] = set()
        self._timer: asyncio.TimerHandle | None = None  # the end of a pause, or of a breath
        self._stopped_since = 0.0  # 0 where they are not stopped
        self._stopped_s = 0.0

    @property
    def running_s(self) -> float:
        """A clock that stands still while they are stopped; the seconds of two looks at it make a time limit. From any thread."""
        since = self._stopped_since
        return (since or time.monotonic()) - self._stopped_s

    def begin(self) -> None:
        """A slot is busy."""
        self._busy += 1
        if self._processes and not self._stopped_since:
            self._look()

    def end(self) -> None:
        """A slot is free. What is begun at once keeps the processes stopped."""
        self._busy -= 1
        if self._stopped_since:
            asyncio.get_running_loop().call_soon(self._look)

    @contextlib.contextmanager
    def within(self, process: Send) -> Iterator[None]:
        """Meanwhile this process runs in the gaps only."""
        self._processes.add(process)
        if self._stopped_since:
            process(signal.SIGSTOP)
        else:
            self._look()
        try:
            yield
        finally:
            self._processes.discard(process)
            process(signal.SIGCONT)

    async def wait(self, done: asyncio.Future[Any], seconds: float) -> bool:
        """Wait for what such a process does; whether it did within so many seconds of `running_s`."""
        until = self.running_s + seconds
        while not done.done() and (left := until - self.running_s) > 0:
            await asyncio.wait([done], timeout=left)
        return done.done()

    def _look(self) -> None:
        if self._busy <= self._most:
            if self._stopped_since:
                self._go_on()
        elif self._processes and self._timer is None:
            self._stop()

    def _stop(self) -> None:
        self._stopped_since = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._breathe)
        for process in self._processes:
            process(signal.SIGSTOP)

    def _go_on(self) -> None:
        self._stopped_s += time.monotonic() - self._stopped_since
        self._stopped_since = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for process in self._processes:
            process(signal.SIGCONT)

    def _breathe(self) -> None:
        self._go_on()
        self._timer = asyncio.get_running_loop().call_later(BREATH_S, self._breathed)

    def _breathed(self) -> None:
        self._timer = None
        self._look()
