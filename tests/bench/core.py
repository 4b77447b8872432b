"""What the serving core itself costs: requests through submit, queue, batch and outcome, with a model that takes no time.

The executor answers at once and on the event loop, so that one thread does everything and nothing is waited for. A burst
of as many requests as go into a batch is submitted, run and answered before the next one comes; every request has a
deadline, and of a burst each is another flow's. What is counted includes making the requests, as their owner must.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import time
from asyncio import Future
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock_models.items import Anomaly, Answer, Item, Outcome, ServableInfo, Tensor
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from tests.bench.report import BUILD, Figure, figure

BURSTS = {1: 20_000, 8: 10_000, 64: 3_000}
"""How many bursts of a size are a measurement: about a second."""

WITHIN_S = 10.0
ITEM = Item(Tensor(b"x"))
ANSWER = Answer(anomaly=Anomaly(0.5))
SHOWN = 30
OURS = "penstock_models/"


class NoOp:
    """An executor whose models take no time."""

    degraded = ()

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        done: Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        done.set_result([ANSWER] * len(items))
        return done


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    found: dict[int, list[float]] = {size: [] for size in BURSTS}
    for _ in range(repeats):
        for size, bursts in BURSTS.items():
            found[size].append(asyncio.run(_seconds_an_item(size, bursts)))
    where = profile()
    figures = []
    for size, seconds in found.items():
        name = "single" if size == 1 else f"batch_{size}"
        rates = [1 / s for s in seconds]
        most = 100_000 if size == max(BURSTS) else None
        figures.append(figure(f"core_{name}_rate", rates, "/s", least=most, note="a no-op model, one thread"))
        figures.append(figure(f"core_{name}_cost", [s * 1e6 for s in seconds], "µs", note="a request"))
    figures[-1] = figure(
        "core_batch_64_cost", [s * 1e6 for s in found[64]], "µs", note=f"a request, of which {where}"
    )
    return figures


def profile() -> str:
    """Where the time of batches of 64 goes, by module; the functions are written to build/core_profile.txt."""
    profiler = cProfile.Profile()
    profiler.enable()
    asyncio.run(_seconds_an_item(64, BURSTS[64] // 4))
    profiler.disable()
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "core_profile.txt").open("w") as out:
        stats = pstats.Stats(profiler, stream=out)
        stats.sort_stats("tottime").print_stats(SHOWN)
    shares = by_module(stats.stats)  # type: ignore[attr-defined]
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.most_common(6))


def by_module(stats: dict[tuple[str, int, str], tuple[Any, ...]]) -> Counter[str]:
    """Each module's share of the time, built-in functions counted with the module that calls them."""
    times: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, callers) in stats.items():
        if file != "~":
            times[_module(file)] += own
            continue
        for (caller, _, _), (_, _, of_caller, _) in callers.items():
            times[_module(caller)] += of_caller
    whole = sum(times.values())
    return Counter({name: own / whole for name, own in times.items()})


def _module(file: str) -> str:
    """The name of one of ours; of the event loop and the benchmark, what they are."""
    if OURS in file:
        return Path(file).stem
    return "this benchmark" if file == __file__ else "asyncio"


class _Answered:
    """Counts answers, and says when there are enough."""

    def __init__(self) -> None:
        self.count = 0
        self.enough: Future[None] | None = None
        self.wanted = 0

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        self.count += len(requests)
        if self.enough is not None and self.count == self.wanted:
            self.enough.set_result(None)

    def settled(self, requests: list[Any], fate: Fate) -> None:
        assert not requests, f"expected answers, came {fate}"

    def of(self, count: int) -> Future[None]:
        """Done when so many more are answered."""
        self.wanted += count
        self.enough = asyncio.get_running_loop().create_future()
        return self.enough


async def _seconds_an_item(size: int, bursts: int) -> float:
    """Seconds of the thread's processor time that a request takes in bursts of that size."""
    answered = _Answered()
    scheduler = Scheduler(NoOp(), 1, answered.outcomes, answered.settled)  # type: ignore[arg-type]
    run = VersionRun(ServableInfo("noop", 1, "sha256:noop", "none", "anomaly", 64, False, 0.001, 0))
    scheduler.runs.append(run)
    running = asyncio.create_task(scheduler.run())
    await asyncio.sleep(0)
    share = Share()
    flows = [Flow(f"flow {n}", share) for n in range(size)]
    await _bursts(scheduler, run, flows, answered, max(1, bursts // 10))
    began = time.thread_time()
    await _bursts(scheduler, run, flows, answered, bursts)
    taken = time.thread_time() - began
    running.cancel()
    await asyncio.wait([running])
    return taken / (bursts * size)


async def _bursts(
    scheduler: Scheduler, run: VersionRun, flows: list[Flow], answered: _Answered, bursts: int
) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(bursts):
        all_answered = answered.of(len(flows))
        deadline = loop.time() + WITHIN_S
        for flow in flows:
            request = Request(flow, ITEM)
            request.deadline = deadline
            scheduler.submit(run, request)
        scheduler.kick()
        await all_answered
