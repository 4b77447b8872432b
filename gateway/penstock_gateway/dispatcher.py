"""Hands batches of waiting frames to the executor, as many at a time as it has threads.

The dispatcher acts; whose turn it is, `ModelQueue` decides, and how long a run takes, `RunTime` predicts. Nothing
polls: a batch starts when frames come (`kick`), when a batch ends, or not at all; one timer stands at the earliest
deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from penstock_gateway.frames import NO_DEADLINE, Frame
from penstock_gateway.ledger import Fate
from penstock_gateway.logs import Log
from penstock_gateway.model_queue import ModelQueue
from penstock_models.items import Executor, Outcome, Refusal, ServableInfo

BATCH_S = 0.025
"""A batch is not made longer than this: a bound on what a full queue adds to the wait of the next frame."""

SHARED_S = 0.001
"""Work that is longer than this is shared among the free slots: below it, a second hop costs more than it saves."""

BATCH_ITEMS = 64

FIRST_TRY_S = 0.25
"""A run that is not a frame's last try is given up after this: its neighbours wait for no longer than that."""

IN_QUEUE: Fate = ("expired", "in_queue")
PREDICTED_LATE: Fate = ("expired", "predicted_late")
HUNG: Fate = ("failed", "model_timeout")
SHUTDOWN: Fate = ("dropped", "shutdown")

log = Log(__name__)


class RunTime:
    """Predicts seconds per item from what was measured: an exponential mean, started by the warm-up's figure.

    A prediction that makes every frame late is never corrected by a run, so after `RETRY_S` without one it is not
    believed for one batch.
    """

    RETRY_S = 1.0
    WEIGHT = 0.1

    def __init__(self, item_s: float) -> None:
        self.item_s = item_s
        self._last_run = 0.0
        self._timed_out = False

    def batch_limit(self, waiting: int, slots: int) -> int:
        """How many of the waiting items go into one call, where so many slots are free.

        One call for several items pays where the model itself takes one at a time, too: what it saves is hops.
        """
        item_s = max(self.item_s, 1e-6)
        share = max(-(-waiting // slots), int(SHARED_S / item_s))
        return max(1, min(share, int(BATCH_S / item_s), BATCH_ITEMS))

    def predict(self, items: int, now: float) -> float:
        """Seconds for a batch of `items`; 0 when the prediction has not been tried for too long."""
        return self.item_s * items if now - self._last_run < self.RETRY_S else 0.0

    def ran(self, items: int, seconds: float, now: float, timed_out: bool = False) -> None:
        """Learn from a run. One that was ended tells nothing of the next frame; two in a row tell of a slow model."""
        if not timed_out or self._timed_out:
            self.item_s += self.WEIGHT * (seconds / items - self.item_s)
        self._timed_out = timed_out
        self._last_run = now

    def timeout_s(self, items: int, last_try: bool = True) -> float:
        """When a run counts as hung: five times the prediction, at most 60 s, and at least 1 s where it is the last try.

        A batch, and the first run alone of a frame of a batch that hung, are given up sooner: what is given up there
        is run again.
        """
        return min(60.0, max(1.0 if last_try else FIRST_TRY_S, 5 * self.item_s * items))


class ModelRun:
    """One loaded version with its waiting frames."""

    def __init__(self, info: ServableInfo) -> None:
        self.info = info
        self.queue = ModelQueue(one_per_stream=info.stateful)
        self.run_time = RunTime(info.p50_ms / 1e3)


class Suspect(NamedTuple):
    """A frame of a batch that hung. It is run alone, and its stream waits for it."""

    model: ModelRun
    frame: Frame
    last_try: bool = False


class Batch(NamedTuple):
    """Frames that run, since `began` (the loop's clock). `suspect` is the one that runs alone."""

    model: ModelRun
    frames: list[Frame]
    began: float
    suspect: Suspect | None

    @property
    def last_try(self) -> bool:
        """Whether what hangs now is the guilty frame."""
        return self.suspect.last_try if self.suspect is not None else len(self.frames) == 1


class Dispatcher:
    """Runs the batches of all models on one executor.

    A batch that hangs is ended and taken apart: its frames run alone, one of them at a time, so that the other slots
    go on with the frames of healthy streams and only the guilty frame is `failed: model_timeout`.

    Args:
        slots: batches at a time: the executor's threads.
        on_outcomes: gets every batch with its outcomes, on the event loop.
        on_settled: gets every frame that is settled without a run, with its fate.
    """

    def __init__(
        self,
        executor: Executor,
        slots: int,
        on_outcomes: Callable[[ModelRun, list[Frame], Sequence[Outcome]], None],
        on_settled: Callable[[list[Frame], Fate], None],
    ) -> None:
        self.models: list[ModelRun] = []
        self._executor = executor
        self._free = slots
        self._slots = slots
        self._on_outcomes = on_outcomes
        self._on_settled = on_settled
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._running: dict[asyncio.Future[list[Outcome]], Batch] = {}
        self._failed: asyncio.Future[None] | None = None
        self._suspects: deque[Suspect] = deque()
        self._trying = False

    async def run(self) -> None:
        """Own the batches until cancelled. An exception of a callback ends it."""
        self._failed = asyncio.get_running_loop().create_future()
        try:
            self.kick()
            await self._failed
        finally:
            self._failed = None  # what still becomes durable waits for the next start
            self._disarm()
            running, self._running = self._running, {}
            for future, batch in running.items():
                future.cancel()
                self._on_settled(batch.frames, SHUTDOWN)
            self._on_settled([suspect.frame for suspect in self._suspects], SHUTDOWN)
            self._suspects.clear()

    def kick(self) -> None:
        """Start batches while there are frames and free slots. Call it after a burst of pushes."""
        if self._failed is None:
            return
        now = asyncio.get_running_loop().time()
        if self._free and not self._trying and (suspect := self._next_suspect(now)) is not None:
            self._trying = True
            self._start(Batch(suspect.model, [suspect.frame], now, suspect))
        while self._free and (model := self._choose()) is not None:
            frames = self._form(model, now)
            if frames:
                self._start(Batch(model, frames, now, None))
        self._arm()

    def _start(self, batch: Batch) -> None:
        """Give a batch to the executor. No task of its own: a turn of the loop costs about as much as the hop itself."""
        self._free -= 1
        self._idle.clear()
        items = [frame.item for frame in batch.frames if frame.item is not None]
        timeout_s = batch.model.run_time.timeout_s(len(items), batch.last_try)
        try:
            future = self._executor.run(batch.model.info.digest, items, timeout_s)
        except Exception as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
        self._running[future] = batch
        future.add_done_callback(self._ended)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until nothing waits and nothing runs; False when that takes longer than `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self._done():
                    self._idle.clear()
                    await self._idle.wait()
        return self._done()

    def _done(self) -> bool:
        waiting = any(model.queue.waiting for model in self.models)
        return not waiting and not self._suspects and self._free == self._slots

    def _choose(self) -> ModelRun | None:
        """The next model with waiting frames, round robin."""
        for i in range(len(self.models)):
            model = self.models[(self._next + i) % len(self.models)]
            if model.queue.ready:
                self._next = (self._next + i + 1) % len(self.models)
                return model
        return None

    def _form(self, model: ModelRun, now: float) -> list[Frame]:
        limit = model.run_time.batch_limit(model.queue.waiting, self._free)
        items = min(limit, model.queue.waiting)
        taken = model.queue.take(limit, now, model.run_time.predict(items, now))
        if taken.in_queue:
            self._on_settled(taken.in_queue, IN_QUEUE)
        if taken.predicted_late:
            self._on_settled(taken.predicted_late, PREDICTED_LATE)
        for frame in taken.batch:
            frame.stream.lane.begin(frame)
        return taken.batch

    def _ended(self, future: asyncio.Future[list[Outcome]]) -> None:
        batch = self._running.pop(future, None)
        if batch is None or self._failed is None:
            return
        try:
            self._settle(batch, future)
            self.kick()
        except Exception as error:  # the owner's callbacks: `run` raises it
            if not self._failed.done():
                self._failed.set_exception(error)

    def _settle(self, batch: Batch, future: asyncio.Future[list[Outcome]]) -> None:
        self._free += 1
        if batch.suspect is not None:
            self._trying = False
        model, frames, outcomes = batch.model, batch.frames, _outcomes(batch, future)
        now = asyncio.get_running_loop().time()
        hung = [frame for frame, outcome in zip(frames, outcomes, strict=True) if _suspect(outcome)]
        model.run_time.ran(len(frames), now - batch.began, now, bool(hung))
        if hung and not batch.last_try:
            self._suspect(model, hung, alone=batch.suspect is not None)
            outcomes = [outcome for outcome in outcomes if not _suspect(outcome)]
            frames = [frame for frame in frames if frame not in hung]
        self._on_outcomes(model, frames, outcomes)
        self._release(model, frames)
        if self._free == self._slots:
            self._idle.set()

    def _release(self, model: ModelRun, frames: list[Frame]) -> None:
        """Let the streams of settled frames stand in line again, but for those of which another frame is suspected."""
        held = {suspect.frame.stream for suspect in self._suspects}
        model.queue.release([frame for frame in frames if frame.stream not in held])

    def _next_suspect(self, now: float) -> Suspect | None:
        """The next one that can still be answered in time. Of the others, one that hung alone is the guilty one."""
        while self._suspects:
            suspect = self._suspects.popleft()
            if suspect.frame.deadline >= now:
                return suspect
            self._on_settled([suspect.frame], HUNG if suspect.last_try else IN_QUEUE)
            self._release(suspect.model, [suspect.frame])
        return None

    def _suspect(self, model: ModelRun, hung: list[Frame], alone: bool) -> None:
        """Have frames run alone: those that did for the first time, sooner than one that hung alone already.

        A frame's stream keeps its order: nothing of it runs before the frame has its fate.
        """
        follows = any(suspect.frame.stream is hung[0].stream for suspect in self._suspects)
        if alone and follows:
            self._suspects.appendleft(Suspect(model, hung[0], last_try=True))
        else:
            self._suspects.extend(Suspect(model, frame, last_try=alone) for frame in hung)

    def _arm(self) -> None:
        """One timer at the earliest deadline of all waiting frames."""
        earliest = min((m.queue.next_deadline() for m in self.models if m.queue.waiting), default=NO_DEADLINE)
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
        now = asyncio.get_running_loop().time()
        for model in self.models:
            if expired := model.queue.expire(now):
                self._on_settled(expired, IN_QUEUE)
        self._arm()


def _outcomes(batch: Batch, future: asyncio.Future[list[Outcome]]) -> list[Outcome]:
    """What the executor gave. Whatever it raised, these frames need a fate and the others a gateway."""
    try:
        return future.result()
    except (Exception, asyncio.CancelledError) as error:
        log.exception("batch failed", model=batch.model.info.name)
        return [Refusal("failed", "internal", str(error))] * len(batch.frames)


def _suspect(outcome: Outcome) -> bool:
    return isinstance(outcome, Refusal) and outcome.suspect
