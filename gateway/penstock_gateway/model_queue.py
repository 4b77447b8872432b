"""The frames that wait for one model: whose turn it is, and which are too late. Pure: time comes in as an argument.

Lanes (routes) take turns, and within a lane its streams, so neither a flooded route nor a flooded stream can starve
another. A stream takes its place by the rank of its first frame (urgent first: a priority counts within its route),
gives one frame and goes to the end of its line. Historical frames run when nothing live waits. While a batch holds
frames of a stream it stands in no line, so its frames are run and answered in order.

This is the seam of the scheduler: whoever replaces it keeps `push`, `take`, `release`, `expire` and `next_deadline`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from typing import NamedTuple

from penstock_gateway.frames import HISTORICAL_RANK, NO_DEADLINE, Frame, Lane, Stream

_SPARE = 64
_LIVE = range(HISTORICAL_RANK)
_HISTORICAL = (HISTORICAL_RANK,)


class Taken(NamedTuple):
    """What `take` found: a batch to run, and the frames that can no longer meet their deadline."""

    batch: list[Frame]
    in_queue: list[Frame]
    predicted_late: list[Frame]


class _Turns:
    """The streams of one lane that may give a frame, in line by the rank of their first one; `live` of them not
    historical."""

    __slots__ = ("lines", "live")

    def __init__(self) -> None:
        self.lines: list[OrderedDict[Stream, None]] = [OrderedDict() for _ in range(HISTORICAL_RANK + 1)]
        self.live = 0


class ModelQueue:
    """Waiting frames of one servable.

    Args:
        one_per_stream: a batch may hold only one frame of a stream (stateful models).
    """

    def __init__(self, one_per_stream: bool = False) -> None:
        self.one_per_stream = one_per_stream
        self.waiting = 0
        self._lanes: dict[Lane, _Turns] = {}
        self._live: OrderedDict[_Turns, None] = OrderedDict()  # lanes whose turn may come, the next one first
        self._historical: OrderedDict[_Turns, None] = OrderedDict()
        self._busy: set[Stream] = set()
        self._deadlines: list[tuple[float, int, Frame]] = []
        self._order = 0

    @property
    def ready(self) -> bool:
        """There is a frame that may be taken now: of a stream that no running batch holds."""
        return bool(self._live or self._historical)

    def push(self, frame: Frame) -> None:
        """Add a frame behind those of its stream that are as urgent."""
        stream = frame.stream
        line = stream.waiting
        frame.waiting = True
        self.waiting += 1
        if line and line[-1].rank > frame.rank:
            _insert_by_rank(line, frame)
        else:
            line.append(frame)
        if frame.deadline != NO_DEADLINE:
            self._await(frame)
        if not stream.busy:
            self._stand(stream)

    def remove(self, frame: Frame) -> None:
        """Take a waiting frame out: superseded, dropped."""
        stream = frame.stream
        frame.waiting = False
        stream.waiting.remove(frame)
        self.waiting -= 1
        if stream.level != -1 and (not stream.waiting or stream.waiting[0].rank != stream.level):
            self._leave(stream)
            self._stand(stream)

    def take(self, limit: int, now: float, run_s: float) -> Taken:
        """Form a batch of at most `limit` frames, which is predicted to end at `now + run_s`."""
        taken = Taken([], [], [])
        while len(taken.batch) < limit and (stream := self._first()) is not None:
            frame = stream.waiting.popleft()
            frame.waiting = False
            self.waiting -= 1
            if frame.deadline < now:
                taken.in_queue.append(frame)
            elif frame.deadline < now + run_s:
                taken.predicted_late.append(frame)
            else:
                frame.taken = now
                taken.batch.append(frame)
                if self.one_per_stream:
                    continue
            self._stand(stream)
        self._hold(taken.batch)
        return taken

    def release(self, batch: list[Frame]) -> None:
        """A batch is done: its streams may stand in line again."""
        for frame in batch:
            frame.stream.busy = False
            self._busy.discard(frame.stream)
        for frame in batch:
            self._stand(frame.stream)

    def expire(self, now: float) -> list[Frame]:
        """Take out the waiting frames whose deadline has passed."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            frame = heapq.heappop(self._deadlines)[2]
            if frame.waiting:
                self.remove(frame)
                expired.append(frame)
        return expired

    def next_deadline(self) -> float:
        """The earliest deadline of a waiting frame; NO_DEADLINE where none waits."""
        while self._deadlines and not self._deadlines[0][2].waiting:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else NO_DEADLINE

    def drain(self) -> list[Frame]:
        """Take out everything that waits, behind a batch that runs too."""
        frames: list[Frame] = []
        while (stream := self._first()) is not None:
            frames.extend(stream.waiting)
            stream.waiting.clear()
        for stream in self._busy:
            frames.extend(stream.waiting)
            stream.waiting.clear()
        for frame in frames:
            frame.waiting = False
        self.waiting -= len(frames)
        return frames

    def _await(self, frame: Frame) -> None:
        """Note a deadline. Frames that wait no more are forgotten before they are most of the heap: with a deadline
        of hours it would otherwise keep every superseded picture for hours."""
        if len(self._deadlines) > 2 * self.waiting + _SPARE:
            self._deadlines = [entry for entry in self._deadlines if entry[2].waiting]
            heapq.heapify(self._deadlines)
        self._order += 1
        heapq.heappush(self._deadlines, (frame.deadline, self._order, frame))

    def _first(self) -> Stream | None:
        """The stream whose turn it is leaves the line, and its lane goes to the end of the lanes."""
        for lanes, ranks in ((self._live, _LIVE), (self._historical, _HISTORICAL)):
            if lanes:
                turns = next(iter(lanes))
                lanes.move_to_end(turns)
                line = next(turns.lines[rank] for rank in ranks if turns.lines[rank])
                stream = next(iter(line))
                self._leave(stream)
                return stream
        return None

    def _stand(self, stream: Stream) -> None:
        """Put a stream at the end of the line of its first frame, or move it there when that is a more urgent one."""
        if not stream.waiting or stream.busy:
            return
        rank = stream.waiting[0].rank
        if stream.level == -1 or rank < stream.level:
            self._leave(stream)
            stream.level = rank
            turns = self._lanes.get(stream.lane)
            if turns is None:
                turns = self._lanes[stream.lane] = _Turns()
            turns.lines[rank][stream] = None
            if rank == HISTORICAL_RANK:
                self._historical[turns] = None
            else:
                turns.live += 1
                self._live[turns] = None

    def _leave(self, stream: Stream) -> None:
        level, stream.level = stream.level, -1
        if level == -1:
            return
        turns = self._lanes[stream.lane]
        del turns.lines[level][stream]
        if level != HISTORICAL_RANK:
            turns.live -= 1
            if not turns.live:
                del self._live[turns]
        elif not turns.lines[level]:
            del self._historical[turns]

    def _hold(self, batch: list[Frame]) -> None:
        for frame in batch:
            frame.stream.busy = True
            self._busy.add(frame.stream)
            self._leave(frame.stream)


def _insert_by_rank(line: deque[Frame], frame: Frame) -> None:
    index = next(i for i, waiting in enumerate(line) if waiting.rank > frame.rank)
    line.insert(index, frame)
