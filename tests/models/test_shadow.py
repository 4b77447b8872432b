"""What counts as the same answer, and copies that disturb nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from penstock_models.agreement import agree
from penstock_models.items import (
    Anomaly,
    Answer,
    Class,
    Detection,
    Outcome,
    OutputTensor,
    Refusal,
)
from penstock_models.scheduling import shadow
from penstock_models.scheduling.runs import VersionRun
from tests.fakes.executor import servable
from tests.fakes.owner import FakeOwner, running


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


class Site(FakeOwner):
    """What `live` answers goes to `candidate`, too; `answered` are the keys of whose requests ended."""

    def __init__(self) -> None:
        self.live, self.candidate = VersionRun(servable("live")), VersionRun(servable("candidate"))
        super().__init__(self.live, self.candidate, shadow=self.candidate)

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        assert run is self.live
        super().outcomes(run, requests, outcomes)

    @property
    def answered(self) -> list[str]:
        return [key for key, _ in self.done]

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.front.shadows.counts.get(("live", 1, 1), {}))


async def test_a_copy_runs_behind_live_work_and_is_compared() -> None:
    async with running(Site()) as owner:
        owner.submit("a")
        owner.submit("b")
        await owner.executor.finish(lambda _: classes("x"))
        assert owner.answered == ["a"]
        await owner.executor.finish(lambda _: classes("x"))  # b: live before a's copy
        assert owner.answered == ["a", "b"]
        await owner.executor.finish(lambda item: classes("x" if item.stream == "a" else "y"))
        await owner.executor.finish(lambda item: classes("x" if item.stream == "a" else "y"))
        assert (
            owner.counts == {"agreed": 1, "differed": 1}
            and owner.answered == ["a", "b"]
            and owner.refused == []
        )


async def test_a_shadow_that_fails_or_cannot_keep_up_is_counted_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shadow, "MOST_WAITING", 1)
    async with running(Site()) as owner:
        owner.submit("a")
        await owner.executor.finish(lambda _: classes("x"))
        await owner.executor.finish(lambda _: Refusal("failed", "model_error"))
        assert owner.counts == {"failed": 1}
        owner.candidate.serving = False
        for key in "bcd":
            owner.submit(key)
            await owner.executor.finish(lambda _: classes("x"))
        assert owner.counts == {"failed": 1, "skipped": 2} and len(owner.answered) == 4
        await owner.scheduler.retire(owner.candidate)
        assert owner.counts == {"failed": 1, "skipped": 3} and owner.refused == []


async def test_what_is_refused_is_not_copied() -> None:
    async with running(Site()) as owner:
        owner.submit("a")
        await owner.executor.finish(lambda _: Refusal("rejected", "shape"))
        assert owner.executor.running == [] and owner.counts == {} and owner.answered == ["a"]
