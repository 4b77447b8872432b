"""Chains: what a detector found is cut out and given to the next model, and its answer comes back as part of the whole.

A request's deadline is split over the stages: each stage must end while those behind it still have the time that is
predicted for them, with as many parts as the requests of late had. While its parts are under way a request's flow waits, so
that it is answered in order. A part that is not answered fails the whole request, with the part's reason: an answer with
half of its parts would hide that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock_models.items import Answer, Box, Detection, Item, Outcome, Refusal
from penstock_models.scheduling.request import NO_DEADLINE, Flow, Request
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, OnOutcomes, OnSettled, Scheduler, Target

MOST_PARTS = 16
"""Parts of one request that go to the next stage: those with the highest scores."""

WEIGHT = 0.1
"""Of the last request in the number of parts that is expected."""


class Chain:
    """The stages behind the first one of all flows that have them."""

    def __init__(self, stages: Sequence[Target]) -> None:
        self.stages = tuple(stages)
        self._parts = [1.0] * len(self.stages)

    def deadline(self, deadline: float, stage: int, flow: Flow) -> float:
        """When the stage before `stage` must be done: what is left then suffices for the others."""
        for target, parts in zip(self.stages[stage:], self._parts[stage:]):
            run = target.run_for(flow)
            if run is not None:
                deadline -= run.times.upper(max(1, round(parts)))
        return deadline

    def saw(self, stage: int, parts: int) -> None:
        """So many parts were found for a stage."""
        self._parts[stage] += WEIGHT * (min(parts, MOST_PARTS) - self._parts[stage])


class Part(Request):
    """A part of a picture on its way through one stage; `found` is the detection that it was cut out for."""

    __slots__ = ("found", "stage", "under", "whole")

    def __init__(self, whole: Whole, under: Part | None, found: Detection, flow: Flow, item: Item) -> None:
        super().__init__(flow, item)
        self.whole = whole
        self.under = under
        self.found = found
        self.stage: int = 0 if under is None else under.stage + 1


class Whole:
    """A request whose parts are under way: `detections` are what is known of them by now."""

    def __init__(self, chain: Chain, run: VersionRun, request: Request, answer: Answer) -> None:
        self.chain = chain
        self.run = run
        self.request = request
        self.answer = answer
        self.open: set[Part] = set()
        self.answers: dict[int, Answer] = {}  # of a detection, by its identity

    def parts(self, found: Sequence[Detection], under: Part | None) -> list[Part]:
        """The parts that go to the next stage."""
        item = self.request.item
        assert item is not None
        flow = Flow(self.request.flow.key, self.request.flow.share)
        best = sorted(found, key=lambda detection: -detection.score)[:MOST_PARTS]
        parts = [
            Part(self, under, one, flow, msgspec.structs.replace(item, stream="", region=one.box))
            for one in best
        ]
        for part in parts:
            part.rank = self.request.rank
        self.open.update(parts)
        return parts

    def result(self) -> Answer:
        """The first stage's answer, with what the others said of its parts."""
        times = [self.answer, *self.answers.values()]
        return msgspec.structs.replace(
            self.answer,
            detections=self._told(self.answer.detections),
            decode_ms=sum(answer.decode_ms for answer in times),
            infer_ms=sum(answer.infer_ms for answer in times),
        )

    def _told(self, detections: tuple[Detection, ...] | None) -> tuple[Detection, ...] | None:
        return detections and tuple(self._with_answer(detection) for detection in detections)

    def _with_answer(self, detection: Detection) -> Detection:
        answer = self.answers.get(id(detection))
        if answer is None:
            return detection
        return msgspec.structs.replace(
            detection, classes=answer.classes, detections=self._told(answer.detections)
        )


class Chains:
    """Stands between a scheduler and its owner: what a stage answered goes on to the next, the end to the owner.

    `scheduler` is set before the first request comes.
    """

    scheduler: Scheduler

    def __init__(self, on_outcomes: OnOutcomes, on_settled: OnSettled) -> None:
        self._on_outcomes = on_outcomes
        self._on_settled = on_settled

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        """What a batch gave; for `Scheduler`."""
        ended: list[tuple[Any, Outcome]] = []
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(request, Part):
                self._part_ended(request, outcome)
            elif not self._goes_on(run, request, outcome):
                ended.append((request, outcome))
        if ended:
            self._on_outcomes(run, [request for request, _ in ended], [outcome for _, outcome in ended])

    def settled(self, requests: list[Any], fate: Fate) -> None:
        """What was not run; for `Scheduler`."""
        for request in requests:
            if isinstance(request, Part):
                self._part_ended(request, Refusal(*fate))
        if own := [request for request in requests if not isinstance(request, Part)]:
            self._on_settled(own, fate)

    def _goes_on(self, run: VersionRun, request: Request, outcome: Outcome) -> bool:
        chain = request.flow.chain
        if chain is None or not isinstance(outcome, Answer):
            return False
        return self._next_stage(Whole(chain, run, request, outcome), outcome, None)

    def _next_stage(self, whole: Whole, answer: Answer, under: Part | None) -> bool:
        """Give what was found to the stage behind; False where there is no stage, or nothing for it."""
        chain, found = whole.chain, answer.detections
        stage = 0 if under is None else under.stage + 1
        if found is None or stage == len(chain.stages):
            return False
        chain.saw(stage, len(found))
        if not found:
            return False
        whole.request.flow.held = True
        for part in whole.parts(found, under):
            if part in whole.open:  # not withdrawn because another one was refused
                if whole.request.due != NO_DEADLINE:
                    part.deadline = chain.deadline(whole.request.due, stage + 1, part.flow)
                self.scheduler.submit(chain.stages[stage], part)
        return True

    def _part_ended(self, part: Part, outcome: Outcome) -> None:
        whole = part.whole
        if part not in whole.open:
            return  # the request has its fate already
        whole.open.discard(part)
        if isinstance(outcome, Refusal):
            self._withdraw(whole)
            self._end(whole, outcome)
            return
        answer = whole.answers[id(part.found)] = _of_the_whole(outcome, part.found.box)
        if not self._next_stage(whole, answer, part) and not whole.open:
            self._end(whole, whole.result())

    def _withdraw(self, whole: Whole) -> None:
        parts, whole.open = whole.open, set()
        for part in parts:
            self.scheduler.withdraw(part)

    def _end(self, whole: Whole, outcome: Outcome) -> None:
        self._on_outcomes(whole.run, [whole.request], [outcome])
        whole.request.flow.held = False
        whole.run.queue.release([whole.request])


def _of_the_whole(answer: Answer, region: Box) -> Answer:
    """An answer about a part, with its boxes in the whole picture."""
    if not answer.detections:
        return answer
    x0, y0, x1, y1 = region
    width, height = x1 - x0, y1 - y0

    def moved(box: Box) -> Box:
        return (x0 + box[0] * width, y0 + box[1] * height, x0 + box[2] * width, y0 + box[3] * height)

    found = tuple(msgspec.structs.replace(one, box=moved(one.box)) for one in answer.detections)
    return msgspec.structs.replace(answer, detections=found)
