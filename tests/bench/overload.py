"""More calls than can be answered: 2, 5 and 10 times as many, open loop, in this process.

The generator shares the cores with what it loads, so what it takes alone, with nobody behind it, is taken off the
machine: a goodput is that of the cores less the generator. Peak is what clients that wait get, before and after. A
fifth of the capacity is sent at high priority all the while, and its p99 held against that at 0.8 of capacity. Then one
share floods the version, and another's p99 beside it is held against that alone, in units of the flood's batches.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from penstock_models.executor import ThreadExecutor
from penstock_models.items import Item, ServableInfo
from penstock_models.pack import pack
from penstock_models.resident import own_resident_bytes
from penstock_models.scheduling.request import Share
from penstock_models.scheduling.runs import VersionRun
from tests.bench.batching import tensor_item
from tests.bench.report import Figure, busy_s, figure
from tests.bench.site import kit
from tests.bench.traffic import Core, Load, Nobody, Tally, offer, p99, poisson, saturate

MODEL = "yolox_nano.onnx"
THREADS = 2
FACTORS = (2, 5, 10)
WITHIN_S = 0.1
FLOOD_WITHIN_S = 1.0
CLIENTS = 16
HIGH = 0.2
"""Of the capacity, at high priority; and what the quiet share sends."""
BELOW = 0.8
"""Of the capacity: the load at which the high priority's p99 is taken for comparison."""
SLICE_S = 4.0
PEAK_S = 1.0
ALONE_S = 1.0
WARM_S = 0.3
TRIES = 5
"""How often a slice is taken until the machine is the same before and after it."""

ALIKE = 0.10
"""What the peaks around a slice may differ by: hosts change their speed."""
ELSEWHERE = 0.1
"""Of a core, for other processes and the hypervisor's other guests, that makes a slice void."""
FLAT = 1.25
KEPT = 1.02
"""Of the memory before: flat."""

Taken = tuple[dict[str, float], tuple[float, float]]
"""What a slice gave, and the peaks before and after it."""


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    bundle = pack(kit() / "models" / MODEL, folder, preset="raw", name="overloaded")
    return asyncio.run(_measure(bundle, repeats))


async def _measure(bundle: Path, repeats: int) -> list[Figure]:
    executor = ThreadExecutor(THREADS)
    info = await executor.load(str(bundle))
    overload = _Overload(Core(executor, THREADS), info, tensor_item(bundle))
    async with overload.core.serving(overload.run):
        await overload.at(max(FACTORS), seed=0)  # the version's times are learned, and what stays is made
        for seed in range(repeats):
            await overload.all(seed)
    await executor.close()
    return _figures(overload.seen, overload.void, overload.note)


class _Overload:
    """A version under load. `seen` holds what the repeats gave, by what it is; `void` how often the machine was too loud
    all the time."""

    def __init__(self, core: Core, info: ServableInfo, item: Item) -> None:
        self.core = core
        self.run = VersionRun(info)
        self.seen: dict[str, list[float]] = {}
        self.void: Counter[str] = Counter()
        self.note = ""
        self._item = item
        self._share = Share()

    async def all(self, seed: int) -> None:
        """One value of each figure."""
        resident = own_resident_bytes()
        for factor in FACTORS:
            await self._undisturbed(partial(self.at, factor), str(factor), seed)
        await self._undisturbed(self._flooded, "flooded", seed)
        self._see({"rss": own_resident_bytes() / resident})

    async def _undisturbed(self, take: Callable[[int], Awaitable[Taken]], what: str, seed: int) -> None:
        """Measure, and again where the machine was too loud, a few times at most."""
        for attempt in range(TRIES):
            before, began, own = busy_s(), time.monotonic(), time.process_time()
            values, peaks = await take(seed + 1000 * attempt)
            took = time.monotonic() - began
            others = (busy_s() - before - (time.process_time() - own)) / took
            alike = max(peaks) <= (1 + ALIKE) * min(peaks)
            if alike and others <= ELSEWHERE:
                break
        else:
            self.void[what] += 1
        self._see(values)

    async def at(self, factor: int, seed: int) -> Taken:
        """One overload between two peaks."""
        before = await self._peak()
        below, _ = await self._mixed(self.core, BELOW * before, HIGH * before, seed, SLICE_S)
        cost = await self._generator_s(factor * before, HIGH * before, seed)
        high, low = await self._mixed(self.core, factor * before, HIGH * before, seed, SLICE_S)
        after = await self._peak()
        late, good = len(high.late + low.late), len(high.in_time + low.in_time)
        goodput = (high.goodput + low.goodput) / ((before + after) / 2)
        self.note = (
            f"an object detector of {self.run.times.mean(1) * 1e3:.1f} ms, {before:.0f}/s, each within"
            f" {WITHIN_S * 1e3:.0f} ms, on {THREADS} threads"
        )
        return {
            f"{factor} goodput": goodput / (1 - cost / THREADS),
            f"{factor} with generator": goodput,
            f"{factor} generator": cost,
            f"{factor} wasted": late / max(1, late + good),
            f"{factor} heard": p99(high.heard + low.heard) * 1e3,
            f"{factor} high": p99(high.in_time + high.late) / p99(below.in_time + below.late),
        }, (before, after)

    async def _flooded(self, seed: int) -> Taken:
        """A quiet share alone, and beside one that floods."""
        before = await self._peak()
        quiet = Load(
            self.run, self._item, FLOOD_WITHIN_S
        )  # of many flows: one flow's calls wait for each other
        flood = Load(self.run, self._item, FLOOD_WITHIN_S, flows=4)
        rates = HIGH * before, 2 * before
        (alone,) = await offer(self.core, [quiet], poisson(rates[:1], SLICE_S, seed), SLICE_S, WARM_S)
        await self._quiet()
        plan = poisson(rates, SLICE_S, seed)
        beside, flooding = await offer(self.core, [quiet, flood], plan, SLICE_S, WARM_S)
        await self._quiet()
        added = p99(beside.in_time + beside.late) - p99(alone.in_time + alone.late)
        batch = p99(flooding.batches)
        lost = float(sum(beside.fates.values()))
        return {"added": added / batch, "batch": batch * 1e3, "lost": lost}, (before, await self._peak())

    async def _mixed(
        self, core: Core, rate: float, high: float, seed: int, seconds: float
    ) -> tuple[Tally, Tally]:
        """So many calls a second, of them `high` at high priority."""
        first = Load(self.run, self._item, WITHIN_S, rank=0, share=self._share)
        second = Load(self.run, self._item, WITHIN_S, share=self._share)
        plan = poisson((high, rate - high), seconds, seed)
        found = await offer(core, [first, second], plan, seconds, WARM_S)
        await self._quiet()
        return found[0], found[1]

    async def _generator_s(self, rate: float, high: float, seed: int) -> float:
        """Processor seconds a second of the generator alone."""
        before = time.thread_time()
        await self._mixed(Nobody(), rate, high, seed, ALONE_S)
        return (time.thread_time() - before) / ALONE_S

    async def _peak(self) -> float:
        load = Load(self.run, self._item, WITHIN_S, share=self._share)
        return (await saturate(self.core, load, CLIENTS, WARM_S + PEAK_S, WARM_S)).goodput

    async def _quiet(self) -> None:
        assert await self.core.scheduler.drain(2 * FLOOD_WITHIN_S)

    def _see(self, values: Mapping[str, float]) -> None:
        for what, value in values.items():
            self.seen.setdefault(what, []).append(value)


def _figures(seen: Mapping[str, list[float]], void: Mapping[str, int], note: str) -> list[Figure]:
    figures = []
    for factor in FACTORS:
        name, loud = f"overload_{factor}x", _loud(void, str(factor))
        values = [seen[f"{factor} {what}"] for what in ("goodput", "wasted", "high", "heard")]
        without, cost = (float(np.median(seen[f"{factor} {w}"])) for w in ("with generator", "generator"))
        note_of = f"{note}; {without:.3f} with the generator, which takes {cost:.1%} of a core"
        figures += [
            figure(f"{name}_goodput", values[0], "of peak", least=0.95, note=note_of, doubt=loud),
            figure(f"{name}_wasted", values[1], "of answers", most=0.01, doubt=loud),
            figure(f"{name}_high_p99", values[2], f"of that at {BELOW:g} of peak", most=FLAT, doubt=loud),
            figure(f"{name}_refusal_p99", values[3], "ms after the deadline", most=5.0, doubt=loud),
        ]
    added = (
        f"in batches of {np.median(seen['batch']):.0f} ms; {sum(seen['lost']):.0f} of its calls were refused"
    )
    loud = _loud(void, "flooded")
    return [
        *figures,
        figure("overload_rss", seen["rss"], "of before", most=KEPT),
        figure("overload_quiet_p99_added", seen["added"], "batches", most=1.0, note=added, doubt=loud),
    ]


def _loud(void: Mapping[str, int], what: str) -> str:
    return f"void: the machine was too loud in {void[what]} of the repeats" if void[what] else ""
