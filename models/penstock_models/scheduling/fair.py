"""Whose turn it is: nobody gets ahead of its fair share, and of those who are not ahead the most urgent goes first.

The rule is Earliest Eligible Virtual Deadline First (Stoica and Abdel-Wahab, 1995) with the deadlines that the requests
really have. The virtual clock stands at the mean, by weight, of what those in line got: a request moves it by one over the
sum of the weights. Who was served moves ahead by one over its own weight, and is eligible again when the clock has caught up.
Who leaves takes what it got along, so that those who stay are owed nothing for it, and comes back as far behind the others
as it left them, or one request more at most: idling earns next to nothing. Where nobody has a deadline, who had least goes
first (Start-time Fair Queueing).
"""

from __future__ import annotations

import heapq
import itertools
from typing import Any, Generic, TypeVar

_SPARE = 64
_ROUNDING = 1e-9

NEWCOMER = 1e-6
"""Of a request: who comes goes before those that were served up to now."""

_orders = itertools.count(1)
"""Places of all lines: a number that was left in one line is never that of a place in another."""


class Entry:
    """Somebody who may stand in a line. `line` is where, None while it does not.

    `virtual` is how much it got, in the time of `last`, the line that it last stood in, and `owed` by how much that was less
    than the mean of those whom it left there. `order` is its place among those that are as urgent, 0 while it stands nowhere.
    """

    __slots__ = ("last", "line", "order", "owed", "virtual", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.virtual = 0.0
        self.owed = 0.0
        self.order = 0
        self.line: Any = None
        self.last: Any = None


E = TypeVar("E", bound=Entry)


class FairLine(Generic[E]):
    """Entries that wait for their turns. `len` is how many stand in it."""

    __slots__ = ("_ahead", "_clock", "_count", "_ready", "_weight")

    def __init__(self) -> None:
        self._clock = 0.0
        self._weight = 0.0
        self._count = 0
        # Both hold places that were left, too: a place counts while its number is still its entry's.
        self._ready: list[tuple[float, int, E]] = []  # by deadline, or who had least
        self._ahead: list[tuple[float, int, float, E]] = []  # by virtual time

    def __len__(self) -> int:
        return self._count

    def add(self, entry: E, deadline: float | None = None) -> None:
        """Let somebody stand here whose most urgent request has that deadline.

        Who comes back is owed what it missed, up to one request: it was away to be served, or had nothing for a moment. What
        it was owed before is not forgotten for that.
        """
        entry.line = self
        self._count += 1
        self._weight += entry.weight
        if entry.last is self:
            owed = entry.owed + 1.0 / entry.weight + NEWCOMER
            entry.virtual = max(entry.virtual, self._clock - owed)
            self._clock += (entry.virtual - self._clock) * entry.weight / self._weight
        else:
            entry.virtual = self._clock - NEWCOMER
            entry.last = self
        self.move(entry, deadline)

    def leave(self, entry: E) -> None:
        """It has nothing to give any more."""
        entry.line = None
        entry.order = 0
        self._count -= 1
        self._weight -= entry.weight
        if self._count:
            self._clock += (self._clock - entry.virtual) * entry.weight / self._weight
            # One that was served once too often is ahead by one over its weight: so is, at most, the mean of such.
            entry.owed = min(max(self._clock - entry.virtual, 0.0), self._count / self._weight)
        else:
            entry.owed = 0.0
            self._weight = 0.0  # what rounding left
            self._ready.clear()
            self._ahead.clear()

    def move(self, entry: E, deadline: float | None = None) -> None:
        """Its most urgent request is another one now."""
        key = entry.virtual if deadline is None else deadline
        if len(self._ready) + len(self._ahead) > 2 * self._count + _SPARE:
            self._forget()
        order = entry.order = next(_orders)
        if entry.virtual <= self._clock + _ROUNDING:
            heapq.heappush(self._ready, (key, order, entry))
        else:
            heapq.heappush(self._ahead, (entry.virtual, order, key, entry))

    def first(self) -> E | None:
        """Whose turn it is; None where nobody stands here."""
        if not self._count:
            return None
        while True:
            self._promote()
            ready = self._ready
            while ready and ready[0][2].order != ready[0][1]:
                heapq.heappop(ready)
            if ready:
                return ready[0][2]
            self._clock = self._ahead[0][0]  # by what rounding left, nobody is at the mean

    def rounds(self, entry: E) -> float:
        """How many turns are taken here while this one, that stands here or will, has one of them."""
        weight = self._weight if entry.line is self else self._weight + entry.weight
        return weight / entry.weight

    def entries(self) -> list[E]:
        """All that stand here, in no order."""
        places = [(place[1], place[2]) for place in self._ready] + [(p[1], p[3]) for p in self._ahead]
        return [entry for order, entry in places if entry.order == order]

    def serve(self, entry: E) -> None:
        """It gave a request. Its next place is for `move` or `leave` to say."""
        self._clock += 1.0 / self._weight
        entry.virtual += 1.0 / entry.weight

    def _promote(self) -> None:
        ahead = self._ahead
        while ahead and (ahead[0][0] <= self._clock + _ROUNDING or ahead[0][3].order != ahead[0][1]):
            _, order, key, entry = heapq.heappop(ahead)
            if entry.order == order:
                heapq.heappush(self._ready, (key, order, entry))

    def _forget(self) -> None:
        """Drop the places that were left, before they are most of what is kept."""
        self._ready = [place for place in self._ready if place[2].order == place[1]]
        self._ahead = [place for place in self._ahead if place[3].order == place[1]]
        heapq.heapify(self._ready)
        heapq.heapify(self._ahead)
