"""Who owns the requests of a scheduler in its tests: submits them, and notes what becomes of them.

async with running(FakeOwner(VersionRun(servable()))) as owner:
    owner.submit("a")                  # a flow's key, or the flow
    await owner.executor.finish()
    assert owner.done == [("a", ANSWER)]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from penstock_models.items import Item, Outcome, Payload, Tensor
from penstock_models.scheduling.chain import Chain
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Fate, Target
from penstock_models.serving.front import Front
from tests.fakes.executor import FakeExecutor, servable, turns


class FakeOwner:
    """`done` are the requests that ran, by their flow's key, with how they ended; `refused` those that did not run.

    Args:
        runs: the versions, one where none is given; requests are for the first one, unless told otherwise.
        shadow: the version that gets copies.
        chain: what requests go through behind the first version.
    """

    def __init__(
        self, *runs: VersionRun, slots: int = 1, shadow: VersionRun | None = None, chain: Chain | None = None
    ) -> None:
        self.executor = FakeExecutor()
        self.done: list[tuple[str, Outcome]] = []
        self.refused: list[tuple[str, Fate]] = []
        self.front = Front(self.executor, slots, lambda run, flow: shadow)
        self.front.own(self)
        self.front.shadows.active = shadow is not None
        self.scheduler = self.front.scheduler
        self.runs = runs or (VersionRun(servable()),)
        self.scheduler.runs.extend(self.runs)
        self._share = Share()
        self._chain = chain

    def outcomes(self, run: VersionRun, requests: list[Any], outcomes: Sequence[Outcome]) -> None:
        self.done += [(r.flow.key, outcome) for r, outcome in zip(requests, outcomes, strict=True)]

    def settled(self, requests: list[Any], fate: Fate) -> None:
        self.refused += [(r.flow.key, fate) for r in requests]

    def flow(self, key: str) -> Flow:
        return Flow(key, self._share, chain=self._chain)

    def queue(
        self, flow: Flow | str, in_s: float = 60.0, to: Target | None = None, payload: Payload | None = None
    ) -> Request:
        """Give the scheduler a request whose deadline is so far; its payload is the flow's key, unless told otherwise."""
        if isinstance(flow, str):
            flow = self.flow(flow)
        request = Request(flow, Item(payload or Tensor(flow.key.encode()), flow.key))
        request.deadline = request.due = asyncio.get_running_loop().time() + in_s
        if flow.chain is not None:
            request.deadline = flow.chain.deadline(request.due, 0, flow)
        self.scheduler.submit(to or self.runs[0], request)
        return request

    def submit(self, *flows: Flow | str, **options: Any) -> Request:
        """Queue one request of each flow, then let them run; returns the last."""
        for flow in flows:
            request = self.queue(flow, **options)
        self.scheduler.kick()
        return request


AnyOwner = TypeVar("AnyOwner", bound=FakeOwner)


@asynccontextmanager
async def running(owner: AnyOwner) -> AsyncIterator[AnyOwner]:
    """Run its scheduler; leaving cancels that."""
    task = asyncio.create_task(owner.scheduler.run())
    await turns()
    try:
        yield owner
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
