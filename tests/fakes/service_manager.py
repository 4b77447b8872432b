"""The part of systemd that a `Type=notify` unit with a watchdog talks to: it starts a command, listens for its signs of
life, and kills and starts it again when they stay away."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


class ServiceManager:
    """One unit. `states` are what all its starts sent, with the time of each."""

    def __init__(self, command: Sequence[str], folder: Path, watchdog_s: float) -> None:
        self._command = list(command)
        self._path = str(folder / "notify")
        self._log = folder / "unit.log"
        self._watchdog_s = watchdog_s
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._listener.bind(self._path)
        self._process: subprocess.Popen[bytes] | None = None
        self.states: list[tuple[float, str]] = []
        self.restarts: list[float] = []

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> None:
        env = os.environ | {
            "NOTIFY_SOCKET": self._path,
            "WATCHDOG_USEC": str(int(self._watchdog_s * 1e6)),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=env)
        self._alive = time.monotonic()

    def serve(self, seconds: float, until: str = "") -> bool:
        """Listen for so long, or until a state comes: whether it did. What gives no sign of life is restarted."""
        end = time.monotonic() + seconds
        ready = False
        while (now := time.monotonic()) < end:
            deadline = self._alive + self._watchdog_s if ready else end
            if now >= deadline:
                self.restart()
                ready = False
                continue
            self._listener.settimeout(min(end, deadline) - now)
            try:
                state = self._listener.recv(4096).decode()
            except TimeoutError:
                continue
            self.states.append((time.monotonic(), state))
            self._alive = time.monotonic()
            ready = ready or state == "READY=1" or state == "WATCHDOG=1"
            if until and state == until:
                return True
        return not until

    def restart(self) -> None:
        self.restarts.append(time.monotonic())
        self.kill()
        self.start()

    def stop(self) -> int:
        """SIGTERM, as `systemctl stop` does."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def __enter__(self) -> ServiceManager:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._listener.close()
