"""The primitives of MQTT's wire: integers, strings and v5 properties, each with its bound checked.

Pure. Numbers in brackets are clauses of the OASIS standards "MQTT Version 5.0" (v5) and "MQTT Version 3.1.1" (v3).
Whole packets are `decode` and `encode`.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache
from typing import Any

PROTOCOL_MAX_PACKET = 268_435_455 + 5
"""The largest packet that the wire can express, fixed header included (v5 1.5.5, 2.1.4)."""


class ProtocolError(Exception):
    """The peer broke the protocol. `reason` is the v5 reason code to say so with (v5 4.13.1)."""

    def __init__(self, message: str, reason: int = 0x81) -> None:
        super().__init__(message)
        self.reason = reason


class Prop(IntEnum):
    """Property identifiers (v5 2.2.2.2)."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTH_METHOD = 0x15
    AUTH_DATA = 0x16
    REQUEST_PROBLEM = 0x17
    WILL_DELAY = 0x18
    REQUEST_RESPONSE = 0x19
    RESPONSE_INFO = 0x1A
    SERVER_REFERENCE = 0x1C
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_ID_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


Properties = dict[int, Any]
"""By identifier: int, str or bytes as the standard has it; of USER a tuple of (name, value) pairs."""

_WIDTH = {
    Prop.PAYLOAD_FORMAT: 1, Prop.REQUEST_PROBLEM: 1, Prop.REQUEST_RESPONSE: 1, Prop.MAXIMUM_QOS: 1,
    Prop.RETAIN_AVAILABLE: 1, Prop.WILDCARD_AVAILABLE: 1, Prop.SUBSCRIPTION_ID_AVAILABLE: 1,
    Prop.SHARED_AVAILABLE: 1,
    Prop.SERVER_KEEP_ALIVE: 2, Prop.RECEIVE_MAXIMUM: 2, Prop.TOPIC_ALIAS_MAXIMUM: 2, Prop.TOPIC_ALIAS: 2,
    Prop.MESSAGE_EXPIRY: 4, Prop.SESSION_EXPIRY: 4, Prop.WILL_DELAY: 4, Prop.MAXIMUM_PACKET_SIZE: 4,
}  # fmt: skip
_TEXT: frozenset[int] = frozenset({
    Prop.CONTENT_TYPE, Prop.RESPONSE_TOPIC, Prop.ASSIGNED_CLIENT_ID, Prop.AUTH_METHOD, Prop.RESPONSE_INFO,
    Prop.SERVER_REFERENCE, Prop.REASON_STRING,
})  # fmt: skip
_BINARY: frozenset[int] = frozenset({Prop.CORRELATION_DATA, Prop.AUTH_DATA})
_WIDTH_BY_ID: dict[int, int] = {int(name): width for name, width in _WIDTH.items()}


def varint(value: int) -> bytes:
    """Encode a variable byte integer (v5 1.5.5)."""
    if value < 128:
        return bytes((value,))
    if value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    if value < 2_097_152:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    if value < 268_435_456:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21))
    raise ValueError(f"a packet of {value} bytes does not fit MQTT (at most 268435455)")


def read_varint(data: bytes, pos: int, stop: int) -> tuple[int, int]:
    """(value, position after it); the integer must end before `stop` and within four bytes."""
    value = 0
    for shift in (0, 7, 14, 21):
        if pos >= stop:
            raise ProtocolError(f"a variable byte integer ends at byte {pos}, where the packet ends")
        byte = data[pos]
        pos += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, pos
    raise ProtocolError("a variable byte integer is longer than four bytes [MQTT-1.5.5-1]")


@lru_cache(maxsize=8192)
def text(value: str) -> bytes:
    """Encode a string with its length (v5 1.5.4). ValueError when MQTT cannot carry it."""
    try:
        raw = value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a string for MQTT must be UTF-8: {error}") from None
    if len(raw) > 65_535 or b"\0" in raw:
        raise ValueError(f"a string for MQTT holds at most 65535 bytes and no U+0000, got {len(raw)} bytes")
    return len(raw).to_bytes(2, "big") + raw


def binary(value: bytes) -> bytes:
    """Encode binary data with its length (v5 1.5.6)."""
    if len(value) > 65_535:
        raise ValueError(f"binary data for MQTT holds at most 65535 bytes, got {len(value)}")
    return len(value).to_bytes(2, "big") + value


def read_binary(data: bytes, pos: int, stop: int) -> tuple[bytes, int]:
    start = pos + 2
    if start > stop:
        raise ProtocolError(f"a length is cut off at byte {pos}, where the packet ends")
    end = start + (data[pos] << 8 | data[pos + 1])
    if end > stop:
        raise ProtocolError(f"a field of {end - start} bytes ends {end - stop} bytes after its packet")
    return data[start:end], end


def to_text(raw: bytes) -> str:
    """Decode UTF-8 as v5 1.5.4 wants it: well-formed, no surrogates, no U+0000."""
    try:
        value = raw.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a string is not UTF-8: {raw[:32]!r} ({error.reason}) [MQTT-1.5.4-1]") from None
    if "\0" in value:
        raise ProtocolError(f"a string holds U+0000: {raw[:32]!r} [MQTT-1.5.4-2]")
    return value


_short_text = lru_cache(maxsize=1024)(to_text)
"""Keys and many values of user properties repeat; ProtocolError is not kept."""


def is_topic_name(topic: str) -> bool:
    """Whether a message may be published there: not empty, no wildcard (v5 4.7.3)."""
    return bool(topic) and "+" not in topic and "#" not in topic


def properties(values: Properties) -> bytes:
    """Encode a property list with its length; order is the dictionary's."""
    body = bytearray()
    for name, value in values.items():
        if isinstance(value, tuple):
            for key, item in value:
                body += b"\x26" + text(key) + text(item)
        elif isinstance(value, str):
            body.append(name)
            body += text(value)
        elif isinstance(value, bytes):
            body.append(name)
            body += binary(value)
        else:
            body.append(name)
            body += (
                varint(value) if name == Prop.SUBSCRIPTION_ID else value.to_bytes(_WIDTH_BY_ID[name], "big")
            )
    return varint(len(body)) + body


def read_properties(data: bytes, pos: int, stop: int) -> tuple[Properties, int]:
    """(properties, position after them). User properties keep their order; of subscription ids the last stays."""
    length, pos = read_varint(data, pos, stop)
    end = pos + length
    if end > stop:
        raise ProtocolError(f"a property list of {length} bytes ends {end - stop} bytes after its packet")
    found: Properties = {}
    user: list[tuple[str, str]] = []
    while pos < end:
        name = data[pos]
        pos += 1
        if name == 0x26:  # Prop.USER, as a plain number: a frame may carry five of them
            key, pos = read_binary(data, pos, end)
            item, pos = read_binary(data, pos, end)
            user.append((_short_text(key), _short_text(item)))
        elif name in found and name != Prop.SUBSCRIPTION_ID:
            raise ProtocolError(f"property 0x{name:02x} occurs twice (v5 2.2.2.2)", 0x82)
        else:
            found[name], pos = _read_value(name, data, pos, end)
    if user:
        found[Prop.USER] = tuple(user)
    return found, end


def _read_value(name: int, data: bytes, pos: int, end: int) -> tuple[int | str | bytes, int]:
    width = _WIDTH_BY_ID.get(name)
    if width is not None:
        if pos + width > end:
            raise ProtocolError(f"property 0x{name:02x} wants {width} bytes, {end - pos} are left")
        return int.from_bytes(data[pos : pos + width], "big"), pos + width
    if name in _TEXT:
        raw, pos = read_binary(data, pos, end)
        return _short_text(raw), pos
    if name in _BINARY:
        return read_binary(data, pos, end)
    if name == Prop.SUBSCRIPTION_ID:
        return read_varint(data, pos, end)
    raise ProtocolError(f"property 0x{name:02x} is unknown to MQTT 5 (v5 2.2.2.2)")
