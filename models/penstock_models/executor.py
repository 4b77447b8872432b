"""Runs batches on threads of this process, for asyncio: the `Executor` Protocol of `items`.

One hop to a thread a batch. The event loop keeps the time: a run beyond its limit is ended; a thread that does not come
back is abandoned (a daemon, it cannot hold up the end of the process) and replaced, a bounded number of times. Loading
has a thread of its own at low priority, so that it does not stand before runs.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from penstock_models.allocator import keep_freed_memory, return_freed_memory
from penstock_models.devices.cache import ModelCache
from penstock_models.errors import UsageError, told
from penstock_models.hosts import CLOSE_S, GRACE_S, PROBE_S
from penstock_models.images import MAX_PIXELS
from penstock_models.items import Item, Outcome, Refusal, ServableInfo
from penstock_models.loading import LoadedVersion, load_version
from penstock_models.servable import TIMED_OUT, Servable
from penstock_models.workers import Job, Jobs, Worker

T = TypeVar("T")

MAX_STUCK = 4  # abandoned threads of one version, after which its runs fail at once


class ThreadExecutor:
    """An `Executor` with worker threads of its own. Used from one event loop."""

    def __init__(
        self,
        threads: int | None = None,
        *,
        max_pixels: int = MAX_PIXELS,
        model_cache: ModelCache | None = None,
    ) -> None:
        """Start the threads.

        Args:
            threads: workers, each running one batch at a time with one intra-op thread; default: the usable cores.
            max_pixels: pictures beyond it are `rejected: pixels`.
            model_cache: where runtimes keep what they made of a model, for the next load; None for nowhere.
        """
        keep_freed_memory()
        self.threads = threads or _cores()
        self._max_pixels = max_pixels
        self._model_cache = model_cache
        self._jobs: Jobs = queue.SimpleQueue()
        self._loads: Jobs = queue.SimpleQueue()
        self._workers = [self._worker() for _ in range(self.threads)]
        self._loader = self._new_loader()
        self._passed_over: set[Worker] = set()
        self._ends: set[asyncio.Task[None]] = set()
        self._servables: dict[str, Servable] = {}
        self._grown: dict[str, int] = {}
        self._stuck: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._running: dict[Job[Any], Servable] = {}
        self._closed = False

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why the executor is not whole, a line for each version whose runs hang; empty when all is well."""
        with self._lock:
            stuck = self._stuck.copy()
        return tuple(
            f"{servable.info.name}: {stuck[digest]} of at most {MAX_STUCK} threads hang in its runs"
            for digest, servable in self._servables.items()
            if stuck[digest]
        )

    async def load(
        self, path: str, devices: Sequence[str] = (), expected_digest: str = "", cache_bytes: int = 0
    ) -> ServableInfo:
        """Load one version (a bundle, or a folder with a bare model file), prove its placement, run its golden samples.

        A cancelled load frees what it opened.

        Args:
            expected_digest: what the bundle's digest must be; "" for any.
            cache_bytes: of answers to keep for inputs that come again; 0 for none.

        Raises:
            BundleError, PlacementError: with a reason that names the file and what to do.
            UsageError: this very bundle is loaded already, or the executor is closed.
        """
        self._require_open()
        load = partial(
            load_version, max_pixels=self._max_pixels, model_cache=self._model_cache, runs=self.threads
        )
        job = Job(partial(load, path, devices, expected_digest=expected_digest, cache_bytes=cache_bytes))
        self._loads.put(job)
        try:
            servable, grown = await asyncio.shield(job.done)
        except asyncio.CancelledError:
            job.done.add_done_callback(self._discard)
            self._loop.call_later(GRACE_S, self._pass_over, job)
            raise
        if self._closed:  # meanwhile
            servable.close()
        self._require_open()
        digest = servable.info.digest
        if digest in self._servables:
            await self._free(servable)
            raise UsageError(f"{path}: {digest} is loaded already; unload it first")
        self._servables[digest] = servable
        self._grown[digest] = grown
        return servable.info

    def resident_bytes(self, digest: str) -> int:
        """What this process grew by when that version was loaded; 0 of one that is not. Runs beside it count in."""
        return self._grown.get(digest, 0)

    def gives_up(self, digest: str) -> bool:
        """Whether so many runs of a version hang that every other one fails at once."""
        with self._lock:
            return self._stuck[digest] >= MAX_STUCK

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> asyncio.Future[list[Outcome]]:
        """Run one batch. As many outcomes as items, in order; the future never raises for an item or a model.

        The limit counts from when a thread takes the batch. Of a batch that exceeds it every item that was not yet
        answered is `failed: model_timeout`; run each alone to find the guilty one.

        Raises:
            UsageError: nothing of that digest is loaded, or the executor is closed.
        """
        late: list[Outcome] = [TIMED_OUT] * len(items)
        return self.call(digest, partial(outcomes, items=list(items)), timeout_s, late)

    def call(self, digest: str, act: Callable[[Servable], T], timeout_s: float, late: T) -> asyncio.Future[T]:
        """Let a thread call `act` with a version, by the rules of `run`; `late` where it does not come back in time.

        Raises:
            UsageError: nothing of that digest is loaded, or the executor is closed.
        """
        self._require_open()
        servable = self._servables.get(digest)
        if servable is None:
            raise UsageError(f"no version {digest} is loaded; load its bundle first")
        return self._within(servable, partial(act, servable), timeout_s, late)

    async def unload(self, digest: str) -> None:
        """Let the runs of a version end within `CLOSE_S`, end the others, then free it and return its memory.

        A run that does not come back keeps its session alive; nothing else waits for it. The end goes on although the
        caller is cancelled.
        """
        servable = self._servables.pop(digest, None)
        if servable is None:
            return
        self._grown.pop(digest, None)
        end = self._loop.create_task(self._end(servable), name=f"unload {servable.info.name}")
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)
        await asyncio.shield(end)

    async def probe(self, digest: str) -> bool:
        """Run one golden sample (zeros without one) and say whether the answer was right; False if not loaded."""
        servable = self._servables.get(digest)
        if servable is None or self._closed:
            return False
        return await self._within(servable, servable.probe, PROBE_S, False)

    async def close(self) -> None:
        """Let running batches end within `CLOSE_S`, end the others, free every session. May be called twice."""
        self._closed = True
        await self._settle(CLOSE_S)
        for servable in self._servables.values():
            servable.terminate()
        await self._settle(2 * GRACE_S)
        if self._ends:  # they wait for a thread, which may not come back
            await asyncio.wait(self._ends, timeout=CLOSE_S)
        for _ in self._workers:
            self._jobs.put(None)
        self._loads.put(None)
        for servable in self._servables.values():
            servable.close()
        self._servables.clear()
        self._workers.clear()

    async def _end(self, servable: Servable) -> None:
        await self._settle(CLOSE_S, servable)
        servable.terminate()
        await self._settle(2 * GRACE_S, servable)
        self._stuck.pop(servable.info.digest, None)
        await self._free(servable)

    async def _free(self, servable: Servable) -> None:
        """Not on the loading thread: freeing holds the interpreter's lock, which a thread of low priority must not."""
        freed = Job(partial(_free, servable))
        self._jobs.put(freed)
        await asyncio.shield(freed.over)

    def _discard(self, loaded: asyncio.Future[LoadedVersion]) -> None:
        """Nobody wants it any more."""
        if loaded.cancelled() or loaded.exception() is not None:
            return
        if self._closed:  # its threads are gone
            loaded.result().servable.close()
        else:
            self._jobs.put(Job(partial(_free, loaded.result().servable)))

    def _pass_over(self, job: Job[LoadedVersion]) -> None:
        """A load that was given up and does not come back stands before no other one, a bounded number of times."""
        if self._closed or len(self._passed_over) >= MAX_STUCK:
            return
        loader = self._loader
        if loader.abandon(job, lambda: self._passed_over.discard(loader)):
            self._passed_over.add(loader)
            self._loader = self._new_loader()

    async def _settle(self, seconds: float, servable: Servable | None = None) -> None:
        """Wait for the runs of a version, or of all."""
        jobs = [job for job, of in self._running.items() if servable in (None, of)]
        running = [job.over for job in jobs if not job.over.done()]
        if running:
            await asyncio.wait(running, timeout=seconds)

    def _within(
        self, servable: Servable, call: Callable[[], T], timeout_s: float, late: T
    ) -> asyncio.Future[T]:
        """The call's answer; `late` where it did not come back, or too many threads are stuck in this version.

        The limit is kept although the caller is cancelled.
        """
        job = Job(call)
        if self.gives_up(servable.info.digest):
            job.finish(late)
            return job.done
        self._running[job] = servable
        job.over.add_done_callback(lambda _: self._running.pop(job, None))
        job.timer = self._loop.call_later(timeout_s, self._check, job, servable, timeout_s, late)
        self._jobs.put(job)
        return job.done

    def _check(self, job: Job[T], servable: Servable, timeout_s: float, late: T) -> None:
        """A limit may be over. The time before a worker took the job does not count."""
        worker = job.worker
        left = timeout_s if worker is None else job.begun + timeout_s - time.monotonic()
        if worker is None or left > 0:
            job.timer = self._loop.call_later(left, self._check, job, servable, timeout_s, late)
            return
        worker.end(job, servable.terminate)
        job.timer = self._loop.call_later(GRACE_S, self._give_up, job, worker, servable.info.digest, late)

    def _give_up(self, job: Job[T], worker: Worker, digest: str, late: T) -> None:
        """A run that was ended did not come back: its thread is replaced. If it ever does, it ends and is counted out."""

        def came_back() -> None:
            with self._lock:
                if self._stuck[digest]:  # else it was unloaded meanwhile
                    self._stuck[digest] -= 1

        with self._lock:
            self._stuck[digest] += 1
        if not worker.abandon(job, came_back):
            came_back()
            return
        if not self._closed:
            self._workers.remove(worker)
            self._workers.append(self._worker())
        job.finish(late)

    def _worker(self) -> Worker:
        return Worker(self._jobs, "penstock-run")

    def _new_loader(self) -> Worker:
        return Worker(self._loads, "penstock-load", behind=True)

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError("the executor is closed")


def outcomes(servable: Servable, items: list[Item]) -> list[Outcome]:
    """Run a batch; what is raised, which would be a fault of ours, becomes `failed: internal`."""
    try:
        return servable.run(items)
    except Exception as error:  # a fault of ours must not end the gateway, and must not look like the model's
        return [Refusal("failed", "internal", told(error))] * len(items)


def _free(servable: Servable) -> None:
    servable.close()
    return_freed_memory()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
