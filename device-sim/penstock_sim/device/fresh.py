"""What a `latest` stream has to send: the newest few frames, while they are fresh. Pure.

One frame at a time is on its way to the socket. What waits behind it for longer than `fresh_s` is not sent, since
nobody wants yesterday's picture; where more than `limit` wait, the oldest goes.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

LIMIT = 16


class Fresh(Generic[T]):
    """Times are seconds of a monotonic clock. `stale` counts frames that were not sent since they were too old or too
    many."""

    def __init__(self, fresh_s: float, limit: int = LIMIT) -> None:
        self._fresh_s = fresh_s
        self._limit = limit
        self._waiting: deque[tuple[float, T]] = deque()
        self._busy = False
        self.stale = 0

    def __len__(self) -> int:
        """Frames that wait or are on their way to the socket."""
        return len(self._waiting) + self._busy

    def put(self, frame: T, now_s: float) -> None:
        """Send this when there is room."""
        self._waiting.append((now_s, frame))
        if len(self._waiting) > self._limit:
            self._waiting.popleft()
            self.stale += 1

    def take(self, now_s: float) -> T | None:
        """The next frame to be written, None while another one is being written or none waits."""
        self.expire(now_s)
        if self._busy or not self._waiting:
            return None
        self._busy = True
        return self._waiting.popleft()[1]

    def written(self) -> None:
        """The socket took it, or it went with its connection."""
        self._busy = False

    def expire(self, now_s: float) -> None:
        """Give up what is too old."""
        while self._waiting and now_s - self._waiting[0][0] > self._fresh_s:
            self._waiting.popleft()
            self.stale += 1
