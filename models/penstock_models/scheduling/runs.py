"""A version as the scheduler sees it, and which version gets a free slot. Pure: time comes in as an argument.

Versions share the slots fairly by the time that they took, weighted (Start-time Fair Queueing: Goyal, Vin, Cheng, 1996).
One that would be late by waiting for another's batch goes before it, where that one can wait, a bounded time ahead of its
share; not one that drops work anyway, to which nobody owes anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock_models.histogram import Histogram
from penstock_models.items import ServableInfo
from penstock_models.scheduling.forming import batch_limit, least_efficient
from penstock_models.scheduling.prediction import BatchTime
from penstock_models.scheduling.queue import Plan, VersionQueue
from penstock_models.scheduling.request import Flow

LEAD_S = 0.05
"""How far ahead of its share a version may get for the sake of a deadline, in seconds of a slot."""

SIZES = (1, 2, 4, 8, 16, 32, 64)
RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)

PRESSED_S = 1.0
"""A version that dropped late work is taken to be overloaded for so long."""


class VersionRun:
    """One loaded version with what waits for it. `running` counts its batches, `virtual` the slot time that it got,
    `answered` its answers since something failed, `used` is when it last ran. Of its batches `sizes` has the requests,
    `predicted` what they took over what was predicted.

    While it is not `serving` (its session is being rebuilt) what comes waits.
    """

    def __init__(self, info: ServableInfo, weight: float = 1.0) -> None:
        self.info = info
        self.queue = VersionQueue(one_per_flow=info.stateful)
        self.times = _times(info)
        self.weight = weight
        self.virtual = 0.0
        self.running = 0
        self.answered = 0
        self.used = float("-inf")
        self.sizes = Histogram(SIZES)
        self.predicted = Histogram(RATIOS)
        self.serving = True
        self._pressed_until = float("-inf")

    def rebuilt(self, info: ServableInfo, serving: bool) -> None:
        """Its session is another one now, or is being rebuilt."""
        if info.placement != self.info.placement:
            self.times = _times(info)
        self.info = info
        self.serving = serving

    @property
    def ready(self) -> bool:
        return self.serving and self.queue.ready

    def run_for(self, flow: Flow) -> VersionRun:
        """The version that runs this flow: itself. What stands for several versions chooses one."""
        return self

    def plan(self, slots: int, now: float) -> Plan:
        """How the next batch may be formed, where so many slots share what waits."""
        limit = batch_limit(self.times, self.queue.waiting, slots)
        floor = least_efficient(self.times, limit) if self.pressed(now) else 1
        return Plan(limit, self.times.upper, floor, self.times.untried(now), self.times.mean(1))

    def press(self, now: float) -> None:
        """It dropped work that was late."""
        self._pressed_until = now + PRESSED_S

    def pressed(self, now: float) -> bool:
        return now < self._pressed_until

    def latest_start(self) -> float:
        """When its most urgent request must be begun."""
        return self.queue.next_deadline() - self.times.upper(1)

    def too_late(self, flow: Flow, deadline: float, slots: int, now: float) -> bool:
        """Whether a request that stands behind others of its flow will hardly have its turn in time."""
        if not flow.waiting or flow.queue is not self.queue:
            return False
        wait_s = self.queue.ahead(flow) * self.times.item_s / slots
        return now + wait_s + self.times.mean(1) > deadline


def infeasible(deadline_ms: float, runs: Sequence[VersionRun]) -> str:
    """Why a deadline cannot be met even by a request alone that these run one after the other, "" where it can."""
    return deadline_problem(deadline_ms, sum(run.times.solo_p95() for run in runs) * 1e3)


def deadline_problem(deadline_ms: float, p95_ms: float) -> str:
    """What is said of a deadline that is shorter than what a request alone takes; "" of one that is not."""
    return "" if deadline_ms >= p95_ms else f"deadline_infeasible: {deadline_ms:.0f} ms < p95 {p95_ms:.0f} ms"


def _times(info: ServableInfo) -> BatchTime:
    return BatchTime({n: ms / 1e3 for n, ms in (info.batch_ms or {1: info.p50_ms}).items()})


class Turns:
    """Whose turn it is among versions."""

    def __init__(self) -> None:
        self._clock = 0.0

    def choose(self, ready: Sequence[VersionRun], now: float) -> VersionRun:
        """The version that gets the next slot, of those that have something to run; live work goes first."""
        ready = [run for run in ready if run.queue.live] or ready
        for run in ready:
            run.virtual = max(run.virtual, self._clock)  # idling earns nothing
        first = min(ready, key=lambda run: run.virtual)
        self._clock = first.virtual
        if len(ready) > 1:
            return min(
                (run for run in ready if run is first or _goes_before(run, first, now)),
                key=lambda run: run.latest_start(),
            )
        return first


def _goes_before(run: VersionRun, first: VersionRun, now: float) -> bool:
    return (
        run.virtual - first.virtual <= LEAD_S
        and not run.pressed(now)
        and run.latest_start() < now + first.times.mean(1)
        and first.latest_start() >= now + run.times.mean(1)
    )
