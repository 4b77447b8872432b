"""The rule about coming back: a device waits longer after each failed connection (`edge.md` 3.1, contracts 5). Pure.

A subscriber does not see who connects. It sees the device's `status`: `offline` is the broker's word (the will) or the
device's, and the next `online` a connection. A broker's log says more; `broker_log` reads it.

Full jitter waits anything below a bound that doubles, so a single short wait says nothing. Of eight connections in a row,
each within `STABLE_S` of the one before, the last four waits are below 2 s in one of 400 such runs that begin at 0.2 s; a
device that does not back off has them always.
"""

from __future__ import annotations

from collections import deque

from penstock_sim.doctor.findings import Trouble

STABLE_S = 5.0
"""A connection that lasts longer ends the row: a device may begin with a short wait again."""
_IN_A_ROW = 8
_LAST = 4
_SHORT_S = 2.0


class Reconnects:
    """The connections of one device, from one witness."""

    def __init__(self, topic: str = "") -> None:
        self._topic = topic
        self._times: deque[float] = deque(maxlen=_IN_A_ROW)
        self._state = ""
        self.heard = False

    @property
    def state(self) -> str:
        """What its status said last, "" before it said anything."""
        return self._state

    def status(self, payload: bytes, at: float) -> list[Trouble]:
        """The device's status. `online` again without `offline` between is a sign of life, no connection."""
        before, self._state = self._state, payload[:32].decode(errors="replace")
        self.heard = True
        return self.connected(at) if (before, self._state) == ("offline", "online") else []

    def connected(self, at: float) -> list[Trouble]:
        """The device connected, or tried to."""
        self.heard = True
        if self._times and at - self._times[-1] > STABLE_S:
            self._times.clear()
        self._times.append(at)
        waits = [b - a for a, b in zip(self._times, list(self._times)[1:])]
        if len(waits) < _IN_A_ROW - 1 or max(waits[-_LAST:]) >= _SHORT_S:
            return []
        expected = "waits that grow from one connection to the next"
        span, last = self._times[-1] - self._times[0], max(waits[-_LAST:])
        came = f"{_IN_A_ROW} connections in {span:.3g} s, the last ones at most {last:.2g} s apart"
        return [Trouble("backoff", expected, came, self._topic)]
