"""One connection's way to the broker: what is due goes out at once, or waits here while the broker is slow or away.

What waits goes stale: a frame that could not go out within `fresh_s` is not sent any more, as no camera would, and is
counted. A lane never makes a connection: its owner gives it one, and another one when that is lost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Literal

from penstock_sim.load.connection import Connection
from penstock_sim.load.histogram import Histogram
from penstock_sim.load.streams import Frame, LoadStream

LATE_MS = 10.0
"""A run whose p99 lag is above this was limited by the generator: its figures say nothing about the gateway."""

MAX_HELD = 100_000

_WRITE = 1 << 20
"""Bytes that are written before the connection is asked again whether it is busy."""

Unsent = Literal["stale", "full", "end"]
"""Why a frame was not sent: too old when there was room, more than `MAX_HELD` waited, or the run was over."""

Due = tuple[LoadStream, Frame]


class Sending:
    """What the sending of one process is like. `lag_ms` is by how much the generator itself was late, `sent_lag_ms` real
    minus intended time of sending, with the wait for a connection that was busy or away; `held` is what waits so."""

    def __init__(self) -> None:
        self.lag_ms, self.sent_lag_ms = Histogram(), Histogram()
        self.behind = self.late = self.held = 0
        """Frames handed over, and frames sent, more than `LATE_MS` late; and frames that wait in lanes."""
        self.unsent: Counter[Unsent] = Counter()
        self._empty = asyncio.Event()
        self._empty.set()

    def due(self, lag_ms: float) -> None:
        """A frame that was handed to its lane so late."""
        self.lag_ms.add(lag_ms)
        self.behind += lag_ms > LATE_MS

    def sent(self, lag_ms: float) -> None:
        """A frame that went out so late."""
        self.sent_lag_ms.add(lag_ms)
        self.late += lag_ms > LATE_MS

    def holds(self, change: int) -> None:
        self.held += change
        if self.held:
            self._empty.clear()
        else:
            self._empty.set()

    async def empty(self) -> None:
        """Wait until nothing waits in a lane."""
        await self._empty.wait()


class Lane:
    """Sends the frames of its streams over `connection`, None while there is none."""

    def __init__(self, sending: Sending, fresh_s: float = math.inf) -> None:
        self.connection: Connection | None = None
        self._sending, self._fresh_s = sending, fresh_s
        self._held: deque[Due] = deque()

    def use(self, connection: Connection | None, repeated: Sequence[Due] = ()) -> None:
        """Send over this connection from now on, first what has to be `repeated` on a new one. Repetitions that wait end
        with the connection that they were for."""
        first_times = deque(due for due in self._held if not due[1].again)
        self._sending.holds(len(first_times) - len(self._held))
        self.connection, self._held = connection, first_times
        if connection is not None:
            connection.on_room = self.flush
            self.repeat(repeated)

    def send(self, frames: Sequence[Due]) -> None:
        """Send what is due, in order, behind what waits."""
        self._held.extend(frames)
        self._sending.holds(len(frames))
        self.flush()
        while len(self._held) > MAX_HELD:
            self._give_up(self._held.popleft(), "full")

    def repeat(self, frames: Sequence[Due]) -> None:
        """Send what was sent before, in order, in front of what waits."""
        self._held.extendleft(reversed(frames))
        self._sending.holds(len(frames))
        self.flush()

    def flush(self) -> None:
        """Write what waits while there is room."""
        connection = self.connection
        while connection is not None and self._held and not connection.busy:
            if not (packets := self._packets(connection)):
                return
            connection.write(packets)

    def _packets(self, connection: Connection) -> list[bytes]:
        """What goes out with one call to the socket; none where a store has to wait for its next receipt."""
        packets: list[bytes] = []
        size = 0
        now, wall_ms = time.monotonic(), time.time_ns() // 1_000_000
        while self._held and not connection.busy and size < _WRITE:
            stream, frame = self._held[0]
            if stream.store is not None and stream.store.paused and not frame.again:
                break
            self._held.popleft()
            if now - frame.intended_s > self._fresh_s and stream.store is None:
                self._give_up((stream, frame), "stale")
                continue
            packet_id = connection.packet_id() if stream.qos else 0
            packets.append(stream.packet(frame, wall_ms, packet_id))
            size += len(packets[-1])
            self._sending.holds(-1)
            if not frame.again:
                self._sending.sent((now - frame.intended_s) * 1000.0)
        return packets

    def end(self) -> None:
        """Give up what waits."""
        while self._held:
            self._give_up(self._held.popleft(), "end")

    def _give_up(self, due: Due, why: Unsent) -> None:
        """A repetition was sent before, and its store still has it."""
        self._sending.holds(-1)
        if not due[1].again:
            self._sending.unsent[why] += 1
