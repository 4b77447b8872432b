"""The devices of a scenario in a process of its own, on the open-loop publisher: what came back, as JSON.

    python -m tests.bench.plan_load URL SCENARIO SEED WARM_S

Streams get schedules of the kind that the scenario says, drawn from SEED. Prints `answered_per_s` (answers that came before the
sending ended), the publisher's latencies and fates, `sent`, `on_time`, and `cpu_s` of this process while it sent.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock_sim.load.publisher import Publisher, Target, VirtualStream
from penstock_sim.load.schedule import Periodic, Poisson, Schedule
from penstock_sim.scenario.load import Bent
from penstock_sim.scenario.read import read
from penstock_sim.scenario.tree import Loaded, Stream

SETTLE_S = 20.0
QUIET_S = 1.0


def streams(loaded: Loaded, seed: int) -> list[VirtualStream]:
    found = []
    for index, mix in enumerate(loaded.scenario.device):
        for place, stream in enumerate(mix.stream):
            ring = stream.source.open(seed, stream.rate_hz, loaded.folder)
            for number in range(mix.count):
                schedule = Bent(_schedule(stream, (seed, index, place, number)), loaded.load)
                found.append(VirtualStream(f"{mix.name}-{number:04d}", stream.name, ring, schedule, mix.qos))
    return found


def _schedule(stream: Stream, seed: tuple[int, ...]) -> Schedule:
    dice = np.random.default_rng(seed)
    if stream.arrivals == "poisson":
        return Poisson(stream.rate_hz, seed=int(dice.integers(1 << 31)))
    return Periodic(
        stream.rate_hz, float(dice.uniform(0, 1 / stream.rate_hz)), jitter_s=stream.jitter_ms / 1e3, seed=1
    )


async def measure(url: str, loaded: Loaded, seed: int, seconds: float) -> dict[str, Any]:
    async with Publisher(Target(url), streams(loaded, seed)) as publisher:
        cpu = time.process_time()
        await publisher.run(seconds)
        cpu = time.process_time() - cpu
        in_run = publisher.report()
        await publisher.settle(SETTLE_S, QUIET_S)
        report = publisher.report()
    answered = sum(stream.answered for stream in in_run.streams.values())
    return {
        "answered_per_s": answered / in_run.seconds,
        "sent": report.sent,
        "fates": report.fates,
        "latency_ms": report.latency_ms,
        "lag_ms": report.lag_ms,
        "on_time": report.on_time,
        "cpu_s": cpu,
    }


async def main() -> None:
    url, file, seed, warm_s = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    loaded = read(file)
    if warm_s:
        await measure(url, loaded, seed + 1000, warm_s)
    print("warm", flush=True)
    found = await measure(url, loaded, seed, loaded.load.seconds)
    print(msgspec.json.encode(found).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
