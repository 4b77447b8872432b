"""Detector → crop → classifier, and deeper: budgets, order, parts that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from penstock_models.items import Anomaly, Answer, Box, Class, Detection, EncodedImage, Item, Outcome, Refusal
from penstock_models.scheduling.chain import MOST_PARTS, Chain, Chains
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Scheduler
from tests.fakes.executor import FakeExecutor, servable, turns

PICTURE = EncodedImage(b"jpeg")
BOXES: tuple[Box, ...] = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0))


def found(*boxes: Box) -> Answer:
    return Answer(
        detections=tuple(Detection(box, 0.9 - 0.1 * n, "dog") for n, box in enumerate(boxes)), infer_ms=5.0
    )


def named(label: str) -> Answer:
    return Answer(classes=(Class(label, 0, 0.9),), infer_ms=1.0)


class Desk:
    """A scheduler whose requests go through `detector` and two stages more; `answers` says what each stage sees."""

    def __init__(self, stages: int = 1) -> None:
        self.executor = FakeExecutor()
        self.done: list[tuple[str, Outcome]] = []
        self.settled: list[tuple[str, Fate]] = []
        self.runs = [
            VersionRun(servable(name, p50_ms=10)) for name in ("detector", "second", "third")[: stages + 1]
        ]
        self.chain = Chain(self.runs[1:])
        self.chains = Chains(self._outcomes, self._settled, lambda _: self.chain)
        self.scheduler = Scheduler(self.executor, 1, self.chains.outcomes, self.chains.settled)
        self.chains.scheduler = self.scheduler
        self.scheduler.runs.extend(self.runs)
        self.share = Share()

    def _outcomes(self, run: VersionRun, batch: list[Request], outcomes: Sequence[Outcome]) -> None:
        assert run is self.runs[0]
        self.done += [(r.flow.key, outcome) for r, outcome in zip(batch, outcomes, strict=True)]

    def _settled(self, requests: list[Request], fate: Fate) -> None:
        self.settled += [(r.flow.key, fate) for r in requests]

    def submit(self, flow: Flow | str, in_s: float = 60.0) -> Request:
        if isinstance(flow, str):
            flow = Flow(flow, self.share)
        request = Request(flow, Item(PICTURE, stream=flow.key))
        request.due = asyncio.get_running_loop().time() + in_s
        request.deadline = self.chain.deadline(request.due, 0, flow)
        self.scheduler.submit(self.runs[0], request)
        self.scheduler.kick()
        return request

    async def finish(self, answer: Callable[[Item], Outcome]) -> None:
        await self.executor.finish(answer)


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[Desk]:
    task = asyncio.create_task(desk.scheduler.run())
    await turns()
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_part_gets_the_next_stages_answer() -> None:
    async with running(Desk()) as desk:
        desk.submit("a")
        await desk.finish(lambda _: found(*BOXES))
        assert desk.done == [] and [item.region for items, _ in desk.executor.running for item in items] == [
            *BOXES
        ]
        assert all(item.payload is PICTURE for items, _ in desk.executor.running for item in items)
        await desk.finish(lambda item: named("left" if item.region == BOXES[0] else "right"))
        ((key, answer),) = desk.done
        assert key == "a" and isinstance(answer, Answer) and answer.detections is not None
        assert [d.classes[0].label for d in answer.detections if d.classes] == ["left", "right"]
        assert [d.box for d in answer.detections] == [*BOXES] and answer.infer_ms == 7.0


async def test_nothing_found_is_an_answer_and_so_is_another_task() -> None:
    async with running(Desk()) as desk:
        desk.submit("a")
        await desk.finish(lambda _: found())
        desk.submit("b")
        await desk.finish(lambda _: Answer(anomaly=Anomaly(1.0)))
        assert [key for key, _ in desk.done] == ["a", "b"] and desk.executor.running == []


async def test_boxes_of_deeper_stages_are_of_the_whole_picture() -> None:
    async with running(Desk(stages=2)) as desk:
        desk.submit("a")
        await desk.finish(lambda _: found(BOXES[1]))
        await desk.finish(lambda _: found((0.0, 0.0, 0.5, 1.0)))
        assert [item.region for items, _ in desk.executor.running for item in items] == [
            (0.5, 0.5, 0.75, 1.0)
        ]
        await desk.finish(lambda _: named("plate"))
        answer = desk.done[0][1]
        assert isinstance(answer, Answer) and answer.detections and answer.detections[0].detections
        inner = answer.detections[0].detections[0]
        assert inner.box == (0.5, 0.5, 0.75, 1.0) and inner.classes and inner.classes[0].label == "plate"


async def test_a_flow_is_answered_in_order_while_parts_are_under_way() -> None:
    async with running(Desk()) as desk:
        flow = Flow("a", desk.share)
        desk.submit(flow)
        await desk.finish(lambda _: found(BOXES[0]))
        desk.submit(flow)
        other = desk.submit("b")
        await desk.finish(lambda _: named("x"))  # the part of the first
        await desk.finish(lambda _: found())
        await desk.finish(lambda _: found())
        assert [key for key, _ in desk.done].index("a") == 0 and len(desk.done) == 3 and not other.waiting


@pytest.mark.parametrize("reason", ["model_error", "model_timeout"])
async def test_a_part_that_fails_fails_the_request_once(reason: str) -> None:
    async with running(Desk()) as desk:
        flow = Flow("a", desk.share)
        desk.submit(flow)
        await desk.finish(lambda _: found(*BOXES))
        await desk.finish(lambda _: Refusal("failed", reason, "no"))
        assert desk.done == [("a", Refusal("failed", reason, "no"))]
        desk.submit(flow)  # its flow goes on
        await desk.finish(lambda _: found())
        assert desk.done[-1] == ("a", found()) and await desk.scheduler.drain(1.0)


async def test_a_part_that_comes_too_late_expires_the_request() -> None:
    async with running(Desk()) as desk:
        desk.runs[1].serving = False
        desk.submit("a", in_s=0.1)
        await desk.finish(lambda _: found(*BOXES))
        async with asyncio.timeout(5):
            while not desk.done:  # noqa: ASYNC110  the timer is the scheduler's own
                await asyncio.sleep(0.005)
        assert desk.done == [("a", Refusal("expired", "in_queue"))] and desk.runs[1].queue.waiting == 0


async def test_a_stop_settles_a_request_whose_parts_run() -> None:
    desk = Desk()
    async with running(desk):
        desk.submit("a")
        await desk.finish(lambda _: found(*BOXES))
    assert desk.done == [("a", Refusal("dropped", "shutdown"))]


async def test_the_budget_leaves_the_later_stages_their_predicted_time() -> None:
    desk = Desk(stages=2)
    flow = Flow("a", desk.share)
    one = desk.runs[1].times.upper(1)
    assert desk.chain.deadline(1.0, 0, flow) == pytest.approx(1.0 - 2 * one)
    assert desk.chain.deadline(1.0, 1, flow) == pytest.approx(1.0 - one)
    assert desk.chain.deadline(1.0, 2, flow) == 1.0
    for _ in range(100):
        desk.chain.saw(0, 4)
    assert desk.chain.deadline(1.0, 1, flow) == pytest.approx(1.0 - one)
    assert desk.chain.deadline(1.0, 0, flow) == pytest.approx(1.0 - one - desk.runs[1].times.upper(4))


async def test_only_the_surest_parts_go_on() -> None:
    async with running(Desk()) as desk:
        desk.submit("a")
        many = [Detection(BOXES[0], n / 100, "x") for n in range(40)]
        await desk.finish(lambda _: Answer(detections=tuple(many)))
        while not desk.done:
            await desk.finish(lambda _: named("y"))
        answer = desk.done[0][1]
        assert isinstance(answer, Answer) and answer.detections is not None
        told = [d.score for d in answer.detections if d.classes]
        assert len(answer.detections) == 40 and told == [n / 100 for n in range(40 - MOST_PARTS, 40)]


def test_a_detection_says_nothing_of_stages_that_it_has_not() -> None:
    assert (
        msgspec.json.encode(Detection(BOXES[0], 0.5, "x"))
        == b'{"box":[0.0,0.0,0.5,0.5],"score":0.5,"label":"x"}'
    )
