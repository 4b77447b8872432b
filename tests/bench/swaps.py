"""Two hundred hot swaps of a model under load: what they cost its own requests.

A serving core as a gateway has it, with two versions of one model in its store. Periodic cameras ask at 60 % of the slowest
calibration seen, while the wanted version changes to and fro: the new one is loaded in a process of its own, proven by
its golden samples, switched to, and the old one is freed. Slices with one swap after the other take turns with quiet ones,
and their p99s are compared. The first swap, from this process into another, comes before everything.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from penstock_models.images import MAX_PIXELS
from penstock_models.items import Outcome
from penstock_models.pack import pack
from penstock_models.serving.core import ServingCore, Settings
from penstock_models.serving.executor import VersionOptions
from penstock_models.store import Reference
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.policy import Specific
from tests.bench.arrivals import arrivals
from tests.bench.batching import tensor_item
from tests.bench.loading import CALIBRATION_S, CAMERAS, RATIO, SERVED, SHARE, THREADS
from tests.bench.report import Figure, figure
from tests.bench.site import kit
from tests.bench.traffic import Call, Core, Load, Tally, offer, p99, saturate

SWAPS = 200
SLICE_S = 4.0
PARTS = 5
"""p99 is compared in so many parts of the run, each a value."""
WITHIN_S = 0.25
SWAP_S = 60.0
POLL_S = 0.02
NAME = "served"


class Served(Core):
    """Calls of a serving core. What fails is counted."""

    def __init__(self, serving: ServingCore) -> None:
        self.scheduler = serving.scheduler
        self.failures: list[str] = []
        serving.own(self)

    def failed(self, call: Call, outcome: Outcome) -> None:
        self.failures.append(str(outcome))


class Slices:
    """What was seen in the slices with swaps and in quiet ones, in turns; and the seconds that each swap took."""

    def __init__(self) -> None:
        self.swapping: list[Tally] = []
        self.quiet: list[Tally] = []
        self.took: list[float] = []


def measure(folder: Path, store: Path, repeats: int) -> Sequence[Figure]:
    here = folder / "swaps"
    (here / "store").mkdir(parents=True)
    bundles = [
        pack(kit() / "models" / SERVED, here / "store", preset="raw", name=NAME, version=version)
        for version in (1, 2)
    ]
    return asyncio.run(_measure(here, bundles[0]))


async def _measure(folder: Path, bundle: Path) -> list[Figure]:
    serving = ServingCore(Settings(folder / "store", folder / "state", THREADS, MAX_PIXELS))
    core = Served(serving)
    load = Load(serving.target(Reference(NAME)), tensor_item(bundle), WITHIN_S, flows=CAMERAS)
    _want(serving, 1)
    running = asyncio.create_task(serving.run(), name="versions")
    async with core.serving():
        await serving.started([Reference(NAME)])
        await _swap(serving, 2)
        slices = await _slices(serving, core, load)
    running.cancel()
    await asyncio.wait([running])
    await serving.close()
    return _figures(slices, core.failures)


async def _slices(serving: ServingCore, core: Core, load: Load) -> Slices:
    slices, slowest = Slices(), float("inf")
    versions = itertools.cycle((1, 2))
    warm_s = CALIBRATION_S / 4
    for seed in itertools.count():
        calibration = await saturate(core, load, 2 * THREADS, warm_s + CALIBRATION_S, warm_s)
        slowest = min(slowest, calibration.goodput)
        moments = arrivals(CAMERAS, CAMERAS / (SHARE * slowest), SLICE_S, seed)
        offered = partial(_offered, core, load, [(moment, 0) for moment, _ in moments])
        swapping = asyncio.create_task(offered(), name="calls")
        while not swapping.done():
            slices.took.append(await _swap(serving, next(versions)))
        slices.swapping.append(swapping.result())
        slices.quiet.append(await offered())
        if len(slices.took) >= SWAPS:
            break
    return slices


async def _offered(core: Core, load: Load, plan: Sequence[tuple[float, int]]) -> Tally:
    """A slice, and as long as its last call may take: each is in the tally."""
    (tally,) = await offer(core, [load], plan, SLICE_S + 2 * WITHIN_S, 0.0)
    return tally


async def _swap(serving: ServingCore, version: int) -> float:
    """Want this version; the seconds until it alone is loaded."""
    began = time.monotonic()
    _want(serving, version)
    async with asyncio.timeout(SWAP_S):
        while _loaded(serving) != [version]:  # noqa: ASYNC110  # what is waited for is other processes
            await asyncio.sleep(POLL_S)
    return time.monotonic() - began


def _want(serving: ServingCore, version: int) -> None:
    serving.configure([(ModelConfig(NAME, Specific((version,))), VersionOptions())])


def _loaded(serving: ServingCore) -> list[int]:
    return [v.version for model in serving.statuses() for v in model.versions if v.bytes]


def _figures(slices: Slices, failures: Sequence[str]) -> list[Figure]:
    swapping, quiet = slices.swapping, slices.quiet
    sent = sum(tally.sent for tally in swapping)
    ratios = [
        p99(_latencies(part)) / p99(_latencies(beside))
        for part, beside in zip(_parts(swapping), _parts(quiet), strict=True)
    ]
    late, late_quiet = _late(swapping), _late(quiet)
    note = (
        f"{len(slices.took)} swaps of mobilenet_v2, {statistics.median(slices.took):.1f} s each, {sent} calls;"
        f" quiet p99 {p99(_latencies(quiet)) * 1e3:.1f} ms"
    )
    missed = f"of {sent} calls, each within {WITHIN_S * 1e3:.0f} ms; {late_quiet} of {sum(t.sent for t in quiet)} without"
    return [
        figure("swaps_p99_ratio", ratios, "×", most=RATIO, note=note),
        figure("swaps_failed", [len(failures)], "calls", most=0, note="; ".join(failures[:3])),
        figure("swaps_late", [late], "calls", most=0, note=missed),
    ]


def _parts(tallies: Sequence[Tally]) -> list[Sequence[Tally]]:
    """In order, in `PARTS` of about the same length."""
    ends = [len(tallies) * n // PARTS for n in range(PARTS + 1)]
    return [tallies[a:b] for a, b in itertools.pairwise(ends)]


def _latencies(tallies: Sequence[Tally]) -> list[float]:
    return [latency for tally in tallies for latency in (*tally.in_time, *tally.late)]


def _late(tallies: Sequence[Tally]) -> int:
    """Calls that were answered too late, or refused."""
    return sum(len(tally.late) + tally.fates.total() for tally in tallies)
