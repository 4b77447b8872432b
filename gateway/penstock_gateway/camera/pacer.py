"""Which picture goes out, and when: the newest one, at most `fps` a second, none that is old, one at a time.

Pure: pictures and times come in, a decision goes out. `captured = sent + skipped + stale + failed` once a source is
over, so no picture is lost in silence.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock_gateway.camera.freshness import MAX_AGE_S
from penstock_gateway.camera.pictures import Picture

_SLACK_S = 0.001
"""What a beat may come early, so that rounding does not cost a picture."""


@dataclass(frozen=True)
class Send:
    """Send this picture now."""

    picture: Picture


@dataclass(frozen=True)
class Wait:
    """Nothing to do for so long, or until something happens (None)."""

    seconds: float | None = None


class Pacer:
    """Args: fps: pictures a second at most; None sends every one that there is time for."""

    def __init__(self, fps: float | None) -> None:
        self.sent = 0
        self.skipped = 0
        """Replaced by a newer picture before they were due, or before the last one was through."""
        self.stale = 0
        """Older than `MAX_AGE_S` when it was their turn."""
        self.failed = 0
        """Could not be encoded again; said by `undo`."""
        self._interval_s = 1 / fps if fps else 0.0
        self._due = float("-inf")
        self._last = -1

    @property
    def captured(self) -> int:
        """Pictures that a fate was decided for."""
        return self.sent + self.skipped + self.stale + self.failed

    def decide(self, now: float, newest: Picture | None, ready: bool) -> Send | Wait:
        """What to do with the newest picture; `ready` when there is a connection and nothing under way on it."""
        if newest is None or newest.number <= self._last:
            return Wait()
        if now - newest.captured > MAX_AGE_S:
            self._settle(newest)
            self.stale += 1
            return Wait()
        if not ready:
            return Wait(max(0.0, newest.captured + MAX_AGE_S - now))
        if now < self._due - _SLACK_S:
            return Wait(self._due - now)
        self._settle(newest)
        self.sent += 1
        # The beat is kept over jitter, and begins anew where the camera is slower than it.
        self._due = (
            self._due + self._interval_s if self._due + self._interval_s > now else now + self._interval_s
        )
        return Send(newest)

    def undo(self, *, stale: bool) -> None:
        """The last picture was not sent after all: it got old on its way, or could not be encoded."""
        self.sent -= 1
        if stale:
            self.stale += 1
        else:
            self.failed += 1

    def close(self, newest: Picture | None) -> None:
        """The end: what was captured and not sent is skipped."""
        if newest is not None and newest.number > self._last:
            self.skipped += newest.number - self._last
            self._last = newest.number

    def _settle(self, picture: Picture) -> None:
        self.skipped += picture.number - self._last - 1
        self._last = picture.number
