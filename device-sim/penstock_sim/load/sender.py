"""Keeps the intended times: what is due is handed to its lane, many frames with one turn of the loop.

Owns the loop between the schedules and the lanes. It never waits for a lane, so that a slow connection delays only what
goes over it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from penstock_sim.load.lane import Due, Lane, Sending
from penstock_sim.load.schedule import Schedule, merge
from penstock_sim.load.streams import LoadStream

_CHUNK_S, _CHUNK_FRAMES = 0.25, 1000
"""How far ahead is planned. What is due waits meanwhile: 31,000 frames, a quarter of a second of small ones near the highest
rate, took 4 to 5 ms to plan, and one frame of a hundred was 3 ms late; with 1000 at a time 1.3 ms."""
_BATCH = 256
_TICK_S = 0.001

Sends = tuple[LoadStream, Lane]
"""A stream and what it sends over."""


class Sender:
    """Sends for `streams`, in the numbering of `schedules`.

    Args:
        check: raises when the run is void, such as on a lost connection; called at each turn.
    """

    def __init__(
        self,
        streams: Sequence[Sends],
        schedules: Sequence[Schedule],
        sending: Sending,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._streams, self._schedules = streams, schedules
        self._sending, self._check = sending, check
        self._going = len(streams)
        self._planned_to = 0.0

    async def run(self, begin: float, seconds: float) -> None:
        """Send for `seconds` from the monotonic time `begin`, or until every source has ended; then until nothing
        waits in a lane. Schedules go on from where they were planned to. At a cancellation what waits and what was planned is `unsent`."""
        origin, end_s = begin - self._planned_to, self._planned_to + seconds
        chunk_s = _CHUNK_S
        try:
            while self._planned_to < end_s and self._going:
                self._planned_to = min(self._planned_to + chunk_s, end_s)
                times, owners = merge(self._schedules, self._planned_to)
                await self._send((times + origin).tolist(), owners.tolist())
                chunk_s = min(_CHUNK_S, chunk_s * _CHUNK_FRAMES / max(1, len(times)))
            if self._going:
                await asyncio.sleep(max(0.0, begin + seconds - time.monotonic()))
            await self._sending.empty()
        finally:
            for lane in {id(lane): lane for _, lane in self._streams}.values():
                lane.end()
        self._check()

    async def _send(self, times: list[float], owners: list[int]) -> None:
        position = 0
        try:
            while position < len(times):
                self._check()
                now = time.monotonic()
                if times[position] > now:
                    await asyncio.sleep(max(times[position] - now, _TICK_S))
                    continue
                position = self._hand_over(times, owners, position, now)
                await asyncio.sleep(0)  # the next may be due already: let PUBACKs and results in
        finally:
            self._sending.unsent["end"] += len(times) - position

    def _hand_over(self, times: list[float], owners: list[int], position: int, now: float) -> int:
        """Give at most one batch of what is due to the lanes; returns the position after it."""
        due: dict[Lane, list[Due]] = {}
        wall_ms = time.time_ns() // 1_000_000
        stop = min(position + _BATCH, len(times))
        while position < stop and times[position] <= now:
            stream, lane = self._streams[owners[position]]
            if (frame := stream.take(times[position], now, wall_ms)) is not None:
                due.setdefault(lane, []).append((stream, frame))
                self._sending.due((now - times[position]) * 1000.0)
                self._going -= stream.ended
            position += 1
        for lane, frames in due.items():
            lane.send(frames)
        return position
