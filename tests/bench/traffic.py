"""Traffic for the serving core in this process: clients that wait for their answers, and arrivals that wait for nobody.

Items are made beforehand, so that what is measured is the core and the model. A latency counts from the moment at which
the call was meant to be sent; its deadline, as at a gateway, from the moment at which it came.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import numpy as np

from penstock_models.items import Answer, Executor, Item, Outcome
from penstock_models.scheduling.request import NO_DEADLINE, Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler, Target

DRAIN_S = 30.0
REST_S = 0.01
FEW = 50


class Tally:
    """What became of the calls of one load. Of those settled before `since` (the loop's clock) or after `until` only that
    they were. Times in seconds: `in_time` and `late` are latencies, `heard` is how long after its deadline a refused call
    was told so, `batches` what each batch of them took."""

    def __init__(self, since: float, until: float) -> None:
        self.since = since
        self.until = until
        self.sent = self.settled = 0
        self.in_time: list[float] = []
        self.late: list[float] = []
        self.heard: list[float] = []
        self.batches: list[float] = []
        self.fates: Counter[Fate] = Counter()

    @property
    def goodput(self) -> float:
        """Answers in time, a second."""
        return len(self.in_time) / (self.until - self.since)

    @property
    def wasted(self) -> float:
        """The share of the answers that came too late."""
        return len(self.late) / max(1, len(self.late) + len(self.in_time))

    def counts(self, now: float) -> bool:
        self.settled += 1
        return self.since <= now < self.until


class Call(Request):
    """A call that knows when it was meant to be sent, and who wants to know of its end."""

    __slots__ = ("meant", "on_end", "tally")

    def __init__(self, flow: Flow, item: Item, tally: Tally, meant: float) -> None:
        super().__init__(flow, item)
        self.tally = tally
        self.meant = meant
        self.on_end: Callable[[Call], None] | None = None
        tally.sent += 1


class Load(msgspec.Struct, frozen=True):
    """Calls of one kind: from so many flows in turns, of one share."""

    target: Target
    item: Item
    within_s: float = NO_DEADLINE
    rank: int = 4
    flows: int = 40
    share: Share = msgspec.field(default_factory=Share)


class Core:
    """A scheduler on an executor, and the owner of the calls. A failure ends the benchmark."""

    def __init__(self, executor: Executor, slots: int) -> None:
        self.scheduler = Scheduler(executor, slots, self.outcomes, self.settled)

    @asynccontextmanager
    async def serving(self, *runs: VersionRun) -> AsyncIterator[None]:
        """Serve these versions."""
        self.scheduler.runs.extend(runs)
        task = asyncio.create_task(self.scheduler.run(), name="scheduler")
        await asyncio.sleep(0)
        try:
            yield
            assert await self.scheduler.drain(DRAIN_S), f"not drained within {DRAIN_S:g} s"
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.wait([task])

    def submit(self, target: Target, call: Call) -> None:
        self.scheduler.submit(target, call)

    def kick(self) -> None:
        self.scheduler.kick()

    def failed(self, call: Call, outcome: Outcome) -> None:
        raise AssertionError(f"expected an answer, came {outcome}")

    def outcomes(self, run: VersionRun, calls: list[Any], outcomes: Sequence[Outcome]) -> None:
        now = asyncio.get_running_loop().time()
        calls[0].tally.batches.append(now - calls[0].taken)
        for call, outcome in zip(calls, outcomes, strict=True):
            tally = call.tally
            if not isinstance(outcome, Answer):
                self.failed(call, outcome)
            elif tally.counts(now):
                (tally.in_time if now <= call.deadline else tally.late).append(now - call.meant)
            if call.on_end is not None:
                call.on_end(call)

    def settled(self, calls: list[Any], fate: Fate) -> None:
        now = asyncio.get_running_loop().time()
        for call in calls:
            tally = call.tally
            if tally.counts(now):
                tally.heard.append(now - call.deadline)
                tally.fates[fate] += 1
            if call.on_end is not None:
                call.on_end(call)


class Nobody(Core):
    """Takes every call and does nothing: what the generator costs alone."""

    def __init__(self) -> None: ...

    def submit(self, target: Target, call: Call) -> None: ...

    def kick(self) -> None: ...


async def offer(
    core: Core, loads: Sequence[Load], plan: Sequence[tuple[float, int]], seconds: float, warm_s: float
) -> list[Tally]:
    """Let calls come as planned, answered or not; what became of each load's after the first `warm_s`.

    Args:
        plan: (seconds from the start, which load), in order.
    """
    loop = asyncio.get_running_loop()
    flows = [[Flow(f"{n} {k}", load.share) for k in range(load.flows)] for n, load in enumerate(loads)]
    start = loop.time()
    tallies = [Tally(start + warm_s, start + seconds) for _ in loads]
    sent = 0
    while sent < len(plan):
        await asyncio.sleep(max(0.0, start + plan[sent][0] - loop.time()))
        now = loop.time()
        while sent < len(plan) and plan[sent][0] <= now - start:
            moment, n = plan[sent]
            load, tally = loads[n], tallies[n]
            call = Call(flows[n][tally.sent % load.flows], load.item, tally, start + moment)
            call.rank, call.deadline = load.rank, now + load.within_s
            core.submit(load.target, call)
            sent += 1
        core.kick()
    await asyncio.sleep(max(0.0, start + seconds - loop.time()))
    return tallies


async def saturate(core: Core, load: Load, clients: int, seconds: float, warm_s: float) -> Tally:
    """Let so many clients, each a flow, ask again whenever they are answered, for so long.

    One that is refused rests first: else refusals alone would take a core.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    tally = Tally(start + warm_s, start + seconds)

    def ask(flow: Flow) -> None:
        now = loop.time()
        if now >= tally.until:
            return
        call = Call(flow, load.item, tally, now)
        call.rank, call.deadline = load.rank, now + load.within_s
        call.on_end = again
        core.submit(load.target, call)

    def rested(flow: Flow) -> None:
        ask(flow)
        core.kick()

    def again(call: Call) -> None:
        if call.taken:
            ask(call.flow)  # in the middle of a batch's end, which kicks
        else:
            loop.call_later(REST_S, rested, call.flow)

    for n in range(clients):
        ask(Flow(f"client {n}", load.share))
    core.kick()
    await asyncio.sleep(seconds)
    assert await core.scheduler.drain(DRAIN_S)
    return tally


def poisson(rates: Sequence[float], seconds: float, seed: int) -> list[tuple[float, int]]:
    """Poisson arrivals of several loads, in order: (seconds from the start, which load)."""
    chance = random.Random(seed)
    plan = []
    for n, rate in enumerate(rates):
        moment = chance.expovariate(rate)
        while moment < seconds:
            plan.append((moment, n))
            moment += chance.expovariate(rate)
    return sorted(plan)


def p99(values: Sequence[float]) -> float:
    """Infinite where there are too few to tell."""
    return float(np.percentile(values, 99)) if len(values) >= FEW else math.inf
