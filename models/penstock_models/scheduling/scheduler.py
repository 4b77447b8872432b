"""Hands batches of waiting requests to the executor, as many at a time as it has threads.

The scheduler acts; what is decided stands in the pure modules beside it. Nothing polls: a batch starts when requests
come (`kick`), when a batch ends, or not at all; one timer stands at the earliest deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from penstock_models.items import Executor, Outcome, Refusal
from penstock_models.scheduling.batch import Batch
from penstock_models.scheduling.prediction import TINY_S
from penstock_models.scheduling.quarantine import GUILTY, PROVEN, QUARANTINED, Quarantine
from penstock_models.scheduling.request import NO_DEADLINE, Flow, Request
from penstock_models.scheduling.runs import Turns, VersionRun
from penstock_models.scheduling.suspects import Suspect, Suspects

Fate = tuple[str, str]
"""(bucket, reason) in the ledger's words."""

IN_QUEUE: Fate = ("expired", "in_queue")
PREDICTED_LATE: Fate = ("expired", "predicted_late")
NOT_READY: Fate = ("failed", "not_ready")
SHUTDOWN: Fate = ("dropped", "shutdown")

SATURATED_S = 0.1
"""Slots that were busy for so long are all needed: batches become as large as pays. Before that one waits for no mates that
another slot could run."""

log = logging.getLogger(__name__)


class Target(Protocol):
    """What a request is for: a version, or a model of which one version runs the flow."""

    def run_for(self, flow: Flow) -> VersionRun | None: ...


OnOutcomes = Callable[[VersionRun, list[Any], Sequence[Outcome]], None]
OnSettled = Callable[[list[Any], Fate], None]


class Scheduler:
    """Runs the batches of all versions on one executor.

    A batch that fails as a whole is taken apart: its requests run alone, one of them at a time, so that the other slots
    go on with healthy flows and only the guilty request fails. What is guilty is quarantined.

    Args:
        slots: batches at a time: the executor's threads.
        on_outcomes: gets every batch with its outcomes, on the event loop.
        on_settled: gets every request that is settled without a run, with its fate.
    """

    def __init__(
        self, executor: Executor, slots: int, on_outcomes: OnOutcomes, on_settled: OnSettled
    ) -> None:
        self.runs: list[VersionRun] = []
        self.quarantine = Quarantine()
        self._executor = executor
        self._free = slots
        self._slots = slots
        self._on_outcomes = on_outcomes
        self._on_settled = on_settled
        self._turns = Turns()
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._running: dict[asyncio.Future[list[Outcome]], Batch] = {}
        self._failed: asyncio.Future[None] | None = None
        self._suspects = Suspects()
        self._busy_since: float | None = None  # every slot has been busy; None while one is idle

    async def run(self) -> None:
        """Own the batches until cancelled. An exception of a callback ends it."""
        self._failed = asyncio.get_running_loop().create_future()
        try:
            self.kick()
            await self._failed
        finally:
            self._failed = None  # what still comes waits for the next start
            self._disarm()
            running, self._running = self._running, {}
            for future, batch in running.items():
                future.cancel()
                self._on_settled(batch.requests, SHUTDOWN)
            self._on_settled([suspect.request for suspect in self._suspects.drain()], SHUTDOWN)

    def submit(self, target: Target, request: Request) -> None:
        """Queue a request; one that will not be run is settled at once. Call `kick` after a burst of them."""
        request.flow.target = target
        run = target.run_for(request.flow)
        if run is None:
            self._on_settled([request], NOT_READY)
        elif fate := self._refused(run, request):
            self._on_settled([request], fate)
        else:
            run.queue.push(request)

    def _refused(self, run: VersionRun, request: Request) -> Fate | None:
        """Why it would not be run, or hardly in time."""
        if not self.quarantine and not request.flow.waiting:
            return None
        now = self._now()
        if self.quarantine and request.item and self.quarantine.holds(run.info.digest, request.item, now):
            return QUARANTINED
        if request.deadline != NO_DEADLINE and run.too_late(request.flow, request.deadline, self._slots, now):
            return PREDICTED_LATE
        return None

    def withdraw(self, request: Request) -> bool:
        """Take out a request that waits: superseded, cancelled. False where it runs already, or is settled."""
        queue = request.flow.queue
        if not request.waiting or queue is None:
            return False
        queue.remove(request)
        self._changed.set()
        return True

    def kick(self) -> None:
        """Start batches while there are requests and free slots."""
        if self._failed is None:
            return
        now = self._now()
        self._expire_suspects(now)
        if self._free and (suspect := self._suspects.next()) is not None:
            self._start(suspect.run, [suspect.request], now, suspect)
        while self._free and (ready := [run for run in self.runs if run.ready]):
            run = self._turns.choose(ready, now)
            if requests := self._form(run, now):
                self._start(run, requests, now)
        if self._free:
            self._busy_since = None
        elif self._busy_since is None:
            self._busy_since = now
        self._arm()

    def give_up(self, run: VersionRun) -> None:
        """Nothing will run what waits there."""
        self._on_settled(run.queue.drain(), NOT_READY)
        self._changed.set()
        self.kick()

    async def retire(self, run: VersionRun) -> None:
        """Give a version no more work; what still waits for it fails. Returns when its last batch is done."""
        self.runs.remove(run)
        self._move_suspects(run)
        self.give_up(run)
        while run.running:
            self._changed.clear()
            await self._changed.wait()

    def _move_suspects(self, run: VersionRun) -> None:
        """Have other versions try the suspects of one that goes, where their flows have one now."""
        for suspect in self._suspects.move(run):
            self._on_settled([suspect.request], NOT_READY)
            self._release(run, [suspect.request])

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing waits and nothing runs; False when that takes longer than `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._done():
                    self._changed.clear()
                    await self._changed.wait()
        return self._done()

    def _done(self) -> bool:
        waiting = any(run.queue.waiting for run in self.runs)
        return not waiting and not self._suspects and self._free == self._slots

    def _form(self, run: VersionRun, now: float) -> list[Any]:
        taken = run.queue.take(run.plan(self._sharing(now), now), now)
        if taken.in_queue:
            self._late(run, taken.in_queue, IN_QUEUE, now)
        if taken.predicted_late:
            self._late(run, taken.predicted_late, PREDICTED_LATE, now)
        for request in taken.batch:
            request.begin()
        return taken.batch

    def _sharing(self, now: float) -> int:
        """How many slots share what waits: those that are free, and where one was idle a moment ago, all."""
        saturated = self._busy_since is not None and now - self._busy_since > SATURATED_S
        return self._free if saturated else self._slots

    def _late(self, run: VersionRun, requests: list[Any], fate: Fate, now: float) -> None:
        run.press(now)
        self._on_settled(requests, fate)

    def _start(
        self, run: VersionRun, requests: list[Any], now: float, suspect: Suspect | None = None
    ) -> None:
        """Give a batch to the executor. No task of its own: a turn of the loop costs about as much as the hop itself."""
        self._free -= 1
        run.running += 1
        run.used = now
        batch = Batch(run, requests, now, run.times.mean(len(requests)), suspect)
        run.virtual += batch.predicted_s / run.weight
        timeout_s = run.times.timeout_s(len(requests), batch.last_try)
        try:
            future = self._executor.run(run.info.digest, [request.item for request in requests], timeout_s)
        except Exception as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        self._running[future] = batch
        future.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[list[Outcome]]) -> None:
        batch = self._running.pop(future, None)
        if batch is None or self._failed is None:
            return
        try:
            self._settle(batch, _outcomes(batch, future))
            self.kick()
            self._changed.set()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The owner's callbacks raised: so does `run`."""
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _settle(self, batch: Batch, outcomes: Sequence[Outcome]) -> None:
        run, requests, now = batch.run, batch.requests, self._now()
        refusals = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
        self._account(batch, now, ended=any(refusal.suspect for refusal in refusals))
        if refusals:
            requests, outcomes = self._set_apart(batch, outcomes)
            self._quarantine(run, requests, outcomes, now, twice=batch.suspect is not None)
        run.answered += len(requests)
        self._on_outcomes(run, requests, outcomes)
        self._release(run, requests)

    def _account(self, batch: Batch, now: float, ended: bool) -> None:
        """Its slot is free; what it took is learned. `ended`: the executor broke it off."""
        run, count, took_s = batch.run, len(batch.requests), now - batch.began
        self._free += 1
        run.running -= 1
        if batch.suspect is not None:
            self._suspects.trying = None
        run.virtual += (took_s - batch.predicted_s) / run.weight
        run.times.ran(count, took_s, now, ended)
        run.sizes.observe(count)
        run.predicted.observe(took_s / max(batch.predicted_s, TINY_S))

    def _set_apart(self, batch: Batch, outcomes: Sequence[Outcome]) -> tuple[list[Any], Sequence[Outcome]]:
        """Keep back those that are to be tried alone; the others, and how they ended."""
        suspects = batch.suspects(outcomes)
        if not suspects:
            return batch.requests, outcomes
        self._suspects.add(suspects)
        if batch.run not in self.runs:
            self._move_suspects(batch.run)
        apart = {suspect.request for suspect in suspects}
        ended = [(r, o) for r, o in zip(batch.requests, outcomes, strict=True) if r not in apart]
        return [request for request, _ in ended], [outcome for _, outcome in ended]

    def _quarantine(
        self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome], now: float, twice: bool
    ) -> None:
        """Keep the items that the version failed at, where it works otherwise.

        Args:
            twice: they failed in a batch before, and alone now.
        """
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(outcome, Refusal) and outcome.reason in GUILTY:
                if run.answered >= PROVEN:
                    sure = twice or not outcome.suspect  # the runtime named this very item
                    self.quarantine.add(run.info.digest, request.item, now, sure)
                run.answered = -len(requests)  # the others of this batch are no new proof

    def _release(self, run: VersionRun, requests: list[Any]) -> None:
        """Let the flows of settled requests stand in line again, but for those with one that is suspected or held."""
        suspected = self._suspects.flows() if self._suspects else ()
        run.queue.release([r for r in requests if not r.flow.held and r.flow not in suspected])

    def _expire_suspects(self, now: float) -> None:
        """Settle those that can no longer be answered in time: of one that failed alone that is its fate."""
        for suspect in self._suspects.expire(now):
            failed = suspect.failed
            self._on_settled([suspect.request], (failed.bucket, failed.reason) if failed else IN_QUEUE)
            self._release(suspect.run, [suspect.request])

    def _arm(self) -> None:
        """One timer at the earliest deadline of all waiting requests."""
        earliest = self._suspects.next_deadline() if self._suspects else NO_DEADLINE
        for run in self.runs:
            if run.queue.waiting:
                earliest = min(earliest, run.queue.next_deadline())
        if self._timer is not None:
            if self._timer.when() <= earliest:
                return
            self._disarm()
        if earliest != NO_DEADLINE:
            self._timer = asyncio.get_running_loop().call_at(earliest, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        now = self._now()
        try:
            for run in self.runs:
                if expired := run.queue.expire(now):
                    self._late(run, expired, IN_QUEUE, now)
            self.kick()
            self._changed.set()
        except Exception as error:
            self._fail(error)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _outcomes(batch: Batch, future: asyncio.Future[list[Outcome]]) -> list[Outcome]:
    """What the executor gave. Whatever it raised, these requests need a fate and the others a scheduler."""
    try:
        return future.result()
    except (Exception, asyncio.CancelledError) as error:
        log.exception("batch of %s failed", batch.run.info.name)
        return [Refusal("failed", "internal", str(error))] * len(batch.requests)
