"""Shadows: a second version gets a copy of what another one answered, behind all live work, and is compared with it.

A shadow disturbs nobody: its copies run when nothing live waits, and those that would wait for longer than `WITHIN_S`, or
behind `MOST_WAITING` others, are skipped and counted. Nobody gets its answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from penstock_models.agreement import agree
from penstock_models.items import Answer, Outcome
from penstock_models.scheduling.request import HISTORICAL_RANK, Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, OnOutcomes, OnSettled, Scheduler

MOST_WAITING = 64
WITHIN_S = 5.0
MOST_FLOWS = 10_000

ShadowOf = Callable[[VersionRun, Flow], VersionRun | None]
"""The version that gets a copy of what this one answered a flow, None for most."""


class Copy(Request):
    """A copy for `shadow`; `live` is what the original was answered, by `by`."""

    __slots__ = ("by", "live", "shadow")

    def __init__(
        self, flow: Flow, original: Request, live: Answer, by: VersionRun, shadow: VersionRun
    ) -> None:
        super().__init__(flow, original.item, original.nbytes)
        self.rank = HISTORICAL_RANK
        self.live = live
        self.by = by
        self.shadow = shadow


class Shadows:
    """Stands between a scheduler and its owner.

    `counts` says by (model, version, shadow's version) how often the shadow `agreed`, `differed`, `failed` to answer, or
    was `skipped`. `active` is false while no shadow is wanted. `scheduler` is set before the first request comes.
    """

    scheduler: Scheduler

    def __init__(self, on_outcomes: OnOutcomes, on_settled: OnSettled, shadow_of: ShadowOf) -> None:
        self.active = False
        self.counts: dict[tuple[str, int, int], Counter[str]] = {}
        self._on_outcomes = on_outcomes
        self._on_settled = on_settled
        self._shadow_of = shadow_of
        self._share = Share()
        self._flows: dict[str, Flow] = {}
        self._waiting = 0

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        """What a batch gave; for `Scheduler`."""
        if not self.active and not self._waiting:
            self._on_outcomes(run, requests, outcomes)
            return
        live = [i for i, request in enumerate(requests) if not isinstance(request, Copy)]
        for request, outcome in zip(requests, outcomes, strict=True):
            if isinstance(request, Copy):
                self._compared(request, outcome)
        if live:
            self._on_outcomes(run, [requests[i] for i in live], [outcomes[i] for i in live])
        for i in live:
            self._copy(run, requests[i], outcomes[i])

    def settled(self, requests: list[Any], fate: Fate) -> None:
        """What was not run; for `Scheduler`."""
        for request in requests:
            if isinstance(request, Copy):
                self._note(request, "skipped")
        if live := [request for request in requests if not isinstance(request, Copy)]:
            self._on_settled(live, fate)

    def _copy(self, run: VersionRun, original: Request, outcome: Outcome) -> None:
        if not isinstance(outcome, Answer):
            return
        shadow = self._shadow_of(run, original.flow)
        if shadow is None or shadow is run:
            return
        copy = Copy(self._flow(original.flow.key), original, outcome, run, shadow)
        copy.deadline = copy.due = asyncio.get_running_loop().time() + WITHIN_S
        self._waiting += 1
        if self._waiting > MOST_WAITING:
            self._note(copy, "skipped")
        else:
            self.scheduler.submit(shadow, copy)

    def _compared(self, copy: Copy, outcome: Outcome) -> None:
        if isinstance(outcome, Answer):
            self._note(copy, "agreed" if agree(copy.live, outcome) else "differed")
        else:
            self._note(copy, "failed")

    def _note(self, copy: Copy, verdict: str) -> None:
        self._waiting -= 1
        key = copy.by.info.name, copy.by.info.version, copy.shadow.info.version
        self.counts.setdefault(key, Counter())[verdict] += 1

    def _flow(self, key: str) -> Flow:
        """A stream's copies run in order; of too many streams the oldest is forgotten."""
        flow = self._flows.get(key)
        if flow is None:
            if len(self._flows) >= MOST_FLOWS:
                del self._flows[next(iter(self._flows))]
            flow = self._flows[key] = Flow(key, self._share)
        return flow
