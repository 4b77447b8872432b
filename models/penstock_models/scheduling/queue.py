"""What waits for one version: whose turn it is, and what is too late. Pure: time comes in as an argument.

Shares take turns by weight, and within a share its flows, so neither a flooded share nor a flooded flow can starve
another; of those whose turn it may be, the earliest deadline goes first. A flow stands in the line of its first
request's rank, and the lines of a share are served in the order of the ranks: a priority counts within its share.
Historical requests run when nothing live waits. While a batch holds requests of a flow it stands in no line, so they are
run and answered in order; of a flow that goes through a chain a batch holds one, as its parts end when they like.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from penstock_models.scheduling.fair import Entry, FairLine
from penstock_models.scheduling.request import HISTORICAL_RANK, NO_DEADLINE, Flow, Request, Share

_SPARE = 64


class Plan(NamedTuple):
    """How a batch may be formed.

    Args:
        limit: requests at most.
        seconds: predicts how long a batch of so many takes.
        floor: a request that leaves no time for a batch of so many is not worth running.
        trial: take the first request although it is predicted late.
        likely_s: what one alone will probably take: who has as long is run where there is nothing better to do.
    """

    limit: int
    seconds: Callable[[int], float] = lambda _: 0.0
    floor: int = 1
    trial: bool = False
    likely_s: float = NO_DEADLINE


class Taken(NamedTuple):
    """A batch to run, and the requests that can no longer meet their deadline."""

    batch: list[Any]
    in_queue: list[Any]
    predicted_late: list[Any]


class _Line(FairLine[Flow]):
    """The flows of one share whose first request has one rank."""

    __slots__ = ("rank", "turns")

    def __init__(self, turns: _Turns, rank: int) -> None:
        super().__init__()
        self.turns = turns
        self.rank = rank


class _Turns(Entry):
    """One share in this queue, its lines by rank. `ranks` has a bit for each line in which somebody stands."""

    __slots__ = ("lines", "ranks")

    def __init__(self, weight: float) -> None:
        super().__init__(weight)
        self.lines: dict[int, _Line] = {}
        self.ranks = 0

    def of_rank(self, rank: int) -> _Line:
        found = self.lines.get(rank)
        if found is None:
            found = self.lines[rank] = _Line(self, rank)
        return found

    def most_urgent(self) -> _Line:
        return self.lines[(self.ranks & -self.ranks).bit_length() - 1]


class VersionQueue:
    """Waiting requests of one version on one device.

    Args:
        one_per_flow: a batch may hold only one request of a flow (stateful models).
    """

    def __init__(self, one_per_flow: bool = False) -> None:
        self.one_per_flow = one_per_flow
        self.waiting = 0
        self._shares: tuple[dict[Share, _Turns], dict[Share, _Turns]] = ({}, {})
        self._lines: tuple[FairLine[_Turns], FairLine[_Turns]] = (FairLine(), FairLine())  # live, historical
        self._busy: set[Flow] = set()  # of those that wait here
        self._deadlines: list[tuple[float, int, Request]] = []
        self._order = 0

    @property
    def ready(self) -> bool:
        """There is a request that may be taken now: of a flow that no running batch holds."""
        return bool(len(self._lines[0]) or len(self._lines[1]))

    @property
    def live(self) -> bool:
        """What may be taken now is not historical alone."""
        return bool(len(self._lines[0]))

    def push(self, request: Request) -> None:
        """Add a request behind those of its flow that are as urgent."""
        flow = request.flow
        line = flow.waiting
        if flow.queue is not self:
            self.adopt(flow)
        request.waiting = True
        if line and line[-1].rank > request.rank:
            _insert_by_rank(line, request)
        else:
            line.append(request)
        self._count(request)
        if not flow.busy and line[0] is request:
            self._stand(flow)

    def remove(self, request: Request) -> None:
        """Take a waiting request out: superseded, cancelled, dropped."""
        flow = request.flow
        first = flow.waiting[0] is request
        request.waiting = False
        flow.waiting.remove(request)
        self.waiting -= 1
        if first and not flow.busy:
            self._stand(flow)

    def take(self, plan: Plan, now: float) -> Taken:
        """Form a batch: those whose turn it is, as many as end in time together."""
        batch: list[Request] = []
        in_queue: list[Request] = []
        late: list[Request] = []
        given: dict[Share, int] = {}
        tightest = NO_DEADLINE
        worth = now + plan.seconds(min(plan.floor, self.waiting))
        while len(batch) < plan.limit and (flow := self._first()) is not None:
            request = flow.waiting[0]
            deadline = request.deadline
            tried = plan.trial and not batch
            if deadline < now:
                in_queue.append(self._pop(flow))
                continue
            if deadline < worth and not tried:
                late.append(self._pop(flow))
                worth = now + plan.seconds(max(1, min(plan.floor, len(batch) + self.waiting)))
                continue
            least = deadline if deadline < tightest else tightest
            if batch and least < now + plan.seconds(len(batch) + 1):
                break  # one of them would be late with it; its turn comes next
            count = given[flow.share] = given.get(flow.share, 0) + 1
            if count > next(iter(given.values())):
                break  # a flooded share does not make the batch of one that has little much longer
            tightest = least
            request.taken = now
            batch.append(request)
            self._serve(flow)
            if tried and deadline < worth:
                break  # alone: it costs as little as a trial can
        if late and not batch and late[-1].deadline >= now + plan.likely_s:
            # The slot would idle. The last one, so that nothing of its flow that came later has its fate before it.
            request = late.pop()
            request.taken = now
            batch.append(request)
        self._hold(batch)
        return Taken(batch, in_queue, late)

    def release(self, batch: list[Any]) -> None:
        """A batch is done: its flows may stand in line again, wherever their requests wait by now."""
        for request in batch:
            flow = request.flow
            flow.busy = False
            flow.queue._busy.discard(flow)
            if flow.waiting and flow.line is None:
                flow.queue._stand(flow)

    def expire(self, now: float) -> list[Any]:
        """Take out the waiting requests whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if self._has(request):
                self.remove(request)
                expired.append(request)
        return expired

    def next_deadline(self) -> float:
        """The earliest deadline of a waiting request; NO_DEADLINE where none waits."""
        while self._deadlines and not self._has(self._deadlines[0][2]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else NO_DEADLINE

    def ahead(self, flow: Flow) -> int:
        """About how many requests run before one that this flow gives now: as many rounds as it has waiting itself, and in
        each those that the others in its line are due, and then the other shares.
        """
        rank = flow.waiting[0].rank
        level, turns = self._turns_of(flow.share, rank)
        rounds = turns.of_rank(rank).rounds(flow) * self._lines[level].rounds(turns)
        return min(self.waiting, round(len(flow.waiting) * rounds))

    def adopt(self, flow: Flow) -> None:
        """Take over what a flow has waiting in another version's queue, behind a batch there that runs too."""
        old = flow.queue
        flow.queue = self
        if old is None:
            return
        if flow.line is not None:
            old._leave(flow)
        elif flow.busy:
            old._busy.discard(flow)
            self._busy.add(flow)
        old.waiting -= len(flow.waiting)
        for request in flow.waiting:
            self._count(request)
        if not flow.busy:
            self._stand(flow)

    def drain(self) -> list[Any]:
        """Take out everything that waits, behind a batch that runs too."""
        requests: list[Request] = []
        for flow in self.flows():
            if flow.line is not None:
                self._leave(flow)
            requests.extend(flow.waiting)
            flow.waiting.clear()
        for request in requests:
            request.waiting = False
        self.waiting = 0
        return requests

    def flows(self) -> list[Flow]:
        """Those with requests here."""
        standing = [
            flow
            for shares in self._shares
            for turns in shares.values()
            for line in turns.lines.values()
            for flow in line.entries()
        ]
        return standing + [flow for flow in self._busy if flow.waiting]

    def _has(self, request: Request) -> bool:
        return request.waiting and request.flow.queue is self

    def _count(self, request: Request) -> None:
        self.waiting += 1
        if request.deadline == NO_DEADLINE:
            return
        # Requests that wait no more are forgotten before they are most of the heap: with a deadline of hours it would
        # otherwise keep every superseded picture for hours.
        if len(self._deadlines) > 2 * self.waiting + _SPARE:
            self._deadlines = [entry for entry in self._deadlines if self._has(entry[2])]
            heapq.heapify(self._deadlines)
        self._order += 1
        heapq.heappush(self._deadlines, (request.deadline, self._order, request))

    def _first(self) -> Flow | None:
        """The flow whose turn it is."""
        for shares in self._lines:
            turns = shares.first()
            if turns is not None:
                return turns.most_urgent().first()
        return None

    def _serve(self, flow: Flow) -> None:
        """Its first request was taken."""
        line: _Line = flow.line
        turns, shares = line.turns, line.turns.line
        line.serve(flow)
        shares.serve(turns)
        self._pop(flow, stay=not self.one_per_flow and flow.chain is None)
        if turns.line is not None and len(shares) > 1:
            shares.move(turns)

    def _pop(self, flow: Flow, stay: bool = True) -> Request:
        request = flow.waiting.popleft()
        request.waiting = False
        self.waiting -= 1
        if stay and flow.waiting:
            self._stand(flow)
        else:
            self._leave(flow)
        return request

    def _hold(self, batch: list[Request]) -> None:
        """While a batch runs, its flows stand in no line."""
        for request in batch:
            flow = request.flow
            if flow.line is not None:
                self._leave(flow)
            flow.busy = True
            self._busy.add(flow)

    def _turns_of(self, share: Share, rank: int) -> tuple[bool, _Turns]:
        """The turns of a share among those that live or historical requests are for, and which of the two."""
        historical = rank >= HISTORICAL_RANK
        turns = self._shares[historical].get(share)
        if turns is None:
            turns = self._shares[historical][share] = _Turns(share.weight)
        return historical, turns

    def _stand(self, flow: Flow) -> None:
        """Put a flow where its first request belongs; out of line where it has none."""
        if not flow.waiting:
            if flow.line is not None:
                self._leave(flow)
            return
        request = flow.waiting[0]
        level, turns = self._turns_of(flow.share, request.rank)
        line = turns.of_rank(request.rank)
        if flow.line is line:
            line.move(flow, request.deadline)
            return
        if flow.line is not None:
            self._leave(flow)
        line.add(flow, request.deadline)
        turns.ranks |= 1 << request.rank
        if turns.line is None:
            shares = self._lines[level]
            if len(shares) == 1 and (only := shares.first()) is not None:
                shares.move(only)  # its place is from when it had no rival
            shares.add(turns)

    def _leave(self, flow: Flow) -> None:
        line: _Line = flow.line
        line.leave(flow)
        if not len(line):
            turns = line.turns
            turns.ranks &= ~(1 << line.rank)
            if not turns.ranks:
                turns.line.leave(turns)


def _insert_by_rank(line: deque[Request], request: Request) -> None:
    """Behind the last one that is as urgent or more so."""
    for index in range(len(line) - 1, -1, -1):
        if line[index].rank <= request.rank:
            line.insert(index + 1, request)
            return
    line.appendleft(request)
