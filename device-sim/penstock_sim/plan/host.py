"""A server in the simulation: a gateway, or a machine of the cloud tier, on one measured device.

It has the product's scheduler with its queues, turns, predictions and drops; what is simulated is the executor under it and
the journal (`slots`), and the event loop that everything goes through.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

from penstock_models.items import Executor, Outcome, ServableInfo
from penstock_models.scheduling.forming import batch_limit
from penstock_models.scheduling.queue import Plan as BatchPlan
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from penstock_sim.plan.kernel import Kernel, Process
from penstock_sim.plan.profile import ModelProfile, Profile
from penstock_sim.plan.slots import Delays, Slots
from penstock_sim.plan.work import Route, Sending

RESUME = 0.75
"""A route that was full is read again when it holds less than this share of its queue (`penstock_gateway.frames`)."""

BURST = 64
"""Frames that one read of a socket brings at most before batches are formed."""

SUPERSEDED: Fate = ("superseded", "newer_frame")
FULL: Fate = ("dropped", "full")

Told = Callable[["Frame", Fate, float], None]
"""What becomes of a frame, and when its result leaves the server (s)."""


class Lane(Share):
    """A route on this server: what it holds, and what waits upstream while it is full."""

    def __init__(self, route: Route) -> None:
        super().__init__()
        self.route = route
        self.frames = 0
        self.upstream: deque[Frame] = deque()
        self.line: dict[Frame, None] = {}


class Frame(Request):
    """One frame; `sent` is when its device meant to send it. `origin` is the frame of the gateway that this one, at a cloud
    tier, stands for; it brings its deadline along, any other one gets that of its stream when it arrives."""

    __slots__ = ("lane", "origin", "sending", "sent")

    def __init__(
        self, flow: Flow, lane: Lane, sending: Sending, sent: float, origin: Frame | None = None
    ) -> None:
        super().__init__(flow)
        self.lane, self.sending, self.sent, self.origin = lane, sending, sent, origin
        if origin is not None:
            self.deadline = self.due = origin.deadline


class CappedRun(VersionRun):
    """A version whose batches are no larger than `most`, 0 for as large as the gateway makes them."""

    def __init__(self, info: ServableInfo, most: int) -> None:
        super().__init__(info)
        self._most = most

    def plan(self, slots: int, now: float) -> BatchPlan:
        plan = super().plan(slots, now)
        if not self._most or plan.limit <= self._most:
            return plan
        return plan._replace(limit=self._most, floor=min(plan.floor, self._most))


class Host:
    """One server. Frames go in by `take`; `told` hears of each what became of it.

    Args:
        models: those that it serves.
        slots: batches at a time.
        most: of requests in a batch, 0 for no limit of the plan's.
        away: asked of each frame before it waits for its model here, whether it goes elsewhere.
    """

    def __init__(
        self,
        kernel: Kernel,
        profile: Profile,
        models: Sequence[str],
        slots: int,
        most: int,
        told: Told,
        seed: int,
        away: Callable[[Host, Frame], bool] | None = None,
    ) -> None:
        self.process = Process()
        self.profile = profile
        self.slots = Slots(kernel, self.process, profile, slots, seed)
        self.runs: dict[str, CappedRun] = {}
        self.committing_s = 0.0
        self._kernel, self._told, self._away = kernel, told, away
        facts = profile.facts
        self._ingest_s, self._publish_s = facts.ingest_ms / 1e3, facts.publish_ms / 1e3
        self._beside_s, self._cold = facts.beside_ms / 1e3, facts.cold
        self._journal = Delays(facts.journal_ms, facts.journal_p99_ms, f"{seed} journal")
        self._uncommitted: list[Frame] = []
        self._commits = False
        kernel.turn(self.process, 0.0)
        executor = cast(Executor, self.slots)
        self.scheduler = Scheduler(executor, slots, self._outcomes, self._settled)
        for name in models:
            self._serve(profile.model(name), most)
        self._running = self.scheduler.run()
        self._running.send(None)

    def close(self) -> None:
        """End the scheduler; what still waits or runs is settled as dropped at a shutdown."""
        self._kernel.turn(self.process, self.process.now)
        self._running.close()

    def take(self, frame: Frame) -> None:
        """A frame has come; call `kick` after a burst of them."""
        if frame.origin is None:
            frame.deadline = frame.due = self.process.now + frame.sending.deadline_s
        self.spend(self._ingest_s, self._beside_s)
        lane = frame.lane
        if lane.route.mode == "latest":
            self._take_latest(frame)
        elif lane.route.on_full == "wait" and (lane.upstream or lane.frames >= lane.route.queue):
            lane.upstream.append(frame)
        elif lane.route.on_full == "drop_newest" and lane.frames >= lane.route.queue:
            self._told(frame, FULL, self.process.now)
        else:
            self._accept(frame)

    def relay(self, frame: Frame) -> None:
        """The result of a frame that went elsewhere goes out."""
        self.spend(self._publish_s)
        self._let_go(frame)
        self._resume([frame])

    def kick(self) -> None:
        """Start what can be started."""
        self.scheduler.kick()

    def spend(self, seconds: float, beside: float = 0.0) -> None:
        """The event loop works for so long, and other processes on these cores for `beside`: longer the more is idle."""
        if self._cold > 1.0:
            longer = 1.0 + (self._cold - 1.0) * self.slots.idle()
            seconds, beside = seconds * longer, beside * longer
        self.process.now += seconds
        self.process.spent += seconds
        self.slots.steal(seconds + beside)

    def finish_at(self, model: str) -> float:
        """When a request that came now would probably be answered here (s)."""
        run = self.runs[model]
        waiting = run.queue.waiting + 1
        batch = batch_limit(run.times, waiting, self.slots.slots)
        waits = (waiting - batch) * run.times.item_s / self.slots.slots
        if self.slots.busy >= self.slots.slots:
            waits += (
                run.times.mean(batch) / self.slots.slots
            )  # until the first of those that run ends, at most
        return self.process.now + waits + run.times.upper(batch)

    def _serve(self, model: ModelProfile, most: int) -> None:
        warm = model.warm_ms()
        info = ServableInfo(
            model.name, model.version, model.name, model.placement, "", max(warm), False, warm[1], 0,
            batch_ms=warm,
        )  # fmt: skip
        run = self.runs[model.name] = CappedRun(info, most)
        self.slots.add(model)
        self.scheduler.runs.append(run)

    def _take_latest(self, frame: Frame) -> None:
        flow = frame.flow
        if flow.waiting:
            older = cast(Frame, flow.waiting[0])
            self.scheduler.withdraw(older)
            self._told(older, SUPERSEDED, self.process.now)
        self._submit(frame)

    def _accept(self, frame: Frame) -> None:
        """Journal a frame of an `every` route; it waits for its model once the commit is done."""
        frame.lane.frames += 1
        self._uncommitted.append(frame)
        if not self._commits:
            self._commit()

    def _commit(self) -> None:
        frames, self._uncommitted = self._uncommitted, []
        self._commits = True
        took = self._journal.take()
        self.committing_s += took
        self._kernel.at(self.process.now + took, self.process, self._committed, frames)

    def _committed(self, frames: list[Frame]) -> None:
        self._commits = False
        for frame in frames:
            lane = frame.lane
            if lane.route.on_full == "drop_oldest":
                lane.line[frame] = None
            self._submit(frame)
            while lane.route.on_full == "drop_oldest" and lane.frames > lane.route.queue:
                oldest = next((f for f in lane.line if f.waiting), None)
                if oldest is None:
                    break
                self.scheduler.withdraw(oldest)
                self._let_go(oldest)
                self._told(oldest, FULL, self.process.now)
        if self._uncommitted:
            self._commit()
        self.scheduler.kick()

    def _submit(self, frame: Frame) -> None:
        if self._away is not None and self._away(self, frame):
            return
        self.scheduler.submit(self.runs[frame.lane.route.model], frame)

    def _outcomes(self, run: VersionRun, frames: list[Any], outcomes: Sequence[Outcome]) -> None:
        for frame in frames:
            self.spend(self._publish_s)
            self._let_go(frame)
            self._told(frame, ("answered", ""), self.process.now)
        self._resume(frames)

    def _settled(self, frames: list[Any], fate: Fate) -> None:
        for frame in frames:
            self.spend(self._publish_s)
            self._let_go(frame)
            self._told(frame, fate, self.process.now)
        self._resume(frames)

    def _let_go(self, frame: Frame) -> None:
        lane = frame.lane
        if lane.route.mode == "every":
            lane.frames -= 1
            lane.line.pop(frame, None)

    def _resume(self, frames: Sequence[Frame]) -> None:
        """Read again what waited upstream, where its route has room."""
        for lane in {id(frame.lane): frame.lane for frame in frames}.values():
            if lane.upstream and lane.frames < RESUME * lane.route.queue:
                while lane.upstream and lane.frames < lane.route.queue:
                    frame = lane.upstream.popleft()
                    frame.deadline = frame.due = self.process.now + frame.sending.deadline_s
                    self._accept(frame)
