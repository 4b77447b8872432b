"""A request on its way to a version, the flow that it belongs to, and the share of the version's time that it draws on.

Plain mutable records, owned by one event loop. An owner adds what it needs by subclassing: a gateway's frame is a
request, its stream a flow, its route a share.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from penstock_models.items import Item
from penstock_models.scheduling.fair import Entry

if TYPE_CHECKING:
    from penstock_models.scheduling.chain import Chain
    from penstock_models.scheduling.queue import VersionQueue
    from penstock_models.scheduling.runs import VersionRun
    from penstock_models.scheduling.scheduler import Target

HISTORICAL_RANK = 10
"""Rank of a request that runs behind all live ones; a live one's rank is 9 − priority, 0 runs first."""

NO_DEADLINE = float("inf")


class Share:
    """A part of a version's time: what stands behind one share takes turns with another, by weight."""

    __slots__ = ("weight",)

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight


class Flow(Entry):
    """The requests of one source, which run and are answered in order: by rank, then as they came.

    `waiting` is its line in `queue`, the version's that runs them, for `target`, what they asked for; `busy` while a
    batch holds requests of it, `held` while one that ran is not answered yet: it has parts under way in `chain`.
    """

    __slots__ = ("busy", "chain", "held", "key", "queue", "share", "target", "waiting")

    def __init__(self, key: str, share: Share, weight: float = 1.0, chain: Chain | None = None) -> None:
        super().__init__(weight)
        self.key = key
        self.share = share
        self.chain = chain
        self.waiting: deque[Request] = deque()
        self.queue: VersionQueue | None = None
        self.target: Target | None = None
        self.busy = False
        self.held = False

    def chosen(self) -> VersionRun | None:
        """The version that runs it as of now; None where none does."""
        return self.target.run_for(self) if self.target is not None else None


class Request:
    """One item for a version. Times are seconds of the monotonic clock.

    `deadline` is when the run must be done, `due` when the answer is: later, where other stages follow. `waiting` is true
    while it stands in its flow's line, `taken` is when a batch took it. `nbytes` is for an owner who bounds what waits.
    """

    __slots__ = ("deadline", "due", "flow", "item", "nbytes", "rank", "taken", "waiting")

    def __init__(self, flow: Flow, item: Item | None = None, nbytes: int = 0) -> None:
        self.flow = flow
        self.item = item
        self.nbytes = nbytes
        self.deadline = self.due = NO_DEADLINE
        self.rank = 4
        self.taken = 0.0
        self.waiting = False

    def begin(self) -> None:
        """A batch took it: for an owner who counts those that wait."""
