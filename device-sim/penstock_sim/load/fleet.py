"""The virtual devices of one process: each with a connection of its own, made again with back-off when it breaks.

Owns connections, receipts and results; what devices send and when is decided by what they were built from
(`penstock_sim.run.build`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from penstock_gateway.mqtt import LinkOptions, Message, Traffic
from penstock_sim.load.connection import Connection, ConnectionLost, connect
from penstock_sim.load.lane import Due, Lane, Sending
from penstock_sim.load.streams import LoadStream
from penstock_sim.load.tracker import OnResult, Tracker
from penstock_sim.store import Receipt

FRESH_S = 2.0
"""A device without a store sends no frame that is older."""

_AT_ONCE = 64
"""Connections that are being made at one time."""

_FIRST_S, _LONGEST_S = 0.5, 30.0
"""Waits between two attempts to connect: doubled each time, each drawn from the upper half."""

_POLL_S = 0.05

_receipts = msgspec.json.Decoder(Receipt)


class Device:
    """A virtual device: its connection's options, its streams, and the topics that are its own to hear."""

    def __init__(
        self,
        mix: str,
        options: LinkOptions,
        protocol: int,
        streams: Sequence[LoadStream],
        filters: Sequence[tuple[str, int]],
        lane: Lane,
    ) -> None:
        self.mix, self.options, self.protocol = mix, options, protocol
        self.streams, self.filters, self.lane = streams, filters, lane
        self.failures = 0


class Fleet:
    """Use `connect` once, then `keep` as a task beside the sending; `close` at the end.

    Args:
        on_result: told of each frame's first result.
    """

    def __init__(
        self, devices: Sequence[Device], sending: Sending, on_result: OnResult | None = None, seed: int = 0
    ) -> None:
        self.devices = devices
        self.sending = sending
        tracks = (stream.track for device in devices for stream in device.streams)
        self.tracker = Tracker(tracks, on_result)
        self.connected = self._refused = 0
        self.traffic = Traffic()
        self.lost: Counter[str] = Counter()
        """Connections that broke, by reason."""
        self._dice = random.Random(seed)
        self._wanted: asyncio.Queue[Device] = asyncio.Queue()
        self._closing = False

    async def connect(self, progress: Callable[[int], None] = lambda count: None) -> None:
        """Connect every device for the first time.

        Raises:
            ConnectionLost: the first one that could not.
        """
        waiting = iter(self.devices)

        async def some() -> None:
            for device in waiting:
                await self._open(device)
                progress(self.connected)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(some())
        except* ConnectionLost as errors:
            raise errors.exceptions[0] from None

    async def keep(self) -> None:
        """Connect again what is lost, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(self._reconnect(), name=f"reconnect-{number}")

    def reboot(self, device: Device, boot: str) -> None:
        """Start a device again: its connection ends, its numbers begin anew."""
        for stream in device.streams:
            self.tracker.add(stream.reboot(boot))
        if (connection := device.lane.connection) is not None:
            connection.close()
            self._gone(device, "reboot")

    async def settle(self, timeout_s: float, quiet_s: float = 1.0) -> bool:
        """Wait until every frame has a result (True), or nothing changed for `quiet_s` while all were connected and
        nothing waited for a receipt (False)."""
        end = time.monotonic() + timeout_s
        before, since = self._left, time.monotonic()
        while any(before) and time.monotonic() < end:
            await asyncio.sleep(_POLL_S)
            if (now := self._left) != before or now[1] or self.connected < len(self.devices):
                before, since = now, time.monotonic()
            elif time.monotonic() > since + quiet_s:
                break
        return not any(before)

    @property
    def refused(self) -> int:
        """QoS 1 messages that the broker took with an error, over lost connections and over those that are there."""
        connections = (device.lane.connection for device in self.devices)
        return self._refused + sum(one.refused for one in connections if one is not None)

    @property
    def _left(self) -> tuple[int, int]:
        """Frames without a result, and frames without a receipt."""
        stores = (stream.store for device in self.devices for stream in device.streams)
        return self.tracker.outstanding, sum(len(store) for store in stores if store is not None)

    def close(self) -> None:
        self._closing = True
        for device in self.devices:
            if (connection := device.lane.connection) is not None:
                connection.close()
            for stream in device.streams:
                stream.close()

    async def _open(self, device: Device) -> None:
        def take(messages: Sequence[Message]) -> None:
            self._take(device, messages)

        connection = await connect(device.options, device.protocol, take, self.traffic)
        try:
            await connection.subscribe(device.filters)
        except BaseException:
            connection.close()
            raise
        connection.on_lost = lambda reason: self._gone(device, reason)
        device.failures = 0
        self.connected += 1
        device.lane.use(connection, _kept(device))

    async def _reconnect(self) -> None:
        while True:
            device = await self._wanted.get()
            try:
                await self._open(device)
            except ConnectionLost as error:
                self.lost[str(error)] += 1
                self._later(device)

    def _gone(self, device: Device, reason: str) -> None:
        connection: Connection | None = device.lane.connection
        if connection is not None:
            self._refused += connection.refused
            self.connected -= 1
        device.lane.use(None)
        if not self._closing:
            self.lost[reason] += 1
            self._later(device)

    def _later(self, device: Device) -> None:
        longest = min(_LONGEST_S, _FIRST_S * 2**device.failures)
        device.failures += 1
        wait_s = self._dice.uniform(longest / 2, longest)
        asyncio.get_running_loop().call_later(wait_s, self._wanted.put_nowait, device)

    def _take(self, device: Device, messages: Sequence[Message]) -> None:
        now_s, now_ms = time.monotonic(), time.time() * 1000.0
        for message in messages:
            if message.topic.endswith("/receipt"):
                self._receipt(device, message)
            else:
                self.tracker.result(message.payload, now_s, now_ms)

    def _receipt(self, device: Device, message: Message) -> None:
        name = message.topic.split("/")[-2]
        try:
            receipt = _receipts.decode(message.payload)
        except msgspec.MsgspecError:
            self.tracker.undecodable += 1
            return
        for stream in device.streams:
            if stream.stream.stream == name and stream.store is not None and receipt.boot == stream.boot:
                device.lane.repeat([(stream, frame) for _, frame in stream.store.receipt(receipt)])


def _kept(device: Device) -> list[Due]:
    """What is not receipted: it goes out again over a new connection, before what is new."""
    return [
        (stream, frame)
        for stream in device.streams
        if stream.store is not None
        for _, frame in stream.store.all()
    ]
