"""The scheduler under load, in virtual time: overload, slowdowns, priorities, and who disturbs whom."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from penstock_models.items import Answer, Item, Outcome, Tensor
from penstock_models.scheduling.request import NO_DEADLINE, Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from tests.fakes.virtual_time import TimedExecutor, simulate, timed

ITEM = Item(Tensor(b"x"))
SECONDS = 6.0


class Call(Request):
    """A request that knows when it came and what became of it."""

    __slots__ = ("arrived", "load")

    def __init__(self, flow: Flow, arrived: float, load: Load) -> None:
        super().__init__(flow, ITEM)
        self.load = load
        self.arrived = arrived
        self.deadline = arrived + load.within_s
        self.rank = load.rank


@dataclass
class Load:
    """Arrivals of one kind: `flows` sources, `rate` a second together, Poisson."""

    run: VersionRun
    rate: float
    within_s: float = NO_DEADLINE
    flows: int = 8
    rank: int = 4
    began: float = 0.0
    ends: float = 1e9
    share: Share = field(default_factory=Share)
    sent: int = 0
    in_time: list[float] = field(default_factory=list)  # latencies, s
    late: list[float] = field(default_factory=list)
    refused: list[tuple[float, Fate]] = field(default_factory=list)  # seconds after the deadline


class Box:
    """A scheduler with timed models and loads on it."""

    def __init__(self, seconds: Callable[[str, int], float], slots: int = 2) -> None:
        self.executor = TimedExecutor(seconds)
        self.scheduler = Scheduler(self.executor, slots, self._outcomes, self._settled)
        self.loads: list[Load] = []

    def add(self, load: Load) -> Load:
        if load.run not in self.scheduler.runs:
            self.scheduler.runs.append(load.run)
        self.loads.append(load)
        return load

    def _outcomes(self, run: VersionRun, batch: list[Call], outcomes: Sequence[Outcome]) -> None:
        now = asyncio.get_running_loop().time()
        for call, outcome in zip(batch, outcomes, strict=True):
            assert isinstance(outcome, Answer)
            load = call.load
            (load.in_time if now <= call.deadline else load.late).append(now - call.arrived)

    def _settled(self, calls: list[Call], fate: Fate) -> None:
        now = asyncio.get_running_loop().time()
        for call in calls:
            call.load.refused.append((now - call.deadline, fate))

    async def _offer(self, load: Load, seconds: float, chance: random.Random) -> None:
        flows = [Flow(f"f{n}", load.share) for n in range(load.flows)]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(load.began)
        while loop.time() < min(seconds, load.ends):
            await asyncio.sleep(chance.expovariate(load.rate))
            load.sent += 1
            call = Call(chance.choice(flows), loop.time(), load)
            self.scheduler.submit(load.run, call)
            self.scheduler.kick()

    def serve(self, seconds: float, seed: int = 1) -> None:
        """Run for so many virtual seconds, and to the end of what was sent."""

        async def work() -> None:
            running = asyncio.create_task(self.scheduler.run())
            offers = [self._offer(load, seconds, random.Random(f"{seed} {n}")) for n, load in
                      enumerate(self.loads)]  # fmt: skip
            await asyncio.gather(*offers)
            assert await self.scheduler.drain(60.0)
            running.cancel()
            await asyncio.wait([running])

        simulate(work())
        for load in self.loads:
            assert load.sent == len(load.in_time) + len(load.late) + len(load.refused)


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@pytest.mark.parametrize(("item_ms", "fixed_ms"), [(5.0, 0.5), (1.0, 8.0)])
@pytest.mark.parametrize("factor", [2, 5, 10])
def test_overload_costs_no_goodput_and_wastes_nothing(factor: int, item_ms: float, fixed_ms: float) -> None:
    """Both a model that gains nothing by batches and one that lives by them, each request 100 ms to its deadline."""
    info = timed("m", item_ms, fixed_ms)

    def box(rate: float) -> tuple[Box, Load]:
        made = Box(lambda _, n: (item_ms * n + fixed_ms) / 1e3)
        return made, made.add(Load(VersionRun(info), rate, within_s=0.1, flows=40))

    def goodput(load: Load) -> float:
        return len(load.in_time) / SECONDS

    most = int((25 - fixed_ms) / item_ms)
    capacity = 2 * most / (item_ms * most + fixed_ms) * 1e3
    peak = 0.0
    for share in (0.9, 1.0):
        made, load = box(share * capacity)
        made.serve(SECONDS)
        peak = max(peak, goodput(load))
    made, load = box(factor * capacity)
    made.serve(SECONDS)
    print(factor, item_ms, capacity, peak, goodput(load), len(load.late), p99(load.in_time))
    assert goodput(load) >= 0.95 * peak
    assert len(load.late) < 0.01 * len(load.in_time)
    assert max(after for after, _ in load.refused) <= 1e-6


def test_a_high_priority_is_flat_in_overload() -> None:
    def p99_of_high(factor: float) -> float:
        box = Box(lambda _, n: 0.005 * n)
        run, share = VersionRun(timed("m", 5.0)), Share()
        high = box.add(Load(run, 60.0, within_s=0.2, rank=0, share=share))
        box.add(Load(run, 400.0 * factor - 60.0, within_s=0.2, share=share))
        box.serve(10.0)
        assert not high.refused and not high.late
        return p99(high.in_time)

    assert p99_of_high(10) <= p99_of_high(0.8) + 0.030


def test_answers_resume_soon_after_a_slowdown_that_made_everything_late() -> None:
    """From second 10 to 20 a model of 10 ms takes 300 ms, with a deadline of 200 ms."""

    def seconds(_: str, n: int) -> float:
        return (0.3 if 10 <= asyncio.get_running_loop().time() < 20 else 0.01) * n

    box = Box(seconds)
    load = box.add(Load(VersionRun(timed("m", 10.0)), 100.0, within_s=0.2))
    answered: list[float] = []
    real = box._outcomes

    def note(run: VersionRun, batch: list[Call], outcomes: Sequence[Outcome]) -> None:
        now = asyncio.get_running_loop().time()
        answered.extend(now for call in batch if now <= call.deadline)
        real(run, batch, outcomes)

    box.scheduler._on_outcomes = note
    box.serve(40.0)
    assert not [at for at in answered if 11 < at < 20]
    after = [at for at in answered if at >= 20]
    assert after[0] < 22 and len([at for at in after if at < 25]) > 250
    assert sum(1 for _ in load.late) < 60  # trials, and what ran when it began


def test_a_few_slow_runs_do_not_refuse_what_will_probably_be_in_time() -> None:
    """A model of 20 ms and a deadline of 50 ms; three runs of hundreds take three times as long, one a second."""
    slow = iter((1.0, 2.0, 3.0))
    next_slow = next(slow)

    def seconds(_: str, n: int) -> float:
        nonlocal next_slow
        if asyncio.get_running_loop().time() < next_slow:
            return 0.02 * n
        next_slow = next(slow, NO_DEADLINE)
        return 0.06 * n

    box = Box(seconds)
    load = box.add(Load(VersionRun(timed("m", 20.0)), 20.0, within_s=0.05))
    box.serve(10.0)
    assert len(load.late) == 3
    assert len(load.refused) <= 0.1 * load.sent  # what met a busy slot


def test_a_saturated_route_adds_one_of_its_batches_to_a_quiet_one() -> None:
    def p99_of_quiet(flooded: bool, same: bool) -> float:
        box = Box(lambda digest, n: (0.004 if digest == "sha256:quiet" else 0.005) * n)
        quiet = box.add(Load(VersionRun(timed("quiet", 4.0)), 20.0, within_s=1.0, flows=2))
        if flooded:
            run = quiet.run if same else VersionRun(timed("flood", 5.0))
            box.add(Load(run, 2000.0, within_s=5.0, flows=4))
        box.serve(12.0)
        assert not quiet.refused and not quiet.late
        return p99(quiet.in_time)

    alone = p99_of_quiet(flooded=False, same=False)
    assert p99_of_quiet(flooded=True, same=False) <= alone + 0.026
    assert p99_of_quiet(flooded=True, same=True) <= alone + 0.036  # with one of it that rides along


def test_versions_share_the_slots_by_weight() -> None:
    box = Box(lambda digest, n: (0.002 if digest == "sha256:a" else 0.02) * n)
    a = box.add(Load(VersionRun(timed("a", 2.0), weight=3.0), 5000.0, within_s=0.5, flows=100))
    b = box.add(Load(VersionRun(timed("b", 20.0)), 500.0, within_s=0.5, flows=100))
    box.serve(10.0)
    used = len(a.in_time) * 0.002, len(b.in_time) * 0.02
    assert used[0] / used[1] == pytest.approx(3.0, rel=0.1)
    assert sum(used) > 0.9 * 20
