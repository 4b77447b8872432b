"""The packets that a broker sends: an incremental decoder, fed with what a socket read brought.

Pure; MQTT 3.1.1 and 5, QoS 0 and 1. A PUBLISH without properties takes the short way in `feed`; all that is rare
goes through functions. What breaks the protocol raises ProtocolError and leaves the decoder of no further use.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from penstock_gateway.mqtt import Message
from penstock_gateway.mqtt.wire import (
    PROTOCOL_MAX_PACKET,
    Prop,
    Properties,
    ProtocolError,
    is_topic_name,
    read_properties,
    to_text,
)

_TOPICS_KEPT = 8192
_TYPES = {
    2: "CONNACK",
    3: "PUBLISH",
    4: "PUBACK",
    9: "SUBACK",
    11: "UNSUBACK",
    13: "PINGRESP",
    14: "DISCONNECT",
}


class Connack(msgspec.Struct, frozen=True):
    """The broker's answer to CONNECT (v5 3.2); `reason` 0 is success."""

    session_present: bool
    reason: int
    properties: Properties = {}


class Suback(msgspec.Struct, frozen=True):
    """One reason code a filter, in the order of SUBSCRIBE; below 0x80 it is the granted QoS (v5 3.9)."""

    packet_id: int
    reasons: bytes
    properties: Properties = {}


class Pong(msgspec.Struct, frozen=True):
    """PINGRESP."""


class Disconnected(msgspec.Struct, frozen=True):
    """The broker's DISCONNECT with its reason (v5 3.14)."""

    reason: int
    properties: Properties = {}


Control = Connack | Suback | Pong | Disconnected


class Read(msgspec.Struct, gc=False):
    """What one read brought: messages, PUBACKs of our own as (packet id, reason), and the rest in order."""

    messages: list[Message]
    acked: list[tuple[int, int]]
    control: list[Control]


class Decoder:
    """Turns chunks of bytes into packets.

    Args:
        protocol: 4 (3.1.1) or 5.
        arrive: called with the packet id of each QoS 1 message; returns the message's ack handle.
        max_packet: a larger packet is a ProtocolError, before its bytes are collected.
    """

    def __init__(
        self, protocol: int, arrive: Callable[[int], int], max_packet: int = PROTOCOL_MAX_PACKET
    ) -> None:
        self._v5 = protocol == 5
        self._arrive = arrive
        self._max_packet = max_packet
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 2
        self._topics: dict[bytes, str] = {}

    def feed(self, chunk: bytes) -> Read:
        """Every packet that is now whole. A large packet is joined once, when its last byte is there."""
        read = Read([], [], [])
        self._have += len(chunk)
        if self._parts:
            self._parts.append(chunk)
            if self._have < self._need:
                return read
            data = b"".join(self._parts)
            self._parts = []
        else:
            data = chunk
        self._have = 0
        rest = self._packets(data, read)
        if rest < len(data):
            self._parts.append(data[rest:])
            self._have = len(data) - rest
        return read

    def _packets(self, data: bytes, read: Read) -> int:
        """Decode the whole packets of `data`; returns where the first unfinished one begins."""
        pos, end, v5 = 0, len(data), self._v5
        topics, arrive, add, max_packet = self._topics, self._arrive, read.messages.append, self._max_packet
        while end - pos >= 2:
            first = data[pos]
            length = data[pos + 1]
            body = pos + 2
            if length >= 128:
                found = self._remaining_length(data, body, end, length)
                if found is None:
                    self._need = 5
                    return pos
                length, body = found
            stop = body + length
            if stop - pos > max_packet:
                raise ProtocolError(
                    f"expected packets of at most {max_packet} bytes, got one of {stop - pos} bytes", 0x95
                )
            if stop > end:
                self._need = stop - pos
                return pos
            if first & 0xF0 == 0x30:
                at = body + 2
                if at > stop:
                    raise ProtocolError(f"PUBLISH of {length} bytes has no topic")
                after = at + (data[body] << 8 | data[body + 1])
                raw = data[at:after]
                topic = topics.get(raw) or self._topic(raw)
                qos = first >> 1 & 3
                handle = packet_id = 0
                if qos:
                    if qos > 1 or after + 2 > stop:
                        raise _bad_qos(qos)
                    packet_id = data[after] << 8 | data[after + 1]
                    if not packet_id:
                        raise ProtocolError("PUBLISH of QoS 1 has the packet id 0 [MQTT-2.2.1-3]", 0x82)
                    after += 2
                    handle = arrive(packet_id)
                if v5:
                    if after < stop and not data[after]:
                        after += 1
                    else:
                        add(_with_properties(data, topic, after, stop, first, (handle, packet_id)))
                        pos = stop
                        continue
                if after > stop:
                    raise ProtocolError(f"a topic ends {after - stop} bytes after its PUBLISH")
                add(Message(topic, data[after:stop], qos, first & 1 == 1, first & 8 == 8, handle, packet_id))
            elif first == 0x40 and 2 <= length <= 3:
                read.acked.append((data[body] << 8 | data[body + 1], data[body + 2] if length == 3 else 0))
            else:
                self._rare(data, first, body, stop, read)
            pos = stop
        self._need = 2
        return pos

    @staticmethod
    def _remaining_length(data: bytes, pos: int, end: int, byte: int) -> tuple[int, int] | None:
        """(remaining length, position after it), None while its bytes are not all there (v5 2.1.4)."""
        value = byte & 127
        for shift in (7, 14, 21):
            if pos >= end:
                return None
            byte = data[pos]
            pos += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, pos
        raise ProtocolError("a remaining length is longer than four bytes [MQTT-1.5.5-1]")

    def _topic(self, raw: bytes) -> str:
        """Check a topic that was not seen lately. An empty one would need an alias, which we never allow."""
        topic = to_text(raw)
        if not is_topic_name(topic):
            raise ProtocolError(f"expected a topic name in PUBLISH, got {topic[:80]!r} [MQTT-3.3.2-2]", 0x90)
        if len(self._topics) >= _TOPICS_KEPT:
            self._topics.clear()
        self._topics[raw] = topic
        return topic

    def _rare(self, data: bytes, first: int, pos: int, stop: int, read: Read) -> None:
        kind = first >> 4
        if first & 0x0F:
            raise ProtocolError(f"expected flags 0 in packet type {kind}, got 0x{first & 15:x} (v5 2.1.3)")
        if kind == 4:
            packet_id, after = _packet_id(data, pos, stop)
            reason, _ = self._reason(data, after, stop)
            read.acked.append((packet_id, reason))
        elif kind == 2:
            read.control.append(self._connack(data, pos, stop))
        elif kind == 9:
            packet_id, after = _packet_id(data, pos, stop)
            found, after = read_properties(data, after, stop) if self._v5 else ({}, after)
            read.control.append(Suback(packet_id, data[after:stop], found))
        elif kind == 13:
            read.control.append(Pong())
        elif kind == 14 and self._v5:
            read.control.append(Disconnected(*self._reason(data, pos, stop)))
        else:
            known = ", ".join(_TYPES.values())
            raise ProtocolError(f"expected one of {known} from a broker, got packet type {kind}", 0x82)

    def _reason(self, data: bytes, pos: int, stop: int) -> tuple[int, Properties]:
        """A reason and properties, each of which v5 lets a sender leave out (v5 3.4.2.1, 3.14.2.1)."""
        if pos >= stop:
            return 0, {}
        found, after = read_properties(data, pos + 1, stop) if pos + 1 < stop else ({}, stop)
        if after != stop:
            raise ProtocolError(f"{stop - after} bytes too many after the properties of a packet")
        return data[pos], found

    def _connack(self, data: bytes, pos: int, stop: int) -> Connack:
        """A broker that knows only 3.1.1 answers a v5 CONNECT without properties: that is told apart by length."""
        if stop - pos < 2 or data[pos] > 1:
            raise ProtocolError(f"expected CONNACK with flags and a reason, got {data[pos:stop][:8]!r}")
        found: Properties = {}
        if self._v5 and stop - pos > 2:
            found, _ = read_properties(data, pos + 2, stop)
        return Connack(data[pos] == 1, data[pos + 1], found)


def _packet_id(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    if stop - pos < 2:
        raise ProtocolError(f"expected a packet id, got {stop - pos} bytes")
    return data[pos] << 8 | data[pos + 1], pos + 2


def _bad_qos(qos: int) -> ProtocolError:
    if qos == 1:
        return ProtocolError("PUBLISH of QoS 1 ends before its packet id")
    return ProtocolError(f"expected QoS 0 or 1, as subscribed, got QoS {qos}", 0x9B)


def _with_properties(
    data: bytes, topic: str, pos: int, stop: int, first: int, ids: tuple[int, int]
) -> Message:
    found, after = read_properties(data, pos, stop)
    if Prop.TOPIC_ALIAS in found:
        raise ProtocolError("got a topic alias, and none was allowed [MQTT-3.3.2-10]", 0x94)
    take = found.get
    return Message(
        topic,
        data[after:stop],
        first >> 1 & 3,
        first & 1 == 1,
        first & 8 == 8,
        *ids,
        take(Prop.CONTENT_TYPE, ""),
        take(Prop.MESSAGE_EXPIRY),
        take(Prop.RESPONSE_TOPIC, ""),
        take(Prop.CORRELATION_DATA, b""),
        take(Prop.USER, ()),
    )
