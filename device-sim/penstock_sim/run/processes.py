"""Worker processes: started, talked to in lines, ended with whoever started them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.run import wire

_COMMAND = (sys.executable, "-m", "penstock_sim.run.worker")
_LINE = 64 << 20
"""The longest line: the books of a worker's streams."""
_END_S = 5.0


class Worker:
    """One worker process. `last` is the newest of its `Progress` and `Second`s."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    def say(self, message: wire.ToWorker) -> None:
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(wire.line(message))

    async def heard(self) -> AsyncIterator[wire.Progress | wire.Second | wire.Done]:
        """What it says, up to and with its `Done`.

        Raises:
            UsageError: what the worker says is the user's to mend.
            PenstockError: it failed, or ended without a word.
        """
        assert self._process.stdout is not None
        while text := await self._process.stdout.readline():
            message = wire.from_worker.decode(text)
            if isinstance(message, wire.Failed):
                raise (UsageError if message.usage else PenstockError)(message.error)
            yield message
            if isinstance(message, wire.Done):
                return
        code = await self._process.wait()
        raise PenstockError(f"a process of the simulator ended with {code} before the end of the run")


@asynccontextmanager
async def workers(count: int) -> AsyncIterator[list[Worker]]:
    """So many worker processes; none is left behind."""
    found: list[asyncio.subprocess.Process] = []
    try:
        for _ in range(count):
            found.append(
                await asyncio.create_subprocess_exec(
                    *_COMMAND,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=_LINE,
                    start_new_session=True,
                )
            )
        yield [Worker(process) for process in found]
    finally:
        await asyncio.shield(asyncio.gather(*(_end(process) for process in found)))


async def _end(process: asyncio.subprocess.Process) -> None:
    """It ends at the end of its standard input; one that does not is killed."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_S if process.returncode is None else None)
    except TimeoutError:
        process.kill()
        await process.wait()
