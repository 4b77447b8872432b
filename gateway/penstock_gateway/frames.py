"""A frame on its way through the gateway, the stream that it belongs to, and the lane (route) that took it.

They are the scheduler's request, flow and share with what a gateway adds. Frames and streams are plain mutable records,
owned by the event loop; rules about them live in `admission` and `ledger`. A lane is the live side of a route: it counts what the route holds and says when that is
full. What "full" does is named in the configuration: `wait` stops reading the lane's socket, `drop_oldest` and
`drop_newest` settle a frame as `dropped: full`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from penstock_gateway.config import Route
from penstock_gateway.identity import StreamIdentity
from penstock_gateway.ledger import Counts
from penstock_models.scheduling.chain import Chain
from penstock_models.scheduling.request import Flow, Request, Share
from penstock_models.scheduling.scheduler import Target

RESUME = 0.75
"""A lane that waits is read again when it holds less than this share of its bounds."""

BURST = 10_000
"""Frames beyond its bounds that a lane with `drop_oldest` may hold until a commit tells which is the oldest."""


class Frame(Request):
    """One accepted message. Times are seconds of the monotonic clock, `ts` and `arrived_ms` epoch milliseconds.

    `row` is its journal row, 0 without one; `every` says that the journal's books count it; `digest` names an `every`
    frame without a number; `begun` is true once a batch took it.
    """

    __slots__ = (
        "arrived",
        "arrived_ms",
        "begun",
        "boot",
        "correlation",
        "digest",
        "every",
        "historical",
        "id",
        "qos",
        "response_topic",
        "row",
        "seq",
        "stream",
        "ts",
        "ts_suspect",
    )  # fmt: skip

    def __init__(self, stream: Stream, frame_id: str, arrived: float, arrived_ms: int, nbytes: int) -> None:
        super().__init__(stream, None, nbytes)
        self.stream = stream
        self.every = False
        self.id = frame_id
        self.arrived = arrived
        self.arrived_ms = arrived_ms
        self.seq: int | None = None
        self.boot: str | None = None
        self.ts: int | None = None
        self.ts_suspect = False
        self.historical = False
        self.qos = 0
        self.row = 0
        self.response_topic = ""
        self.correlation = b""
        self.digest = b""
        self.begun = False

    def begin(self) -> None:
        self.stream.lane.begin(self)


class Stream(Flow):
    """One camera or sensor channel of a device, on the lane (route) that takes its frames."""

    __slots__ = ("counts", "device", "identity", "lane", "name", "receipt_topic", "result_topic")

    def __init__(self, device: str, name: str, lane: Lane, counts: Counts, topics: tuple[str, str]) -> None:
        super().__init__(f"{device}/{name}", lane, chain=lane.chain)
        self.device = device
        self.name = name
        self.lane = lane
        self.counts = counts
        self.result_topic, self.receipt_topic = topics
        self.identity: StreamIdentity | None = None

    @property
    def oldest(self) -> Frame | None:
        """The first of its frames that wait."""
        return cast(Frame, self.waiting[0]) if self.waiting else None


class Lane(Share):
    """Frames and bytes that a route holds: accepted, and not yet settled for good.

    Of them, those that a batch took already are counted apart: they make a lane full that stops reading its socket,
    and are no longer a queue of which something could be dropped.

    `streams` are those that sent something in this start, `halted` are those whose last receipt said `window` 0.
    """

    def __init__(self, route: Route, target: Target, stages: Sequence[Target] = ()) -> None:
        super().__init__()
        self.route = route
        self.target = target
        self.chain = Chain(stages) if stages else None
        self.frames = 0
        self.nbytes = 0
        self._begun = 0
        self._begun_bytes = 0
        self.streams: set[Stream] = set()
        self.paused = False
        self.halted: dict[Stream, None] = {}
        self._line: dict[Frame, None] = {}

    def hold(self, frame: Frame) -> None:
        self.frames += 1
        self.nbytes += frame.nbytes

    def begin(self, frame: Frame) -> None:
        """A batch took the frame."""
        frame.begun = True
        self._begun += 1
        self._begun_bytes += frame.nbytes
        self._line.pop(frame, None)

    def let_go(self, frame: Frame) -> None:
        self.frames -= 1
        self.nbytes -= frame.nbytes
        if frame.begun:
            self._begun -= 1
            self._begun_bytes -= frame.nbytes
        self._line.pop(frame, None)

    def line_up(self, frame: Frame) -> None:
        """The frame waits for its model from now on. Kept in order of arrival where the oldest may be asked for."""
        frame.due = frame.deadline
        if self.chain is not None:
            frame.deadline = self.chain.deadline(frame.due, 0, frame.stream)
        if self.route.on_full == "drop_oldest" and frame.every:
            self._line[frame] = None

    def oldest(self) -> Frame | None:
        """The first of the lane's frames that still wait, of whichever stream."""
        return next((frame for frame in self._line if frame.waiting), None)

    @property
    def full(self) -> bool:
        return self.frames >= self.route.queue or self.nbytes >= self.route.queue_bytes

    def over(self, less: Frame | None = None) -> bool:
        """More waits than its bounds allow, the frame at hand counted in, `less` left out."""
        frames, nbytes = self.frames - self._begun, self.nbytes - self._begun_bytes
        if less is not None:
            frames, nbytes = frames - 1, nbytes - less.nbytes
        return frames > self.route.queue or nbytes > self.route.queue_bytes

    @property
    def bursting(self) -> bool:
        """More waits than a burst between two commits explains."""
        frames, nbytes = self.frames - self._begun, self.nbytes - self._begun_bytes
        return frames > self.route.queue + BURST or nbytes > 2 * self.route.queue_bytes

    @property
    def roomy(self) -> bool:
        """There is room enough to read again after a pause."""
        return self.frames < RESUME * self.route.queue and self.nbytes < RESUME * self.route.queue_bytes

    @property
    def window(self) -> int:
        """How many frames each of its streams may send (the receipt's `window`): a share of what is free.

        0, pause, only while the lane takes nothing: many streams on a short queue still get one frame each.
        """
        if self.paused or self.full:
            return 0
        return max(1, (self.route.queue - self.frames) // max(1, len(self.streams)))

    def may_name(self, device: str, stream: str) -> bool:
        """Whether a frame of this stream can have come over this route."""
        route = self.route
        return (route.filter.device >= 0 or route.default_device == device) and (
            route.filter.stream >= 0 or route.default_stream == stream
        )
