"""A program that a run starts, kills, pauses and starts again; it ends with the run, however that ends."""

from __future__ import annotations

import asyncio
import ctypes
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_STOP_S = 15.0
_LOG_TAIL = 2000
_PR_SET_PDEATHSIG = 1


class Child:
    """`log` gets what all its starts write. In a session of its own: a Ctrl-C in the terminal is ours to handle."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self._command, self._env = command, env
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """None while it does not run."""
        return self._process.pid if self.running and self._process is not None else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def returncode(self) -> int | None:
        return self._process.returncode if self._process is not None else None

    async def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )

    async def kill(self) -> None:
        """SIGKILL, as a crash or a power cut of this program alone."""
        if self.running and self._process is not None:
            self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> int:
        """SIGTERM, so that it drains; SIGKILL when that takes too long. Returns its exit code."""
        if self._process is None:
            return 0
        self.resume()
        self._signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self._process.wait(), _STOP_S)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()

    def ending(self) -> str:
        """Where its log is, and its last line."""
        lines = self.log.read_text(errors="replace")[-_LOG_TAIL:].strip().splitlines()
        return f"its log {self.log} ends with: {lines[-1]}" if lines else f"its log {self.log} is empty"

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            self._process.send_signal(number)


def _die_with_parent() -> Any:
    """What the child calls before it becomes the program: when we are killed, nobody is left to end it."""
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
