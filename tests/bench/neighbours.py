"""Who loads and unloads a model for ever beside one that serves, and can be made to pause."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Protocol

import psutil

from penstock_models.loading import load_version
from penstock_models.serving.executor import Load, ServingExecutor
from penstock_models.store import open_version

SPAWN_S = 0.05


class Neighbour(Protocol):
    """`count` is how often it has loaded and unloaded."""

    count: int

    async def go_on(self) -> None: ...

    async def pause(self) -> None: ...


class Nothing:
    count = 0

    async def go_on(self) -> None: ...

    async def pause(self) -> None: ...


class InProcesses:
    """Loads in processes of their own, as versions are loaded beside others. A pause stops them where they are."""

    def __init__(self, executor: ServingExecutor, path: Path) -> None:
        self.count = 0
        self._executor = executor
        self._load = Load(path.stem, path, open_version(path).digest)
        self._may = asyncio.Event()
        self._closing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def go_on(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="loads in processes")
        self._signal(signal.SIGCONT)
        self._may.set()

    async def pause(self) -> None:
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._may.clear()
        async with self._closing:  # the end of a process has a time limit that goes on
            self._signal(signal.SIGSTOP)
        await asyncio.sleep(SPAWN_S)
        self._signal(signal.SIGSTOP)  # one that was just being started

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._signal(signal.SIGCONT)
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while True:
            await self._may.wait()
            await self._executor.load(self._load)
            try:
                await self._may.wait()
            finally:
                async with self._closing:
                    await self._executor.unload(self._load.digest)
            self.count += 1

    @staticmethod
    def _signal(number: signal.Signals) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)


class InThread:
    """Loads in a thread of this process that is like any other. A pause waits for the load that goes on.

    A load that is longer than a slice is met somewhere else each time: it goes on for a part of its time beforehand.
    """

    def __init__(self, path: str) -> None:
        self.count = 0
        self._path = Path(path)
        self._longest_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._on = False

    async def go_on(self) -> None:
        self._on = True
        self._task = asyncio.create_task(self._work(), name="loads in a thread")
        await asyncio.sleep(self._longest_s * (self.count * 0.618 % 1))

    async def pause(self) -> None:
        self._on = False
        assert self._task is not None
        await self._task

    async def _work(self) -> None:
        while self._on:
            began = time.monotonic()
            version = await asyncio.to_thread(load_version, str(self._path))
            await asyncio.to_thread(version.servable.close)
            self._longest_s = max(self._longest_s, time.monotonic() - began)
            self.count += 1
