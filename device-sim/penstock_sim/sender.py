"""Sending on one connection: what is due goes out, many packets with one write, and every delay is noted.

Owns the loop between the intended times and the socket. A message's capture time is the intended one, also where it
goes out late. Connections are made, and results collected, by `publisher`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_sim.connection import Connection
from penstock_sim.histogram import Histogram
from penstock_sim.packets import PublishTemplate
from penstock_sim.schedule import Schedule, merge
from penstock_sim.sources import Payload, Source
from penstock_sim.tracker import StreamTrack

LATE_MS = 10.0
"""A run whose p99 lag is above this was limited by the generator: its figures say nothing about the gateway."""

_CHUNK_S = 0.25
_BATCH = 256
_TICK_S = 0.001


class VirtualStream(msgspec.Struct, frozen=True):
    """One stream of a virtual device. `topic` "" means the stream's own `frame` (images) or `data` topic."""

    device: str
    stream: str
    source: Source
    schedule: Schedule
    qos: Literal[0, 1] = 0
    topic: str = ""


class Device:
    """A stream with what it needs to send its next message."""

    def __init__(self, stream: VirtualStream, topic: str, protocol: int, boot: str) -> None:
        source = stream.source
        self.schedule, self.qos = stream.schedule, stream.qos
        self.template = PublishTemplate(topic, stream.qos, protocol, source.media_type, boot)
        stamped = self.template.stamped
        self.track = StreamTrack(stream.device, stream.stream, boot, stream.schedule.rate_hz, stamped)
        self._payloads: Iterator[Payload] = source.payloads()
        self._ahead: Payload | None = next(self._payloads, None)

    def take(self) -> Payload | None:
        """The next payload, None at the source's end."""
        payload = self._ahead
        if payload is not None:
            self._ahead = next(self._payloads, None)
        return payload

    @property
    def ended(self) -> bool:
        return self._ahead is None

    def close(self) -> None:
        close = getattr(self._payloads, "close", None)
        if close is not None:
            close()


class Sender:
    """The devices of one connection. A full window or socket delays all of them, which shows as lag."""

    def __init__(self, connection: Connection, devices: Sequence[Device]) -> None:
        self.connection, self._devices = connection, devices
        self.lag_ms = Histogram()
        self.late = self.unsent = 0
        self._planned_to = 0.0

    async def run(self, begin: float, seconds: float) -> None:
        """Send for `seconds` from the monotonic time `begin`; schedules go on from where they were planned to.

        Raises:
            ConnectionLost: the connection is gone; what is left stays unsent.
        """
        origin, end_s = begin - self._planned_to, self._planned_to + seconds
        while self._planned_to < end_s and not all(device.ended for device in self._devices):
            self._planned_to = min(self._planned_to + _CHUNK_S, end_s)
            times, owners = merge([device.schedule for device in self._devices], self._planned_to)
            self.unsent += len(times)
            await self._send((times + origin).tolist(), owners)
        await _sleep_until(begin + seconds if not all(device.ended for device in self._devices) else 0.0)
        self.connection.check()

    async def _send(self, times: list[float], owners: NDArray[np.intp]) -> None:
        devices = [self._devices[owner] for owner in owners.tolist()]
        position = 0
        while position < len(times):
            self.connection.check()
            if self.connection.busy:
                await self.connection.room()
            now = time.monotonic()
            if times[position] > now:
                await asyncio.sleep(max(times[position] - now, _TICK_S))
                continue
            position = self._write_due(times, devices, position, now)
            if position < len(times) and times[position] <= now:
                await asyncio.sleep(0)  # behind: let PUBACKs and results in between two batches

    def _write_due(self, times: list[float], devices: list[Device], position: int, now: float) -> int:
        """Write at most one batch of what is due; returns the position after it."""
        packets: list[bytes] = []
        wall_ms = time.time_ns() // 1_000_000
        connection = self.connection
        stop = min(position + _BATCH, len(times))
        while position < stop and times[position] <= now and not connection.busy:
            device, intended = devices[position], times[position]
            position += 1
            self.unsent -= 1
            payload = device.take()
            if payload is None:
                continue
            packet_id = connection.packet_id() if device.qos else 0
            lag = (now - intended) * 1000.0
            ts = wall_ms - int(lag) if payload.ts is None else payload.ts
            packets.append(
                device.template.packet(payload.data, payload.user, device.track.sent, ts, packet_id)
            )
            device.track.record(intended, wall_ms)
            self.lag_ms.add(lag)
            self.late += lag > LATE_MS
        connection.write(packets)
        return position


async def _sleep_until(monotonic_s: float) -> None:
    await asyncio.sleep(max(0.0, monotonic_s - time.monotonic()))
