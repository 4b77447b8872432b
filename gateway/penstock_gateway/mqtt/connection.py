"""One connection's life: CONNECT, SUBSCRIBE, messages and pings, until it is lost.

It owns the socket and what was negotiated on it. Whether and when to connect again is `link`'s; the outbox and the
acknowledgements outlive it and are lent to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from penstock_gateway.mqtt import Granted, LinkOptions, OnMessages, Traffic, encode
from penstock_gateway.mqtt.acks import AckWindow
from penstock_gateway.mqtt.decode import Connack, Control, Decoder, Disconnected, Suback
from penstock_gateway.mqtt.outbox import LAST_PACKET_ID, Limits, Outbox
from penstock_gateway.mqtt.reasons import describe, describe_connack
from penstock_gateway.mqtt.wire import PROTOCOL_MAX_PACKET, Prop, ProtocolError

_SUBSCRIBE_ID = LAST_PACKET_ID + 1
"""The id that the outbox leaves free."""

_V3_WINDOW = 1_000
"""Outgoing QoS 1 messages in flight on 3.1.1, which has no Receive Maximum to say how many a broker likes."""

_CLOSE_S = 1.0


class Connection(asyncio.Protocol):
    """Speaks MQTT on one socket.

    `granted` resolves when every subscription was answered, `lost` when the connection is over: with the reason, or
    with the exception that a callback raised. `answered` says that a CONNACK came, `refused` why it said no,
    `silent` that it was waited for in vain.
    """

    def __init__(
        self,
        options: LinkOptions,
        protocol: int,
        outbox: Outbox,
        acks: AckWindow,
        on_messages: OnMessages,
        kick: Callable[[], None],
        traffic: Traffic,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = options
        self.protocol = protocol
        self._outbox = outbox
        self._acks = acks
        self._on_messages = on_messages
        self._kick = kick
        limit = options.max_packet if protocol == 5 else None
        self._decoder = Decoder(protocol, acks.arrive, limit or PROTOCOL_MAX_PACKET)
        self._transport: asyncio.Transport | None = None
        self._heard = 0.0
        self._reading = True
        self._gone = asyncio.Event()
        self._keepalive_s = float(max(1, options.keepalive_s))
        self._connack: Connack | None = None
        self._traffic = traffic
        self.writable = False
        self.answered = False
        self.refused: int | None = None
        self.silent = False
        self.granted: asyncio.Future[Granted] = self._loop.create_future()
        self.lost: asyncio.Future[str] = self._loop.create_future()
        acks.reset(options.receive_maximum if protocol == 5 else 65_535)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._heard = self._loop.time()
        self.write(encode.connect(self._options, self.protocol))

    def data_received(self, data: bytes) -> None:
        if self.lost.done():
            return
        self._heard = self._loop.time()
        self._traffic.received += len(data)
        try:
            read = self._decoder.feed(data)
            for packet in read.control:
                self._control(packet)
            if read.acked:
                for packet_id, reason in read.acked:
                    self._outbox.acked(packet_id, reason)
                self._kick()
            if read.messages:
                if not self.answered:
                    raise ProtocolError("expected CONNACK first, got PUBLISH [MQTT-3.2.0-1]", 0x82)
                self._on_messages(read.messages)
        except ProtocolError as error:
            self.write(encode.disconnect(self.protocol, error.reason))
            self.end(f"the broker broke the protocol: {error}")
        except Exception as error:  # a callback's: it belongs to whoever runs the link
            self.fail(error)

    def _control(self, packet: Control) -> None:
        if isinstance(packet, Connack):
            self._connected(packet)
        elif isinstance(packet, Suback):
            self._subscribed(packet)
        elif isinstance(packet, Disconnected):
            self.end(f"the broker disconnected: {describe(packet.reason, packet.properties)}")

    def _connected(self, packet: Connack) -> None:
        if self.answered:
            raise ProtocolError("got a second CONNACK (v5 3.2)", 0x82)
        self.answered = True
        if packet.reason:
            self.refused = packet.reason
            self.end(f"the broker refused: {describe_connack(packet.reason, packet.properties)}")
            return
        self._connack = packet
        self._keepalive_s = float(packet.properties.get(Prop.SERVER_KEEP_ALIVE) or self._keepalive_s)
        self.writable = True
        self._outbox.opened(_limits(packet, self.protocol), packet.session_present)
        filters = self._options.subscriptions
        if filters:
            self.write(encode.subscribe(_SUBSCRIBE_ID, filters, self.protocol))
        else:
            self.granted.set_result(_granted(packet, self.protocol, (), self._options))
        self._kick()

    def _subscribed(self, packet: Suback) -> None:
        filters = self._options.subscriptions
        if self._connack is None or self.granted.done() or len(packet.reasons) != len(filters):
            raise ProtocolError(
                f"got a SUBACK of {len(packet.reasons)} reasons for {len(filters)} filters", 0x82
            )
        refused = tuple(name for (name, _), reason in zip(filters, packet.reasons) if reason >= 0x80)
        self.granted.set_result(_granted(self._connack, self.protocol, refused, self._options))

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._kick()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()
        self.end(f"the connection broke: {exc}" if exc else "the broker closed the connection")

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.lost.done():
            self._traffic.sent += len(data)
            self._transport.write(data)

    def read(self, wanted: bool) -> None:
        """Read the socket or leave it; what the broker may be silent about starts anew."""
        if self._transport is None or wanted == self._reading or self.lost.done():
            return
        self._reading = wanted
        self._heard = self._loop.time()
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    async def wait_granted(self) -> Granted | None:
        """None where the connection was lost first, or the broker was silent for `connect_timeout_s`."""
        timeout_s = self._options.connect_timeout_s
        await asyncio.wait((self.granted, self.lost), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            return None
        if not self.granted.done():
            self.silent = not self.answered
            self.end(f"no {'SUBACK' if self.answered else 'CONNACK'} within {timeout_s:g} s")
            return None
        return self.granted.result()

    async def wait_lost(self) -> str:
        """Ping, and return why the connection ended. A broker that is not read cannot be called silent."""
        while True:
            await asyncio.wait((self.lost,), timeout=self._keepalive_s / 2)
            if self.lost.done():
                return self.lost.result()
            if self._reading and self._loop.time() - self._heard > self._keepalive_s:
                self.end(f"the broker was silent for {self._keepalive_s:g} s")
            else:
                self.write(encode.PINGREQ)

    def end(self, reason: str) -> None:
        """The connection is over; the first reason counts."""
        if not self.lost.done():
            self._finish()
            self.lost.set_result(reason)

    def fail(self, error: Exception) -> None:
        """The connection is over, because a callback raised."""
        if not self.lost.done():
            self._finish()
            self.lost.set_exception(error)

    def _finish(self) -> None:
        self.writable = False
        self._outbox.closed()
        self._kick()
        if self._transport is not None:
            self._transport.close()

    async def close(self) -> None:
        """Say goodbye, so that the broker forgets the will, and let the socket go; also after `lost`."""
        if self._connack is not None:
            self.write(encode.disconnect(self.protocol))
        self.end("closed by this side")
        if self._transport is None:
            return
        try:
            await asyncio.wait_for(self._gone.wait(), _CLOSE_S)
        except TimeoutError:
            pass
        finally:
            self._transport.abort()


def _limits(packet: Connack, protocol: int) -> Limits:
    take = packet.properties.get
    if protocol != 5:
        return Limits(protocol=protocol, window=_V3_WINDOW)
    if take(Prop.RECEIVE_MAXIMUM) == 0 or take(Prop.MAXIMUM_PACKET_SIZE) == 0:
        raise ProtocolError("CONNACK has a Receive Maximum or Maximum Packet Size of 0 (v5 3.2.2.3)", 0x82)
    return Limits(
        protocol=protocol,
        window=min(take(Prop.RECEIVE_MAXIMUM, 65_535), LAST_PACKET_ID),
        maximum_qos=take(Prop.MAXIMUM_QOS, 1),
        retain=bool(take(Prop.RETAIN_AVAILABLE, 1)),
        max_packet=take(Prop.MAXIMUM_PACKET_SIZE),
    )


def _granted(packet: Connack, protocol: int, refused: tuple[str, ...], options: LinkOptions) -> Granted:
    """What the broker leaves out of CONNACK has the standard's default (v5 3.2.2.3); 3.1.1 says nothing."""
    if protocol != 5:
        return Granted(protocol=protocol, session_present=packet.session_present, refused=refused)
    take = packet.properties.get
    return Granted(
        protocol=protocol,
        session_present=packet.session_present,
        receive_maximum=take(Prop.RECEIVE_MAXIMUM, 65_535),
        maximum_qos=take(Prop.MAXIMUM_QOS, 2),
        maximum_packet_size=take(Prop.MAXIMUM_PACKET_SIZE),
        session_expiry_s=take(Prop.SESSION_EXPIRY, options.session_expiry_s),
        refused=refused,
    )
