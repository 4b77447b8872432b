"""Clocks and threads, as the manager waits for them: a thin port, so that tests can turn the hands."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Clock(Protocol):
    """Time, and waiting for it."""

    def now(self) -> float:
        """Monotonic seconds."""

    def wall(self) -> float:
        """Seconds since the epoch."""

    async def wait(self, event: asyncio.Event, until: float) -> None:
        """Until the event is set, or `now()` is `until` (infinity: the event alone)."""

    def limit(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """A block that is cancelled after so long, and then raises `TimeoutError`."""


class SystemClock:
    """The real one."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def wait(self, event: asyncio.Event, until: float) -> None:
        seconds = None if math.isinf(until) else max(0.0, until - self.now())
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return

    def limit(self, seconds: float) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(seconds)


async def in_thread(
    call: Callable[[*Arguments], T], *arguments: *Arguments, stop: threading.Event | None = None
) -> T:
    """Run a blocking call in a thread. When cancelled, set `stop`, and wait until it has ended."""
    return await to_end(asyncio.ensure_future(asyncio.to_thread(call, *arguments)), stop)


async def to_end(task: asyncio.Future[T], stop: threading.Event | None = None) -> T:
    """What it ends with, however often this wait is cancelled meanwhile: for work that must not stop half way."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
            if stop is not None:
                stop.set()
    if cancelled:
        if not task.cancelled():
            task.exception()  # heard
        raise asyncio.CancelledError
    return task.result()
