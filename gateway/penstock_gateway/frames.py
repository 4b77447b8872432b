"""A frame on its way through the gateway, and the stream that it belongs to.

Both are plain mutable records, owned by the event loop; rules about them live in `admission`, `model_queue` and
`ledger`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from penstock_gateway.ledger import Counts
from penstock_models.items import Item

if TYPE_CHECKING:
    from penstock_gateway.identity import StreamIdentity
    from penstock_gateway.lanes import Lane

HISTORICAL_RANK = 10
"""Rank of a frame that runs behind all live ones; a live frame's rank is 9 − priority, 0 runs first."""

NO_DEADLINE = float("inf")


class Frame:
    """One accepted message. Times are seconds of the monotonic clock, `ts` and `arrived_ms` epoch milliseconds.

    `row` is its journal row, 0 without one; `every` says that the journal's books count it; `digest` names an `every` frame without a number; `waiting` is true while it stands in its stream's queue.
    """

    __slots__ = (
        "arrived",
        "arrived_ms",
        "boot",
        "correlation",
        "deadline",
        "digest",
        "every",
        "historical",
        "id",
        "item",
        "nbytes",
        "qos",
        "rank",
        "response_topic",
        "row",
        "seq",
        "stream",
        "taken",
        "ts",
        "ts_suspect",
        "waiting",
    )  # fmt: skip

    def __init__(self, stream: Stream, frame_id: str, arrived: float, arrived_ms: int, nbytes: int) -> None:
        self.stream = stream
        self.every = False
        self.id = frame_id
        self.arrived = arrived
        self.arrived_ms = arrived_ms
        self.nbytes = nbytes
        self.item: Item | None = None
        self.seq: int | None = None
        self.boot: str | None = None
        self.ts: int | None = None
        self.ts_suspect = False
        self.historical = False
        self.deadline = NO_DEADLINE
        self.rank = 4
        self.qos = 0
        self.row = 0
        self.response_topic = ""
        self.correlation = b""
        self.digest = b""
        self.taken = 0.0
        self.waiting = False


class Stream:
    """One camera or sensor channel of a device, on the lane (route) that takes its frames.

    `level` is the rank under which it stands in its model's ready list, -1 while it does not; `busy` while a batch
    holds frames of it, so that a stream's frames are run and answered in order.
    """

    __slots__ = (
        "busy", "counts", "device", "identity", "key", "lane", "level", "name", "receipt_topic", "result_topic",
        "waiting",
    )  # fmt: skip

    def __init__(self, device: str, name: str, lane: Lane, counts: Counts, topics: tuple[str, str]) -> None:
        self.device = device
        self.name = name
        self.key = f"{device}/{name}"
        self.lane = lane
        self.counts = counts
        self.result_topic, self.receipt_topic = topics
        self.waiting: deque[Frame] = deque()
        self.busy = False
        self.level = -1
        self.identity: StreamIdentity | None = None
