"""Publishes a source's pictures as a stream's frames, one under way at a time, and the device's status beside them.

QoS 1, since the PUBACK is what tells a slow broker from a fast one: the next picture is chosen, the newest then, when
the broker has the last one. A picture is never sent again on a later connection (`Publish.kept`), it would be old there.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

import msgspec

from penstock_gateway.camera.encoding import Encoding, Unreadable, encoded
from penstock_gateway.camera.freshness import MAX_AGE_S
from penstock_gateway.camera.pacer import Pacer, Send
from penstock_gateway.camera.pictures import Picture, State
from penstock_gateway.camera.sources import Source, Status
from penstock_gateway.logs import Limiter, Log
from penstock_gateway.mqtt import Granted, LinkOptions, Message, Publish
from penstock_gateway.mqtt.link import MqttLink
from penstock_gateway.mqtt.reasons import describe_refused
from penstock_gateway.topics import device_status_topic, device_topic

FLUSH_S = 2.0
"""How long the end may wait for the broker: for the last picture, and for the status."""

CLOCK_WAIT_S = 0.5
"""The loop looks at the clock at least so often, whatever happens."""

_MOST_SAID = 100

log = Log(__name__)


class Target(msgspec.Struct, frozen=True):
    """Whose frames they are."""

    device: str
    stream: str
    site: str = "home"
    root: str = "penstock"

    @property
    def topic(self) -> str:
        return device_topic(self.root, self.site, self.device, self.stream, "frame")

    @property
    def status_topic(self) -> str:
        return device_status_topic(self.root, self.site, self.device)


class Counters(msgspec.Struct, frozen=True):
    """What a camera did. `captured = sent + skipped + stale + failed`, and `sent = acked + refused + lost` at the end.

    `skipped` were replaced by a newer picture, `stale` too old to be sent, `failed` not to be encoded again; `refused`
    by the broker, `lost` with a connection to it. `passed_over` came from the camera and were no pictures. `connects`
    and `cuts` are the camera's, `links` counts connections to the broker. `oldest_ms` is the greatest age at sending.
    """

    v: int
    source: str
    device: str
    stream: str
    boot: str
    state: str
    reason: str
    seconds: float
    captured: int
    sent: int
    acked: int
    refused: int
    lost: int
    skipped: int
    stale: int
    failed: int
    passed_over: int
    connects: int
    cuts: int
    links: int
    bytes: int
    oldest_ms: int


class Publisher:
    """One camera's way to the broker. `link` is its `LinkState` too.

    Args:
        fps: pictures a second at most; None sends every picture of the source.
    """

    def __init__(
        self, source: Source, target: Target, options: LinkOptions, *, fps: float | None, encoding: Encoding
    ) -> None:
        will = Publish(target.status_topic, b"offline", qos=1, retain=True)
        self.link = MqttLink(msgspec.structs.replace(options, will=will, outbox=16))
        self.boot = secrets.token_hex(4)
        self.connected = False
        self.broker = "connecting"
        self._source, self._target, self._encoding = source, target, encoding
        self._pacer = Pacer(fps)
        self._began = time.monotonic()
        self._wake = asyncio.Event()
        self._quiet = Limiter(log)
        self._under_way = False
        self._status = ""
        self._seen_dropped = self._seen_refused = 0
        self._acked = self._refused = self._lost = self._links = self._bytes = 0
        self._oldest_s = 0.0
        self._state = State.IDLE
        self._said: set[tuple[State, str, int]] = set()

    def wake(self) -> None:
        """Something changed; to be called on the loop."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until the source is over or `stop` is set, then say `offline` and disconnect."""
        async with asyncio.TaskGroup() as group:
            link = group.create_task(self.link.run(_ignore, self), name="camera-link")
            try:
                await self._pump(stop)
                await self._leave()
            finally:
                link.cancel()

    async def _pump(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._wake.clear()
            if self.connected or self._source.location.live:
                self._source.start()  # a file waits for the first connection, so that it goes out whole
            self._note_state()
            over = self._source.over
            step = self._pacer.decide(
                time.monotonic(), self._source.newest, self.connected and not self._under_way
            )
            if isinstance(step, Send):
                await self._send(step.picture)
            elif over and step.seconds is None:
                return
            else:
                await self._sleep(step.seconds)

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(
                CLOCK_WAIT_S if seconds is None else min(CLOCK_WAIT_S, seconds + 0.001)
            ):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _send(self, picture: Picture) -> None:
        try:
            if picture.data and not self._encoding.asked:
                data, media_type = picture.data, picture.media_type
            else:
                data, media_type = await asyncio.to_thread(encoded, picture, self._encoding)
        except Unreadable as error:
            self._quiet.warning("picture not encoded", reason=str(error))
            self._pacer.undo(stale=False)
            return
        age_s = time.monotonic() - picture.captured
        if age_s > MAX_AGE_S or not self.connected:
            self._pacer.undo(stale=True)
            return
        self._oldest_s = max(self._oldest_s, age_s)
        self._publish_frame(data, media_type, age_s)

    def _publish_frame(self, data: bytes, media_type: str, age_s: float) -> None:
        ts = time.time_ns() // 1_000_000 - round(age_s * 1000)
        stamp = (("boot", self.boot), ("seq", str(self._pacer.sent - 1)), ("ts", str(ts)))
        self._under_way = True
        self._bytes += len(data)
        frame = Publish(self._target.topic, data, qos=1, content_type=media_type, user=stamp, kept=False)
        if not self.link.publish(frame, self._done):
            self._done()

    def _done(self) -> None:
        """The broker has the picture, or will never have it."""
        refused = sum(self.link.refused.values())
        if self.link.dropped > self._seen_dropped:
            self._lost += 1
        elif refused > self._seen_refused and self.link.refused_topic == self._target.topic:
            self._refused += 1
            self._say_refused()
        else:
            self._acked += 1
        self._seen_dropped, self._seen_refused = self.link.dropped, refused
        self._under_way = False
        self._wake.set()

    def _say_refused(self) -> None:
        reason = ", ".join(describe_refused(name) for name in self.link.refused)
        self._quiet.warning("picture refused by the broker", topic=self._target.topic, reason=reason)

    def up(self, granted: Granted) -> None:
        self.connected, self.broker = True, "connected"
        self._links += 1
        self._status = ""
        log.info("broker connected", protocol=granted.protocol)
        self._tell_status()
        self._wake.set()

    def down(self, reason: str) -> None:
        if self.connected or self.broker != reason:
            log.warning("broker lost", reason=reason)
        self.connected, self.broker = False, reason
        self._wake.set()

    def _note_state(self) -> None:
        status = self._source.status
        if status.state is not self._state:
            self._state = status.state
            self._say_state(status)
            self._tell_status()

    def _say_state(self, status: Status) -> None:
        """Each news once: a camera that is away for hours is tried again every few seconds."""
        news = (status.state, status.reason, status.cuts)
        if news in self._said:
            return
        if len(self._said) >= _MOST_SAID or status.state is State.LIVE:
            self._said.clear()
        self._said.add(news)
        write = log.warning if status.state in (State.LOST, State.FAILED) else log.info
        write(f"camera {status.state}", source=self._source.location.shown, reason=status.reason or None)

    def _tell_status(self) -> None:
        """`online` while pictures come, so that a camera that is down is seen; the will says `offline` for the rest."""
        status = "online" if self._state is State.LIVE else "offline"
        if self.connected and status != self._status:
            self._status = status
            self.link.publish(Publish(self._target.status_topic, status.encode(), qos=1, retain=True))

    async def _leave(self) -> None:
        """The last picture is through or given up, the status says that nobody is there."""
        if self.connected:
            self._state = State.ENDED
            self._tell_status()
            await self.link.flush(FLUSH_S)

    def counters(self) -> Counters:
        """The books so far; call `close_books` first at the end."""
        status, pacer, target = self._source.status, self._pacer, self._target
        return Counters(
            v=1,
            source=self._source.location.shown,
            device=target.device,
            stream=target.stream,
            boot=self.boot,
            state=str(status.state),
            reason=status.reason,
            seconds=round(time.monotonic() - self._began, 3),
            captured=pacer.captured,
            sent=pacer.sent,
            acked=self._acked,
            refused=self._refused,
            lost=self._lost,
            skipped=pacer.skipped,
            stale=pacer.stale,
            failed=pacer.failed,
            passed_over=self._source.passed_over,
            connects=status.connects,
            cuts=status.cuts,
            links=self._links,
            bytes=self._bytes,
            oldest_ms=round(self._oldest_s * 1000),
        )

    def close_books(self) -> None:
        """The source is closed and the link is down: what is left has its fate."""
        self._pacer.close(self._source.newest)
        if self._under_way:
            self._done()


def _ignore(messages: Sequence[Message]) -> None:
    """A camera subscribes to nothing."""
