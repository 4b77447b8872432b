"""The scheduler under the kernel's clock and under asyncio's: the same requests, run and dropped at the same moments."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from penstock_models.items import Outcome, ServableInfo
from penstock_models.scheduling.request import Flow
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from penstock_sim.plan.host import Frame, Lane
from penstock_sim.plan.profile import Profile
from penstock_sim.plan.simulate import simulate
from penstock_sim.plan.work import Work
from tests.fakes.virtual_time import TimedExecutor
from tests.fakes.virtual_time import simulate as in_virtual_time
from tests.sim.plan_site import device, edge_only, poisson, report, work

S = 0.010


def by_asyncio(asked: Work, profile: Profile, slots: int) -> dict[float, tuple[Fate, float]]:
    """What becomes of each frame, and when, by the time at which it was sent."""
    told: dict[float, tuple[Fate, float]] = {}

    async def play() -> None:
        loop, all_told = asyncio.get_running_loop(), asyncio.Event()

        def note(frames: list[Any], fate: Fate) -> None:
            for frame in frames:
                told[frame.sent] = (fate, loop.time())
            if len(told) == len(asked.times):
                all_told.set()

        def outcomes(run: VersionRun, frames: list[Any], found: Sequence[Outcome]) -> None:
            note(frames, ("answered", ""))

        executor = TimedExecutor(lambda digest, n: profile.model(digest).mean(n), noise=0.0)
        scheduler = Scheduler(executor, slots, outcomes, note)
        runs = {}
        for route in asked.routes:
            warm = profile.model(route.model).warm_ms()
            info = ServableInfo(
                route.model, 1, route.model, "cpu", "", max(warm), False, warm[1], 0, batch_ms=warm
            )
            runs[route.model] = VersionRun(info)
            scheduler.runs.append(runs[route.model])
        task = asyncio.create_task(scheduler.run())
        lanes = [Lane(route) for route in asked.routes]
        flows = [Flow(str(n), lanes[sending.route]) for n, sending in enumerate(asked.streams)]

        def arrive(number: int, sent: float) -> None:
            sending = asked.streams[number]
            lane = lanes[sending.route]
            frame = Frame(flows[number], lane, sending, sent)
            frame.deadline = frame.due = loop.time() + sending.deadline_s
            scheduler.submit(runs[lane.route.model], frame)
            scheduler.kick()

        for moment, owner in zip(asked.times.tolist(), asked.owners.tolist()):
            loop.call_at(moment, arrive, owner, moment)
        await all_told.wait()
        task.cancel()
        await asyncio.wait([task])

    in_virtual_time(play())
    return told


@pytest.mark.parametrize(
    ("load", "slots", "streams", "deadline_s"),
    [(0.7, 1, 50, 1e6), (0.9, 2, 50, 1e6), (1.5, 2, 50, 0.08), (2.5, 1, 10, 0.06)],
)
def test_it_decides_the_same_under_both_clocks(
    load: float, slots: int, streams: int, deadline_s: float
) -> None:
    profile = device(report("m", S / 2, S / 2), report("n", S / 5), slots=slots, cores=slots)
    times = [round(moment, 9) for moment in poisson(load * slots / S, 1500, seed=8)]
    asked = work(times, streams=streams, deadline_s=deadline_s, models=["m", "n"])
    expected = by_asyncio(asked, profile, slots)
    outcome = simulate(asked, edge_only(asked), profile)
    fates: Counter[Fate] = sum((mix.fates for mix in outcome.mixes.values()), Counter())
    assert fates == Counter(fate for fate, _ in expected.values())
    latencies = sorted(at - sent for sent, (fate, at) in expected.items() if fate[0] == "answered")
    found = sorted(latency for mix in outcome.mixes.values() for latency in mix.latencies)
    np.testing.assert_allclose(found, latencies, atol=1e-6)
