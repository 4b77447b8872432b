"""An open-loop publisher: virtual devices that send when they intended to, and count what comes back.

Intended times are fixed before the run, so a slow broker or gateway never thins the load out, and a latency counts
from the intended time (no coordinated omission). The publisher watches itself too: by how much it missed its own
times is in the report, and `on_time` false declares a measurement void. Who answers what belongs to `tracker`, the
sending on one connection to `sender`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import secrets
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal

import msgspec

from penstock_gateway.config.values import BrokerUrl
from penstock_gateway.mqtt import LinkOptions, Message
from penstock_gateway.topics import device_topic
from penstock_models.errors import UsageError
from penstock_sim.load.connection import Connection, connect
from penstock_sim.load.histogram import Histogram
from penstock_sim.load.lane import LATE_MS, Lane, Sending
from penstock_sim.load.sender import Sender
from penstock_sim.load.streams import LoadStream, VirtualStream
from penstock_sim.load.track import StreamReport, StreamTrack
from penstock_sim.load.tracker import Tracker

__all__ = ["LATE_MS", "Publisher", "Report", "Target", "VirtualStream"]

_GRACE_S = 10.0
"""How long a run may go on behind its end: what is still unsent then stays so, and is reported."""


class Target(msgspec.Struct, frozen=True):
    """Where to publish. `protocol` is 5 or 4 (3.1.1); streams are spread over `connections` in turn."""

    url: str = "mqtt://127.0.0.1:1883"
    site: str = "home"
    root: str = "penstock"
    protocol: Literal[4, 5] = 5
    connections: int = 1
    username: str | None = None
    password: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What a run did. `lag_ms` is real minus intended time of sending; `late` counts messages later than `LATE_MS`;
    `on_time` is false where p99 of the lag is above it or something intended was not sent at all (`unsent`). `refused`
    are messages that the broker refused (PUBACK), `undecodable` ones on a result topic that are no result."""

    boot: str
    seconds: float
    sent: int
    results: int
    unanswered: int
    foreign: int
    undecodable: int
    refused: int
    late: int
    unsent: int
    on_time: bool
    lag_ms: dict[str, float | None]
    latency_ms: dict[str, float | None]
    fates: dict[str, int]
    streams: dict[str, StreamReport]


class Publisher:
    """Publishes `streams` at `target`; use as an async context manager, then `run`, `settle`, `report`.

    Args:
        boot: id of the devices' start; a random one when left out.

    Raises:
        ConnectionLost: from any of its methods, when the broker is not there or goes away.
    """

    def __init__(self, target: Target, streams: Sequence[VirtualStream], boot: str = "") -> None:
        if not 1 <= target.connections <= max(1, len(streams)):
            raise UsageError(
                f"expected 1 to {len(streams)} connections (one stream each), got {target.connections}"
            )
        self.boot = boot or secrets.token_hex(4)
        self._target = target
        self._streams = [self._stream(stream) for stream in streams]
        self._tracks = {f"{s.track.device}/{s.track.stream}": s.track for s in self._streams}
        self.tracker = Tracker(self._tracks.values())
        self._sending = Sending()
        self._lanes = [Lane(self._sending) for _ in range(target.connections)]
        lanes = itertools.cycle(self._lanes)
        schedules = [stream.schedule for stream in streams]
        self._sender = Sender(list(zip(self._streams, lanes)), schedules, self._sending, self._check)
        self._collector: Connection | None = None
        self._seconds = 0.0
        self._news = asyncio.Event()

    @property
    def tracks(self) -> dict[str, StreamTrack]:
        """The live books of each "DEVICE/STREAM"."""
        return self._tracks

    async def __aenter__(self) -> Publisher:
        try:
            await self._connect()
        except BaseException:
            self._close()
            raise
        return self

    def _stream(self, stream: VirtualStream) -> LoadStream:
        kind = (
            "frame"
            if stream.source.media_type.startswith("image/") or not stream.source.media_type
            else "data"
        )
        topic = device_topic(self._target.root, self._target.site, stream.device, stream.stream, kind)
        return LoadStream(stream, stream.topic or topic, self._target.protocol, self.boot)

    async def _connect(self) -> None:
        target = self._target
        self._collector = await connect(
            _options(target, f"sim-{self.boot}-results"), target.protocol, self._collect
        )
        await self._collector.subscribe([(device_topic(target.root, target.site, "+", "+", "result"), 1)])
        for number, lane in enumerate(self._lanes):
            connection = await connect(_options(target, f"sim-{self.boot}-{number}"), target.protocol)
            connection.on_lost = functools.partial(_lost, lane)
            lane.use(connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for connection in self._connections:
            connection.close()
        if self._collector is not None:
            self._collector.close()
        for stream in self._streams:
            stream.close()

    @property
    def _connections(self) -> list[Connection]:
        return [lane.connection for lane in self._lanes if lane.connection is not None]

    def _check(self) -> None:
        for connection in self._connections:
            connection.check()

    async def run(self, seconds: float) -> None:
        """Send for `seconds`, or until every source has ended. Every `run` starts its schedules where the last one
        stopped; cancelling it stops the sending at once."""
        begin = time.monotonic()
        try:
            async with asyncio.timeout(seconds + _GRACE_S):
                await self._sender.run(begin, seconds)
        except TimeoutError:
            pass  # the rest stays unsent, and the report says so
        finally:
            self._seconds += time.monotonic() - begin

    async def settle(self, timeout_s: float, quiet_s: float = 1.0) -> bool:
        """Wait for PUBACKs, then until every frame has a result (True) or none came for `quiet_s` (False)."""
        try:
            async with asyncio.timeout(timeout_s):
                for connection in self._connections:
                    await connection.acknowledged()
                while self.tracker.outstanding:
                    self._news.clear()
                    async with asyncio.timeout(quiet_s):
                        await self._news.wait()
        except TimeoutError:
            return False
        finally:
            if self._collector is not None:
                self._collector.check()
        return True

    def report(self) -> Report:
        lag, latency = self._sending.sent_lag_ms, Histogram()
        for track in self._tracks.values():
            latency.merge(track.latency_ms)
        p99 = lag.percentile(99)
        unsent = self._sending.unsent.total()
        streams = {name: track.report() for name, track in self._tracks.items()}
        return Report(
            boot=self.boot,
            seconds=round(self._seconds, 3),
            sent=sum(s.sent for s in streams.values()),
            results=sum(s.results for s in streams.values()),
            unanswered=self.tracker.outstanding,
            foreign=self.tracker.foreign,
            undecodable=self.tracker.undecodable,
            refused=sum(connection.refused for connection in self._connections),
            late=self._sending.late,
            unsent=unsent,
            on_time=unsent == 0 and (p99 is None or p99 <= LATE_MS),
            lag_ms=lag.summary(),
            latency_ms=latency.summary(),
            fates=_sum_fates(streams.values()),
            streams=streams,
        )

    def _collect(self, messages: Sequence[Message]) -> None:
        now, wall_ms = time.monotonic(), time.time() * 1000.0
        for message in messages:
            self.tracker.result(message.payload, now, wall_ms)
        self._news.set()


def _lost(lane: Lane, reason: str) -> None:
    """Nothing will be sent there any more; the run hears of it at its next look at the connections."""
    lane.end()


def _options(target: Target, client_id: str) -> LinkOptions:
    url = BrokerUrl.parse(target.url)
    if url.embedded:
        raise UsageError('expected the URL of a broker, such as "mqtt://127.0.0.1:1883", came "embedded"')
    return LinkOptions(
        url.host, url.port, client_id, tls=url.tls, username=target.username, password=target.password
    )


def _sum_fates(streams: Iterable[StreamReport]) -> dict[str, int]:
    pairs = itertools.chain.from_iterable(stream.fates.items() for stream in streams)
    total: dict[str, int] = {}
    for fate, count in pairs:
        total[fate] = total.get(fate, 0) + count
    return total
