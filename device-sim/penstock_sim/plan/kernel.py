"""Time in a simulation: events in order, and for each process an event loop that is busy while it works.

A process handles one event at a time. Its clock stands at what it is doing: an event that comes while it is busy is handled
when it is free, and what it does takes time (`spend`). To code that asks asyncio for the running loop the kernel is that
loop, at the clock of the process whose turn it is, so that the gateway's own scheduler runs here as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from heapq import heappop, heappush
from typing import Any, cast

Act = Callable[..., None]


class Process:
    """One event loop. `now` is its clock in seconds, `spent` what it worked."""

    __slots__ = ("now", "spent")

    def __init__(self) -> None:
        self.now = 0.0
        self.spent = 0.0


class Timer:
    """What `call_at` gives, as an `asyncio.TimerHandle`."""

    __slots__ = ("_act", "_when")

    def __init__(self, when: float, act: Act) -> None:
        self._when, self._act = when, cast("Act | None", act)

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        self._act = None

    def fire(self) -> None:
        if self._act is not None:
            self._act()


class Never:
    """A future that nobody ends: what a scheduler waits for while it works. An exception set here ends the simulation."""

    def done(self) -> bool:
        return False

    def set_exception(self, error: BaseException) -> None:
        raise error

    def __await__(self) -> Generator[Any, None, None]:
        yield self


class Kernel:
    """The events of all processes. Times never go back; of two at the same moment the one that was noted first goes first."""

    def __init__(self) -> None:
        self.running = Process()
        self._events: list[tuple[float, int, Process, Act, tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: float, process: Process, act: Act, *arguments: Any) -> None:
        """Have a process do something, when it is free from `when` on."""
        self._order += 1
        heappush(self._events, (when, self._order, process, act, arguments))

    def next_at(self) -> float:
        """When the next event is due; infinite where there is none."""
        return self._events[0][0] if self._events else float("inf")

    def step(self) -> None:
        """Handle the next event."""
        when, _, process, act, arguments = heappop(self._events)
        self.turn(process, when)
        act(*arguments)

    def turn(self, process: Process, when: float) -> None:
        """It is the turn of a process, which is free from `when` on or later."""
        if process.now < when:
            process.now = when
        self.running = process

    # --- as an event loop ----------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.running.now

    def call_at(self, when: float, act: Act, *arguments: Any) -> Timer:
        timer = Timer(when, act)
        self.at(when, self.running, timer.fire)
        return timer

    def create_future(self) -> Never:
        return Never()

    def __enter__(self) -> Kernel:
        self._outside = asyncio._get_running_loop()
        asyncio._set_running_loop(cast(asyncio.AbstractEventLoop, self))
        return self

    def __exit__(self, *error: object) -> None:
        asyncio._set_running_loop(self._outside)
