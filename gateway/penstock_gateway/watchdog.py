"""Tells systemd that the gateway is ready and alive: sd_notify(3), in its few lines.

systemd gives a socket's path in NOTIFY_SOCKET and, where the unit has a `WatchdogSec`, how long it waits for a sign of
life in WATCHDOG_USEC. The event loop itself gives it: one that is blocked gives none, and systemd starts the gateway
anew. Without systemd nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping

SIGNS = 3
"""Signs of life in the time that systemd waits: one may be late, or lost."""


class Watchdog:
    """The way to the service manager, as the environment names it."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        path = environment.get("NOTIFY_SOCKET", "")
        self._path = "\0" + path[1:] if path.startswith("@") else path
        ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "") if ours else ""
        self.period_s = int(microseconds) / 1e6 / SIGNS if microseconds.isdecimal() else 0.0

    def tell(self, state: str) -> None:
        """Send `READY=1`, `STOPPING=1` or the like; nothing where nobody listens. Never blocks."""
        if not self._path:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto(state.encode(), self._path)

    async def run(self) -> None:
        """Give signs of life until cancelled."""
        while self._path and self.period_s:
            self.tell("WATCHDOG=1")
            await asyncio.sleep(self.period_s)
