"""A lane: the live side of a route. It counts what the route holds and says when that is full.

Pure. What "full" does is named in the configuration: `wait` stops reading the lane's socket, `drop_oldest` and
`drop_newest` settle a frame as `dropped: full`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock_gateway.config import Route
from penstock_gateway.dispatcher import ModelRun

if TYPE_CHECKING:
    from penstock_gateway.frames import Frame, Stream

RESUME = 0.75
"""A lane that waits is read again when it holds less than this share of its bounds."""

BURST = 10_000
"""Frames beyond its bounds that a lane with `drop_oldest` may hold until a commit tells which is the oldest."""


class Lane:
    """Frames and bytes that a route holds: accepted, and not yet settled for good.

    `streams` are those that sent something in this start, `halted` are those whose last receipt said `window` 0.
    """

    def __init__(self, route: Route, model: ModelRun) -> None:
        self.route = route
        self.model = model
        self.frames = 0
        self.nbytes = 0
        self.streams: set[Stream] = set()
        self.paused = False
        self.halted: dict[Stream, None] = {}
        self._line: dict[Frame, None] = {}

    def hold(self, frame: Frame) -> None:
        self.frames += 1
        self.nbytes += frame.nbytes

    def let_go(self, frame: Frame) -> None:
        self.frames -= 1
        self.nbytes -= frame.nbytes
        self._line.pop(frame, None)

    def queue(self, frame: Frame) -> None:
        """The frame waits for its model from now on. Kept in order of arrival where the oldest may be asked for."""
        if self.route.on_full == "drop_oldest" and frame.every:
            self._line[frame] = None
        self.model.queue.push(frame)

    def oldest(self) -> Frame | None:
        """The first of the lane's frames that still wait, of whichever stream."""
        return next((frame for frame in self._line if frame.waiting), None)

    @property
    def full(self) -> bool:
        return self.frames >= self.route.queue or self.nbytes >= self.route.queue_bytes

    @property
    def over(self) -> bool:
        """It holds more than its bounds, the frame at hand counted in."""
        return self.frames > self.route.queue or self.nbytes > self.route.queue_bytes

    @property
    def bursting(self) -> bool:
        """It holds more than a burst between two commits explains."""
        route = self.route
        return self.frames > route.queue + BURST or self.nbytes > 2 * route.queue_bytes

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
