"""The rules that keep pictures fresh: how old one is, when silence means a cut.

Pure: times come in, on the monotonic clock in seconds.
"""

from __future__ import annotations

PROMISED_S = 2.0
"""No older picture is sent."""

_UNSEEN_S = 0.4
"""What even a camera's fastest picture takes to get here, through its encoder, the network and our decoder; nothing
tells how long that is."""

MAX_AGE_S = PROMISED_S - _UNSEEN_S
"""No picture is sent that is older as far as we see."""

_DRIFT = 0.0005
"""How much faster than ours a camera's clock may run, as a part of the time. A real delay that grows more slowly than
this goes unseen; a clock that is worse makes pictures look old."""


class SourceClock:
    """Tells from a stream's own time stamps how far a picture lags behind the least delay that was seen.

    After a stall the network delivers old pictures at once. They arrive now, but their stamps say when they were made.

    Args:
        buffered: the connection begins with pictures that were gathered while it was opened, seconds old. They come
            faster than they were made; until that is over nothing can be said.
    """

    def __init__(self, *, buffered: bool = False) -> None:
        self._caught_up = not buffered
        self._least: float | None = None
        self._now = self._stamp_s = 0.0
        self._begun = False

    def lag_s(self, now: float, stamp_s: float) -> float | None:
        """How late the picture with this stamp is, beside the fastest one; None while that cannot be said.

        Stamps that stand still are none: the lag is 0.
        """
        came_s, made_s = now - self._now, stamp_s - self._stamp_s
        self._now, self._stamp_s = now, stamp_s
        if not self._begun:
            self._begun = True
            if not self._caught_up:
                return None
        elif not self._caught_up:
            self._caught_up = made_s == 0 or (made_s > 0 and came_s >= made_s / 2)
            if not self._caught_up:
                return None
        if made_s == 0 and self._least is not None:
            return 0.0
        return self._behind(now - stamp_s, came_s)

    def _behind(self, offset: float, came_s: float) -> float:
        if self._least is not None:
            self._least += _DRIFT * came_s
        if self._least is None or offset < self._least:
            self._least = offset
        return offset - self._least


class Silence:
    """How long a camera may be silent before it counts as cut: some of its usual intervals.

    A stream without time stamps does not show that a stalled picture is old, so a fast camera's connection is given up
    before anything older than `MAX_AGE_S` can have gathered in it. One that is slow by nature gets more time, up to a bound.
    """

    FIRST_S = 10.0
    LEAST_S = 1.5
    MOST_S = 10.0

    def __init__(self, now: float) -> None:
        self._last = now
        self._usual_s: float | None = None
        self._pictures = 0

    def heard(self, now: float) -> None:
        """A picture came."""
        if self._pictures:
            interval = now - self._last
            self._usual_s = interval if self._usual_s is None else 0.8 * self._usual_s + 0.2 * interval
        self._pictures += 1
        self._last = now

    @property
    def limit_s(self) -> float:
        """The longest silence that is not a cut, counted from the last picture."""
        if self._usual_s is None:
            return self.FIRST_S
        return min(self.MOST_S, max(self.LEAST_S, 3 * self._usual_s))

    def left_s(self, now: float) -> float:
        """How long may still be waited; 0 or less is a cut."""
        return self._last + self.limit_s - now
