"""Detector → crop → classifier, and deeper: budgets, order, parts that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from penstock_models.items import Anomaly, Answer, Box, Class, Detection, EncodedImage, Item, Outcome, Refusal
from penstock_models.scheduling.chain import MOST_PARTS, Chain
from penstock_models.scheduling.request import Flow, Request
from penstock_models.scheduling.runs import VersionRun
from tests.fakes.executor import servable
from tests.fakes.owner import FakeOwner, running
from tests.fakes.virtual_time import in_virtual_time

PICTURE = EncodedImage(b"jpeg")
BOXES: tuple[Box, ...] = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0))


def found(*boxes: Box) -> Answer:
    return Answer(
        detections=tuple(Detection(box, 0.9 - 0.1 * n, "dog") for n, box in enumerate(boxes)), infer_ms=5.0
    )


def named(label: str) -> Answer:
    return Answer(classes=(Class(label, 0, 0.9),), infer_ms=1.0)


class Site(FakeOwner):
    """Requests are pictures, and go through `detector` and one or two stages more."""

    def __init__(self, stages: int = 1) -> None:
        runs = [VersionRun(servable(name, p50_ms=10)) for name in ("detector", "second", "third")]
        self.chain = Chain(runs[1 : stages + 1])
        super().__init__(*runs, chain=self.chain)

    def submit(self, *flows: Flow | str, **options: Any) -> Request:
        return super().submit(*flows, payload=PICTURE, **options)

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        assert run is self.runs[0]
        super().outcomes(run, requests, outcomes)

    async def finish(self, answer: Callable[[Item], Outcome]) -> None:
        await self.executor.finish(answer)


async def test_each_part_gets_the_next_stages_answer() -> None:
    async with running(Site()) as owner:
        owner.submit("a")
        await owner.finish(lambda _: found(*BOXES))
        assert owner.done == [] and [
            item.region for items, _ in owner.executor.running for item in items
        ] == [*BOXES]
        assert all(item.payload is PICTURE for items, _ in owner.executor.running for item in items)
        await owner.finish(lambda item: named("left" if item.region == BOXES[0] else "right"))
        ((key, answer),) = owner.done
        assert key == "a" and isinstance(answer, Answer) and answer.detections is not None
        assert [d.classes[0].label for d in answer.detections if d.classes] == ["left", "right"]
        assert [d.box for d in answer.detections] == [*BOXES] and answer.infer_ms == 7.0


async def test_nothing_found_is_an_answer_and_so_is_another_task() -> None:
    async with running(Site()) as owner:
        owner.submit("a")
        await owner.finish(lambda _: found())
        owner.submit("b")
        await owner.finish(lambda _: Answer(anomaly=Anomaly(1.0)))
        assert [key for key, _ in owner.done] == ["a", "b"] and owner.executor.running == []


async def test_boxes_of_deeper_stages_are_of_the_whole_picture() -> None:
    async with running(Site(stages=2)) as owner:
        owner.submit("a")
        await owner.finish(lambda _: found(BOXES[1]))
        await owner.finish(lambda _: found((0.0, 0.0, 0.5, 1.0)))
        assert [item.region for items, _ in owner.executor.running for item in items] == [
            (0.5, 0.5, 0.75, 1.0)
        ]
        await owner.finish(lambda _: named("plate"))
        answer = owner.done[0][1]
        assert isinstance(answer, Answer) and answer.detections and answer.detections[0].detections
        inner = answer.detections[0].detections[0]
        assert inner.box == (0.5, 0.5, 0.75, 1.0) and inner.classes and inner.classes[0].label == "plate"


async def test_a_flow_is_answered_in_order_while_parts_are_under_way() -> None:
    async with running(Site()) as owner:
        flow = owner.flow("a")
        owner.submit(flow)
        await owner.finish(lambda _: found(BOXES[0]))
        owner.submit(flow)
        other = owner.submit("b")
        await owner.finish(lambda _: named("x"))  # the part of the first
        await owner.finish(lambda _: found())
        await owner.finish(lambda _: found())
        assert [key for key, _ in owner.done].index("a") == 0 and len(owner.done) == 3 and not other.waiting


async def test_a_frame_with_nothing_in_it_does_not_overtake_the_one_before() -> None:
    async with running(Site()) as owner:
        owner.submit("busy")
        flow = owner.flow("a")
        owner.submit(flow, flow)
        await owner.finish(lambda _: found())
        await owner.finish(lambda _: found(BOXES[0]))
        await owner.finish(lambda _: named("x"))
        await owner.finish(lambda _: found())
        labels = [a.detections and a.detections[0].classes for _, a in owner.done if isinstance(a, Answer)]
        assert labels == [(), (Class("x", 0, 0.9),), ()]


async def test_a_deeper_stage_that_nobody_runs_fails_the_request_once() -> None:
    async with running(Site(stages=2)) as owner:
        owner.chain.stages = (owner.chain.stages[0], Gone())
        owner.submit("a")
        await owner.finish(lambda _: found(BOXES[0]))
        await owner.finish(lambda _: found(BOXES[0]))
        assert owner.done == [("a", Refusal("failed", "not_ready"))] and await owner.scheduler.drain(1.0)


class Gone:
    """A model of which nothing serves."""

    def run_for(self, flow: Flow) -> None:
        return None


async def test_a_flow_goes_on_when_a_stage_of_it_is_given_up() -> None:
    async with running(Site()) as owner:
        owner.runs[1].serving = False
        flow = owner.flow("a")
        owner.submit(flow)
        await owner.finish(lambda _: found(BOXES[0]))
        owner.submit(flow)
        assert owner.executor.running == []
        owner.scheduler.give_up(owner.runs[1])
        await owner.finish(lambda _: found())
        assert owner.done == [("a", Refusal("failed", "not_ready")), ("a", found())]


@pytest.mark.parametrize("reason", ["model_error", "model_timeout"])
async def test_a_part_that_fails_fails_the_request_once(reason: str) -> None:
    async with running(Site()) as owner:
        flow = owner.flow("a")
        owner.submit(flow)
        await owner.finish(lambda _: found(*BOXES))
        await owner.finish(lambda _: Refusal("failed", reason, "no"))
        assert owner.done == [("a", Refusal("failed", reason, "no"))]
        owner.submit(flow)  # its flow goes on
        await owner.finish(lambda _: found())
        assert owner.done[-1] == ("a", found()) and await owner.scheduler.drain(1.0)


@in_virtual_time
async def test_a_part_that_comes_too_late_expires_the_request() -> None:
    async with running(Site()) as owner:
        owner.runs[1].serving = False
        owner.submit("a", in_s=0.1)
        await owner.finish(lambda _: found(*BOXES))
        await asyncio.sleep(0.1)
        assert owner.done == [("a", Refusal("expired", "in_queue"))] and owner.runs[1].queue.waiting == 0


async def test_a_stop_settles_a_request_whose_parts_run() -> None:
    owner = Site()
    async with running(owner):
        owner.submit("a")
        await owner.finish(lambda _: found(*BOXES))
    assert owner.done == [("a", Refusal("dropped", "shutdown"))]


async def test_the_budget_leaves_the_later_stages_their_predicted_time() -> None:
    owner = Site(stages=2)
    flow = owner.flow("a")
    one = owner.runs[1].times.upper(1)
    assert owner.chain.deadline(1.0, 0, flow) == pytest.approx(1.0 - 2 * one)
    assert owner.chain.deadline(1.0, 1, flow) == pytest.approx(1.0 - one)
    assert owner.chain.deadline(1.0, 2, flow) == 1.0
    for _ in range(100):
        owner.chain.saw(0, 4)
    assert owner.chain.deadline(1.0, 1, flow) == pytest.approx(1.0 - one)
    assert owner.chain.deadline(1.0, 0, flow) == pytest.approx(1.0 - one - owner.runs[1].times.upper(4))


async def test_only_the_surest_parts_go_on() -> None:
    async with running(Site()) as owner:
        owner.submit("a")
        many = [Detection(BOXES[0], n / 100, "x") for n in range(40)]
        await owner.finish(lambda _: Answer(detections=tuple(many)))
        while not owner.done:
            await owner.finish(lambda _: named("y"))
        answer = owner.done[0][1]
        assert isinstance(answer, Answer) and answer.detections is not None
        told = [d.score for d in answer.detections if d.classes]
        assert len(answer.detections) == 40 and told == [n / 100 for n in range(40 - MOST_PARTS, 40)]


def test_a_detection_says_nothing_of_stages_that_it_has_not() -> None:
    assert (
        msgspec.json.encode(Detection(BOXES[0], 0.5, "x"))
        == b'{"box":[0.0,0.0,0.5,0.5],"score":0.5,"label":"x"}'
    )
