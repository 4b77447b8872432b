"""What counts as the same answer, and copies that disturb nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from penstock_models.agreement import agree
from penstock_models.items import (
    Anomaly,
    Answer,
    Class,
    Detection,
    Item,
    Outcome,
    OutputTensor,
    Refusal,
    Tensor,
)
from penstock_models.scheduling import shadow
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from penstock_models.scheduling.shadow import Shadows
from tests.fakes.executor import FakeExecutor, servable, turns


def classes(*labels: str) -> Answer:
    return Answer(classes=tuple(Class(label, n, 0.5) for n, label in enumerate(labels)))


def boxes(*places: tuple[float, float, float, float, str]) -> Answer:
    return Answer(detections=tuple(Detection(place[:4], 0.5, place[4]) for place in places))


def anomaly(score: float, threshold: float | None = None) -> Answer:
    return Answer(anomaly=Anomaly(score, threshold))


def values(*numbers: float, name: str = "y") -> Answer:
    return Answer(
        outputs={name: OutputTensor("float32", (len(numbers),), np.array(numbers, "<f4").tobytes())}
    )


LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0, "dog"), (0.5, 0.0, 1.0, 1.0, "dog")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (classes("a", "b"), classes("a", "c"), True),
        (classes("a"), classes("b"), False),
        (classes(), classes(), True),
        (boxes(LEFT, RIGHT), boxes(RIGHT, LEFT), True),
        (boxes(LEFT), boxes((0.0, 0.0, 0.4, 1.0, "dog")), True),
        (boxes(LEFT), boxes((0.0, 0.0, 0.2, 1.0, "dog")), False),
        (boxes(LEFT), boxes((*LEFT[:4], "cat")), False),
        (boxes(LEFT), boxes(), False),
        (boxes(), boxes(LEFT), False),
        (boxes(LEFT, LEFT), boxes(LEFT), False),
        (anomaly(1.0), anomaly(1.05), True),
        (anomaly(1.0), anomaly(1.5), False),
        (anomaly(1.0, 2.0), anomaly(1.9, 2.0), True),
        (anomaly(1.9, 2.0), anomaly(2.1, 2.0), False),
        (values(1, 0.01), values(1.02, 0.0), True),
        (values(1, 0), values(0, 1), False),
        (values(1), values(1, 2), False),
        (values(1), values(1, name="z"), False),
        (classes("a"), anomaly(1.0), False),
    ],
)
def test_what_counts_as_the_same(one: Answer, other: Answer, same: bool) -> None:
    assert agree(one, other) == agree(other, one) == same


class Desk:
    def __init__(self) -> None:
        self.executor = FakeExecutor()
        self.done: list[str] = []
        self.settled: list[tuple[str, Fate]] = []
        self.live, self.candidate = VersionRun(servable("live")), VersionRun(servable("candidate"))
        self.shadows = Shadows(self._outcomes, self._settled, lambda run, _: self.candidate)
        self.shadows.active = True
        self.scheduler = Scheduler(self.executor, 1, self.shadows.outcomes, self.shadows.settled)
        self.shadows.scheduler = self.scheduler
        self.scheduler.runs.extend([self.live, self.candidate])
        self.share = Share()

    def _outcomes(self, run: VersionRun, batch: list[Request], outcomes: Sequence[Outcome]) -> None:
        assert run is self.live
        self.done += [request.flow.key for request in batch]

    def _settled(self, requests: list[Request], fate: Fate) -> None:
        self.settled += [(request.flow.key, fate) for request in requests]

    def submit(self, key: str) -> None:
        request = Request(Flow(key, self.share), Item(Tensor(key.encode()), key))
        request.deadline = asyncio.get_running_loop().time() + 60
        self.scheduler.submit(self.live, request)
        self.scheduler.kick()

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.shadows.counts.get(("live", 1, 1), {}))


@asynccontextmanager
async def running() -> AsyncIterator[Desk]:
    desk = Desk()
    task = asyncio.create_task(desk.scheduler.run())
    await turns()
    yield desk
    task.cancel()
    await asyncio.wait([task])


async def test_a_copy_runs_behind_live_work_and_is_compared() -> None:
    async with running() as desk:
        desk.submit("a")
        desk.submit("b")
        await desk.executor.finish(lambda _: classes("x"))
        assert desk.done == ["a"]
        await desk.executor.finish(lambda _: classes("x"))  # b: live before a's copy
        assert desk.done == ["a", "b"]
        await desk.executor.finish(lambda item: classes("x" if item.stream == "a" else "y"))
        await desk.executor.finish(lambda item: classes("x" if item.stream == "a" else "y"))
        assert desk.counts == {"agreed": 1, "differed": 1} and desk.done == ["a", "b"] and desk.settled == []


async def test_a_shadow_that_fails_or_cannot_keep_up_is_counted_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadow, "MOST_WAITING", 1)
    async with running() as desk:
        desk.submit("a")
        await desk.executor.finish(lambda _: classes("x"))
        await desk.executor.finish(lambda _: Refusal("failed", "model_error"))
        assert desk.counts == {"failed": 1}
        desk.candidate.serving = False
        for key in "bcd":
            desk.submit(key)
            await desk.executor.finish(lambda _: classes("x"))
        assert desk.counts == {"failed": 1, "skipped": 2} and len(desk.done) == 4
        await desk.scheduler.retire(desk.candidate)
        assert desk.counts == {"failed": 1, "skipped": 3} and desk.settled == []


async def test_what_is_refused_is_not_copied() -> None:
    async with running() as desk:
        desk.submit("a")
        await desk.executor.finish(lambda _: Refusal("rejected", "shape"))
        assert desk.executor.running == [] and desk.counts == {} and desk.done == ["a"]
