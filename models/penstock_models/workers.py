"""Worker threads for an event loop: jobs go in by a queue, answers come back as futures.

A worker knows which job it is at, so that a job is ended only while it runs, never the one after it. Time limits and
what a stuck thread means are the executor's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from penstock_models.background import step_back
from penstock_models.slices import LONGEST_S, ask_for_slice

T = TypeVar("T")


class Job(Generic[T]):
    """A call for a worker. `done` gets its answer or what it raised, and may be cancelled by whoever waits for it;
    `over` says that no worker is at it any more, and is never cancelled.

    `worker` and `begun` (`time.monotonic()`) are set when a worker takes it; the loop is not woken for that. `timer`
    is the caller's watch over it, cancelled when it is over.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self.call = call
        self._loop = asyncio.get_running_loop()
        self.worker: Worker | None = None
        self.begun = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.done: asyncio.Future[T] = self._loop.create_future()
        self.over: asyncio.Future[None] = self._loop.create_future()

    def settle(self, value: Any, error: BaseException | None = None) -> None:
        """The job is over. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self.finish, value, error)

    def finish(self, value: Any, error: BaseException | None = None) -> None:
        """The same, on the loop; the first one counts."""
        if self.over.done():
            return
        self.over.set_result(None)
        if self.timer is not None:
            self.timer.cancel()
        if self.done.done():
            return
        if error is None:
            self.done.set_result(value)
        else:
            self.done.set_exception(error)


Jobs = queue.SimpleQueue[Job[Any] | None]


class Worker:
    """One daemon thread that takes jobs until it meets None or was abandoned."""

    def __init__(self, jobs: Jobs, name: str, *, behind: bool = False) -> None:
        """Start the thread, with the caller's priority, or behind everybody else's."""
        self._jobs = jobs
        self._behind = behind
        self._lock = threading.Lock()
        self._at: Job[Any] | None = None
        self._gone: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def end(self, job: Job[Any], terminate: Callable[[int | None], None]) -> None:
        """Call `terminate` with this thread's identity, if it is still at that job."""
        with self._lock:
            if self._at is job:
                terminate(self._thread.ident)

    def abandon(self, job: Job[Any], came_back: Callable[[], None]) -> bool:
        """Take no job after this one; `came_back` is called should it ever end. False where it has ended already."""
        with self._lock:
            if self._at is not job:
                return False
            self._gone = came_back
            return True

    def _work(self) -> None:
        if self._behind:
            step_back()
        else:
            ask_for_slice(LONGEST_S)
        while (job := self._jobs.get()) is not None:
            if job.done.cancelled():
                job.settle(None)
                continue
            with self._lock:
                self._at = job
            job.begun, job.worker = time.monotonic(), self
            answer, error = _answer(job.call)
            with self._lock:
                self._at = None
                gone = self._gone
            job.settle(answer, error)
            if gone is not None:
                gone()
                return


def _answer(call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # a worker must outlive every fault of a job
        return None, error
