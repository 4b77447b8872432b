"""One plain MQTT connection for load: it writes packets as they are and never reconnects.

The gateway's `Link` keeps a session alive through everything; a load generator wants the opposite: no queue of its
own between the intended time and the socket, and an end with a reason when the broker goes away, since the
measurement is void then. The packets' layout belongs to `penstock_gateway.mqtt`.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Callable, Sequence
from typing import Literal

from penstock_gateway.mqtt import LinkOptions, Message, Traffic, encode, tls
from penstock_gateway.mqtt.decode import Connack, Decoder, Disconnected, Read, Suback
from penstock_gateway.mqtt.reasons import describe, describe_connack
from penstock_gateway.mqtt.wire import Prop, ProtocolError
from penstock_models.errors import PenstockError

OnMessages = Callable[[Sequence[Message]], None]

_WINDOW_3_1_1 = 1000
"""QoS 1 messages in flight on 3.1.1, where the broker does not say how many it takes."""
_BUFFER = 1 << 20
_GRANT_S = 10.0


class ConnectionLost(PenstockError):
    """The broker is not there, refused us, or went away."""


class Refused(ConnectionLost):
    """The broker answered CONNECT with the error `reason`."""

    def __init__(self, reason: int, words: str) -> None:
        super().__init__(f"refused: {words}")
        self.reason = reason


class Connection(asyncio.Protocol):
    """Made by `connect`. `busy` is true while the broker has not taken what was written, or has to acknowledge first."""

    def __init__(self, protocol: int, on_messages: OnMessages | None, traffic: Traffic | None = None) -> None:
        self.protocol = protocol
        self.traffic = traffic or Traffic()
        self._on_messages = on_messages
        self._received: list[int] = []
        self._decoder = Decoder(protocol, self._arrive)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Connack | Suback] = asyncio.get_running_loop().create_future()
        self._in_flight: set[int] = set()
        self._window, self._last_id = _WINDOW_3_1_1, 0
        self._choked = False
        self._changed = asyncio.Event()
        self._lost = ""
        self._pinger: asyncio.TimerHandle | None = None
        self.on_room: Callable[[], None] | None = None
        """Called when it is not `busy` any more."""
        self.on_lost: Callable[[str], None] | None = None
        """Called once, with the reason, when the connection is gone and it was not us who closed it."""
        self.refused = 0
        """QoS 1 messages that the broker took with an error reason (an ACL, a quota)."""

    @property
    def busy(self) -> bool:
        return self._choked or len(self._in_flight) >= self._window

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def write(self, packets: Sequence[bytes]) -> None:
        """Send whole packets with one call to the socket."""
        if self._transport is not None:
            data = b"".join(packets)
            self.traffic.sent += len(data)
            self._transport.write(data)

    def packet_id(self) -> int:
        """Take a free packet id; the caller looks at `busy` first."""
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id not in self._in_flight:
                self._in_flight.add(self._last_id)
                return self._last_id

    def check(self) -> None:
        """Raise ConnectionLost where the connection is gone."""
        if self._lost:
            raise ConnectionLost(self._lost)

    async def acknowledged(self) -> None:
        """Wait until nothing is in flight."""
        await self._until(lambda: not self._in_flight)

    async def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe and wait for the grant.

        Raises:
            ConnectionLost: it was refused, or there was no answer within 10 s.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self.write([encode.subscribe(1, filters, self.protocol)])
        try:
            async with asyncio.timeout(_GRANT_S):
                answer = await self._answer
        except TimeoutError:
            raise ConnectionLost(f"the broker did not answer SUBSCRIBE within {_GRANT_S:g} s") from None
        if isinstance(answer, Suback) and any(reason >= 0x80 for reason in answer.reasons):
            raise ConnectionLost(f"the broker refused the subscription to {', '.join(f for f, _ in filters)}")

    def close(self) -> None:
        self._lost = self._lost or "closed"
        self._changed.set()
        if self._pinger is not None:
            self._pinger.cancel()
        if self._transport is not None:
            self._transport.write(encode.disconnect(self.protocol))
            self._transport.close()

    async def handshake(self, options: LinkOptions) -> None:
        """Send CONNECT, wait for CONNACK, start the pings."""
        self.write([encode.connect(options, self.protocol)])
        answer = await self._answer
        if isinstance(answer, Connack) and answer.reason:
            raise Refused(answer.reason, describe_connack(answer.reason, answer.properties))
        if isinstance(answer, Connack) and self.protocol == 5:
            maximum = answer.properties.get(Prop.RECEIVE_MAXIMUM, 65_535)
            self._window = maximum if isinstance(maximum, int) else 65_535
        self._ping(options.keepalive_s / 2)

    # --- called by the event loop ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_BUFFER)

    def data_received(self, data: bytes) -> None:
        self.traffic.received += len(data)
        try:
            read = self._decoder.feed(data)
        except ProtocolError as error:
            self._fail(f"the broker broke the protocol: {error}")
            return
        self._acknowledge(read)
        if read.messages and self._on_messages is not None:
            self._on_messages(read.messages)
        for packet in read.control:
            if isinstance(packet, Disconnected):
                self._fail(f"the broker disconnected: {describe(packet.reason, packet.properties)}")
            elif isinstance(packet, (Connack, Suback)) and not self._answer.done():
                self._answer.set_result(packet)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the broker closed the connection{f': {exc}' if exc else ''}")

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._room()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _acknowledge(self, read: Read) -> None:
        for packet_id, reason in read.acked:
            self._in_flight.discard(packet_id)
            self.refused += reason >= 0x80
        if read.acked:
            self._changed.set()
            self._room()
        if self._received:
            self.write([encode.pubacks(self._received)])
            self._received.clear()

    def _room(self) -> None:
        if self.on_room is not None and not self.busy:
            self.on_room()

    def _arrive(self, packet_id: int) -> int:
        self._received.append(packet_id)
        return packet_id

    def _fail(self, reason: str) -> None:
        lost, self._lost = self._lost, self._lost or reason
        if not lost and self.on_lost is not None:
            self.on_lost(reason)
        self._changed.set()
        if not self._answer.done():
            self._answer.set_exception(ConnectionLost(self._lost))
        if self._transport is not None:
            self._transport.close()

    def _ping(self, period_s: float) -> None:
        self.write([encode.PINGREQ])
        self._pinger = asyncio.get_running_loop().call_later(period_s, self._ping, period_s)

    async def _until(self, wanted: Callable[[], bool]) -> None:
        self.check()
        while not wanted():
            self._changed.clear()
            await self._changed.wait()
            self.check()


async def connect(
    options: LinkOptions,
    protocol: int = 5,
    on_messages: OnMessages | None = None,
    traffic: Traffic | None = None,
) -> Connection:
    """Open a connection; `protocol` is 5 or 4 (3.1.1). `traffic` counts its bytes, where given.

    Raises:
        ConnectionLost: nobody listens, the broker refuses, or it does not answer within `connect_timeout_s`.
    """
    where = f"{options.host}:{options.port}"
    connection = Connection(protocol, on_messages, traffic)
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            loop = asyncio.get_running_loop()
            await loop.create_connection(
                lambda: connection, options.host, options.port, ssl=_context(options)
            )
            await connection.handshake(options)
    except (OSError, TimeoutError, ConnectionLost) as error:
        connection.close()
        text = str(error) or f"no answer within {options.connect_timeout_s:g} s"
        if isinstance(error, ConnectionRefusedError):  # asyncio's own words for it are "Connect call failed"
            text = "nobody listens there"
        raise ConnectionLost(f"expected an MQTT broker at {where}: {text}") from None
    return connection


def _context(options: LinkOptions) -> ssl.SSLContext | None:
    if not options.tls:
        return None
    return _shared_context(options.ca, options.cert, options.key)


@functools.lru_cache(maxsize=16)
def _shared_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """One for all the connections with these files: reading the authorities takes longer than a handshake."""
    return tls.context(LinkOptions("", 0, "", tls=True, ca=ca, cert=cert, key=key))


async def newest_protocol(options: LinkOptions) -> Literal[4, 5]:
    """The newest MQTT that the broker speaks: 5, else 4 (3.1.1).

    Raises:
        ConnectionLost: it speaks neither.
    """
    try:
        (await connect(options, 5)).close()
    except ConnectionLost:
        (await connect(options, 4)).close()
        return 4
    return 5
