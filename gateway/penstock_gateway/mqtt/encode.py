"""The packets that a client sends, as bytes. Pure; MQTT 3.1.1 (`protocol` 4) and 5, QoS 0 and 1.

ValueError says that a caller's value cannot be carried by MQTT: a topic with a wildcard, a string of 70 kB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct

from penstock_gateway.mqtt import LinkOptions, Publish
from penstock_gateway.mqtt.wire import Prop, Properties, binary, is_topic_name, properties, text, varint

PINGREQ = b"\xc0\x00"

_PUBACK = Struct(">HH")
_FOREVER = 0xFFFF_FFFF
_NEVER_REPLAY_RETAINED = 0x20
"""Retain Handling 2 (v5 3.8.3.1): a retained message is old, and no fresh frame."""


def connect(options: LinkOptions, protocol: int) -> bytes:
    """CONNECT (v5 3.1). Clean where the session is not to outlive the connection."""
    v5 = protocol == 5
    will = options.will
    flags = 0x02 if options.session_expiry_s == 0 else 0
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
    flags |= (options.username is not None) << 7 | (options.password is not None) << 6
    if options.password is not None and options.username is None and not v5:
        raise ValueError("MQTT 3.1.1 takes a password only with a user name [MQTT-3.1.2-22]")
    body = text("MQTT") + bytes((protocol, flags)) + options.keepalive_s.to_bytes(2, "big")
    if v5:
        body += properties(_connect_properties(options))
    body += text(options.client_id)
    if will is not None:
        body += (properties(_will_properties(will, options.will_delay_s)) if v5 else b"") + topic(will.topic)
        body += binary(will.payload)
    if options.username is not None:
        body += text(options.username)
    if options.password is not None:
        body += binary(options.password.encode())
    return b"\x10" + varint(len(body)) + body


def _connect_properties(options: LinkOptions) -> Properties:
    found: Properties = {}
    if options.session_expiry_s:
        found[Prop.SESSION_EXPIRY] = min(options.session_expiry_s, _FOREVER)
    if options.receive_maximum < 65_535:
        found[Prop.RECEIVE_MAXIMUM] = options.receive_maximum
    if options.max_packet is not None:
        found[Prop.MAXIMUM_PACKET_SIZE] = options.max_packet
    return found


def _will_properties(will: Publish, delay_s: int) -> Properties:
    found = _message_properties(will)
    if delay_s:
        found[Prop.WILL_DELAY] = delay_s
    return found


@lru_cache(maxsize=8192)
def topic(name: str) -> bytes:
    """A topic to publish to, with its length."""
    if not is_topic_name(name):
        raise ValueError(f"expected a topic without wildcards to publish to, got {name[:80]!r}")
    return text(name)


def publish_header(message: Publish, protocol: int, packet_id: int = 0, dup: bool = False) -> bytes:
    """All of PUBLISH (v5 3.3) but the payload, which follows it as it is; `packet_id` only for QoS 1."""
    head = topic(message.topic)
    if message.qos:
        head += packet_id.to_bytes(2, "big")
    if protocol == 5:
        if message.user or message.correlation or message.expiry_s is not None:
            head += properties(_message_properties(message))
        else:
            head += _content_type(message.content_type)
    first = 0x30 | dup << 3 | message.qos << 1 | message.retain
    length = len(head) + len(message.payload)
    if 128 <= length < 16_384:
        return bytes((first, length & 127 | 128, length >> 7)) + head
    return bytes((first,)) + varint(length) + head


@lru_cache(maxsize=256)
def _content_type(value: str) -> bytes:
    return properties({Prop.CONTENT_TYPE: value} if value else {})


def _message_properties(message: Publish) -> Properties:
    found: Properties = {}
    if message.expiry_s is not None:
        found[Prop.MESSAGE_EXPIRY] = message.expiry_s
    if message.content_type:
        found[Prop.CONTENT_TYPE] = message.content_type
    if message.correlation:
        found[Prop.CORRELATION_DATA] = message.correlation
    if message.user:
        found[Prop.USER] = message.user
    return found


def pubacks(packet_ids: Iterable[int]) -> bytes:
    """PUBACKs with the reason Success, which both versions write alike (v5 3.4.2.1)."""
    pack = _PUBACK.pack
    return b"".join([pack(0x4002, packet_id) for packet_id in packet_ids])


def subscribe(packet_id: int, filters: Sequence[tuple[str, int]], protocol: int) -> bytes:
    """SUBSCRIBE (v5 3.8); on v5 without the replay of retained messages, which 3.1.1 cannot turn off."""
    body = packet_id.to_bytes(2, "big") + (b"\0" if protocol == 5 else b"")
    options = _NEVER_REPLAY_RETAINED if protocol == 5 else 0
    for name, qos in filters:
        body += text(name) + bytes((qos | options,))
    return b"\x82" + varint(len(body)) + body


def disconnect(protocol: int, reason: int = 0) -> bytes:
    """DISCONNECT (v5 3.14). The broker then forgets the will, unless the reason is an error's."""
    if protocol == 5 and reason:
        return bytes((0xE0, 1, reason))
    return b"\xe0\x00"
