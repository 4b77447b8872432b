"""`ThreadHost`: one version on the threads of this process, as a `Host`; a thin face of a `ThreadExecutor`.

For a process that serves nothing else yet, and where isolation is not wanted. Several hosts share one executor, whose
end is its owner's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock_models.errors import UsageError
from penstock_models.executor import MAX_STUCK, ThreadExecutor
from penstock_models.items import Item, Outcome, Refusal, ServableInfo


class ThreadHost:
    """A `Host`. `resident_bytes` is what this process grew by when it was loaded."""

    def __init__(self, executor: ThreadExecutor, info: ServableInfo) -> None:
        """Face a version that the executor has loaded; `open` is the usual way in."""
        self.info = info
        self.resident_bytes = executor.resident_bytes(info.digest)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._executor = executor
        self._closed = False

    @classmethod
    async def open(
        cls,
        executor: ThreadExecutor,
        path: str,
        devices: Sequence[str] = (),
        *,
        expected_digest: str = "",
        cache_bytes: int = 0,
    ) -> ThreadHost:
        """Load a version on the executor's loading thread. A cancelled load leaves nothing.

        Raises:
            BundleError, PlacementError, UsageError: as `ThreadExecutor.load`.
        """
        return cls(executor, await executor.load(path, devices, expected_digest, cache_bytes))

    def run(self, items: Sequence[Item], timeout_s: float) -> asyncio.Future[list[Outcome]]:
        """As `Host.run`; the limit counts from when a thread takes the batch."""
        if self._closed:
            return self._refused(len(items))
        try:
            run = self._executor.run(self.info.digest, items, timeout_s)
        except UsageError:  # the executor was closed
            return self._refused(len(items))
        run.add_done_callback(lambda _: self._look())
        return run

    async def probe(self) -> bool:
        """Run a golden sample, and say whether the answer was right."""
        good = not self._closed and await self._executor.probe(self.info.digest)
        self._look()
        return good

    async def close(self) -> None:
        """Let running batches end within a bound, then free the version. What hangs in a run keeps its memory."""
        self._closed = True
        await self._executor.unload(self.info.digest)

    def _refused(self, count: int) -> asyncio.Future[list[Outcome]]:
        refused: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        refused.set_result([Refusal("failed", "not_ready", "the version is closed")] * count)
        return refused

    def _look(self) -> None:
        """So many runs that do not come back are the version's end."""
        if not self._closed and not self.lost.done() and self._executor.gives_up(self.info.digest):
            self.lost.set_result(f"{MAX_STUCK} of its runs do not come back")
