"""From a client's own thread to the event loop, with one wake-up for everything that gathered meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Crossing(Generic[T]):
    """`put` from any thread; `deliver` is called on the loop with all that is there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[T]], None]) -> None:
        self._loop = loop
        self._deliver = deliver
        self._items: deque[T] = deque()
        self._woken = False

    def put(self, item: T) -> None:
        self._items.append(item)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._carry)
            except RuntimeError:  # the loop is closed: nobody listens any more
                pass

    def _carry(self) -> None:
        self._woken = False
        items = self._items
        self._deliver([items.popleft() for _ in range(len(items))])
