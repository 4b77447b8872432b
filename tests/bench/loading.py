"""p99 of a model while a larger one loads and unloads for ever, over its quiet p99.

The model is served at 60 % load, by the slowest calibration seen, to periodic cameras with random phases. Slices of two
seconds take turns: quiet, beside loads in processes of their own, quiet, beside loads in an ordinary thread of this
process. A process that is loading is stopped between its slices, so that every part of a load is met as often as it is
long. Two neighbouring slices are compared where their calibrations agree and the hypervisor took next to nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from penstock_models.images import MAX_PIXELS
from penstock_models.items import ServableInfo
from penstock_models.pack import pack
from penstock_models.scheduling.runs import VersionRun
from penstock_models.serving.executor import Load as Served
from penstock_models.serving.executor import ServingExecutor
from penstock_models.store import open_version
from tests.bench.arrivals import arrivals
from tests.bench.batching import tensor_item
from tests.bench.neighbours import InProcesses, InThread, Neighbour, Nothing
from tests.bench.report import Figure, figure, steal_s
from tests.bench.site import kit, run_json
from tests.bench.traffic import Core, Load, offer, p99, saturate

SERVED = "mobilenet_v2_1.0_224_quant.tflite"
LARGER = {"resnet50": "light_resnet50.onnx", "vgg19": "light_vgg19.onnx"}
THREADS = 2
CAMERAS = 8
SHARE = 0.6
SLICE_S = 2.0
CALIBRATION_S = 0.4
WITHIN_S = 10.0
ALIKE = 0.10
STOLEN = 0.01
MATCHED_S = 60.0
RATIO = 1.25
P99_MS = 75.0
CYCLES = 50
SHORT = 5.0
"""Minutes up to which the memory is looked at for `FEW_CYCLES` only."""
FEW_CYCLES = 10
ORDER = ("quiet", "process", "quiet", "thread")
LOADED = ("process", "thread")


class Slice(NamedTuple):
    """Latencies of the served model in seconds; `rates` are the calibrations before and after, `stolen` of the cores."""

    kind: str
    rates: tuple[float, float]
    stolen: float
    latencies: list[float]

    @property
    def valid(self) -> bool:
        return self.stolen <= STOLEN and alike(*self.rates)


def alike(first: float, second: float) -> bool:
    return max(first, second) <= (1 + ALIKE) * min(first, second)


def matched(slices: Sequence[Slice], kind: str) -> tuple[list[Slice], list[Slice]]:
    """The slices of a kind with a quiet neighbour each that met the same machine: the quiet ones, and they."""
    quiet: list[Slice] = []
    beside: list[Slice] = []
    last = -1  # the quiet slice that was taken last
    for n, one in enumerate(slices):
        for m in (n - 1, n + 1):
            fits = last < m < len(slices) and n != last and one.kind == kind and slices[m].kind == "quiet"
            if fits and one.valid and slices[m].valid and alike(sum(one.rates), sum(slices[m].rates)):
                quiet.append(slices[m])
                beside.append(one)
                last = m
                break
    return quiet, beside


def measure(folder: Path, minutes: float) -> Sequence[Figure]:
    """Every figure, in so many minutes at most (memory takes two more)."""
    served = pack(kit() / "models" / SERVED, folder, preset="raw", name="served")
    larger = {
        name: pack(kit() / "models" / file, folder, preset="raw", name=name) for name, file in LARGER.items()
    }
    figures: list[Figure] = []
    for name, bundle in larger.items():
        slices, cycle_count = asyncio.run(_slices(served, bundle, minutes * 60 / len(larger)))
        figures += _figures(name, slices, cycle_count)
    return [*figures, _memory(served, larger["resnet50"], CYCLES if minutes > SHORT else FEW_CYCLES)]


async def _slices(served: Path, larger: Path, seconds: float) -> tuple[list[Slice], int]:
    """Slices in turns until there are enough or the time is over; and how many loads in processes were whole."""
    executor = ServingExecutor(THREADS, max_pixels=MAX_PIXELS, model_cache=served.parent / "engines")
    info = await executor.load(Served("served", served, open_version(served).digest))
    executor.serving = True
    bench = _Bench(Core(executor, THREADS), info, served)
    process = InProcesses(executor, larger)
    neighbours: dict[str, Neighbour] = {
        "quiet": Nothing(),
        "process": process,
        "thread": InThread(str(larger)),
    }
    slices: list[Slice] = []
    ends = time.monotonic() + seconds
    async with bench.core.serving(bench.run):
        await bench.calibrate()
        rate = await bench.calibrate()
        for seed in itertools.count():
            for kind in ORDER:
                found, rate = await bench.slice(kind, neighbours[kind], rate, seed)
                slices.append(found)
            enough = all(SLICE_S * len(matched(slices, kind)[0]) >= MATCHED_S for kind in LOADED)
            if enough or time.monotonic() > ends:
                break
        await process.close()
    await executor.close()
    return slices, process.count


class _Bench:
    """The served model. `slowest` is the least calibration seen, in answers a second."""

    def __init__(self, core: Core, info: ServableInfo, bundle: Path) -> None:
        self.core = core
        self.run = VersionRun(info)
        self.slowest = float("inf")
        self._load = Load(self.run, tensor_item(bundle), WITHIN_S, flows=CAMERAS)

    async def calibrate(self) -> float:
        """Answers a second when nobody waits for arrivals."""
        warm_s = CALIBRATION_S / 4
        rate = (await saturate(self.core, self._load, 2 * THREADS, warm_s + CALIBRATION_S, warm_s)).goodput
        self.slowest = min(self.slowest, rate)
        return rate

    async def slice(self, kind: str, beside: Neighbour, rate: float, seed: int) -> tuple[Slice, float]:
        """A slice beside a neighbour after a calibration of `rate`, and the calibration after it."""
        period_s = CAMERAS / (SHARE * self.slowest)
        plan = [(moment, 0) for moment, _ in arrivals(CAMERAS, period_s, SLICE_S, seed)]
        await beside.go_on()
        stolen = steal_s()
        (tally,) = await offer(self.core, [self._load], plan, SLICE_S, 0.0)
        stolen = (steal_s() - stolen) / SLICE_S / THREADS
        await beside.pause()
        await self.core.scheduler.drain(WITHIN_S)
        after = await self.calibrate()
        return Slice(kind, (rate, after), stolen, tally.in_time + tally.late), after


def _figures(name: str, slices: Sequence[Slice], loads: int) -> list[Figure]:
    void = sum(not one.valid for one in slices) / len(slices)
    quiet, process = matched(slices, "process")
    quiet_too, thread = matched(slices, "thread")
    seconds = min(len(process), len(thread)) * SLICE_S
    doubt = "" if seconds >= MATCHED_S else f"machine too loud: {seconds:.0f} s of matched slices"
    halves = matched([one for one in slices if one.kind == "quiet"], "quiet")
    p99s = [p99(_pooled(process)) * 1e3] if process else []
    note = (
        f"mobilenet_v2 at {SHARE:.0%} load; {len(process) * SLICE_S:.0f} s matched, {loads} loads of {name}"
    )
    return [
        figure(f"loading_{name}_p99_ratio", _ratio(process, quiet), "×", most=RATIO, note=note, doubt=doubt),
        figure(f"loading_{name}_p99", p99s, "ms", most=P99_MS, note=f"quiet {p99(_pooled(quiet)) * 1e3:.1f} ms", doubt=doubt),
        figure(f"loading_{name}_in_a_thread_p99_ratio", _ratio(thread, quiet_too), "×", note="unguarded", doubt=doubt),
        figure(f"loading_{name}_quiet_over_quiet", _ratio(*halves), "×"),
        figure(f"loading_{name}_void", [void], "of the slices", note=f"of {len(slices)}"),
    ]  # fmt: skip


def _ratio(over: Iterable[Slice], under: Iterable[Slice]) -> list[float]:
    """p99 over p99; nothing where there are too few to tell."""
    above, below = p99(_pooled(over)), p99(_pooled(under))
    return [above / below] if max(above, below) < math.inf else []


def _pooled(slices: Iterable[Slice]) -> list[float]:
    return [latency for one in slices for latency in one.latencies]


def _memory(served: Path, larger: Path, count: int) -> Figure:
    """Memory of a process tree in which a model serves and another comes and goes, in parts of the start."""
    sizes = run_json("tests.bench.cycles", served, larger, count, timeout_s=600.0)
    most = max(sizes[1:]) / sizes[0]
    note = (
        f"the most after any of {count} loads and unloads of resnet50, every fifth failing, over"
        f" {sizes[0] / 1e6:.0f} MB"
    )
    return figure("loading_memory", [most], "of the start", most=1.05, note=note)
