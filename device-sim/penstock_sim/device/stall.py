"""When a device that hears nothing of its kept frames sends one of them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

STALL_S, LONGEST_STALL_S = 2.0, 10.0
"""How long to wait for a receipt before one frame is sent again: doubled each time, and well below a route's `gap_s`."""


class Stall:
    """A clock that runs from a sending to the next progress, and calls `probe` each time that takes too long."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._wait_s = STALL_S
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Something was sent; a clock that runs goes on."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._ring)

    def progress(self, waits: bool, window: int) -> None:
        """A receipt came; `waits` where more are to come. `window` 0 asks for patience."""
        self.stop()
        self._wait_s = STALL_S if window else LONGEST_STALL_S
        if waits:
            self.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        self._wait_s = min(2 * self._wait_s, LONGEST_STALL_S)
        self._probe()
