"""A host is where one loaded version runs: threads of this process, or a process of its own.

The seam between what decides (versions, supervision) and what holds a session. A host serves from the moment that it is
handed out, warm and with its golden answers right, until it is closed or lost.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Protocol

from penstock_models.items import Item, Outcome, ServableInfo

PROBE_S = 10.0
"""The time limit of a probe."""

GRACE_S = 0.5
"""How long an ended run may take to come back."""

CLOSE_S = 5.0
"""How long running batches may take to end when their host or executor is closed."""


class Host(Protocol):
    """One loaded version. Used from one event loop."""

    @property
    def info(self) -> ServableInfo: ...

    @property
    def resident_bytes(self) -> int:
        """What the version takes in memory, measured: its own process as of now, or what this one grew by."""

    @property
    def lost(self) -> Future[str]:
        """Done with the reason when it can run no more: its process died, or its runs do not come back."""

    def run(self, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        """One call for a whole batch; as many outcomes as items, in order. The future never raises for an item or a
        model. Outcomes of a batch that failed as a whole (ended at its limit, its process died) are `suspect`: of
        several, each deserves a run alone. The future may be cancelled. Where the host is closed or lost, every item
        is `failed: not_ready`.
        """

    async def probe(self) -> bool:
        """Run a golden sample, and say whether the answer was right; False where it is lost."""

    async def close(self) -> None:
        """Let running batches end within a bound, then free everything. Never raises; may be called twice."""
