"""The names of MQTT's reason codes, for people. v5 2.4; 3.1.1 has its own five for CONNACK (v3 3.2.2.3)."""

from __future__ import annotations

from penstock_gateway.mqtt.wire import Prop, Properties

_V3 = {
    1: "unacceptable protocol version",
    2: "client id rejected",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}
_V5 = {
    0x00: "success",
    0x04: "disconnect with will",
    0x10: "no matching subscribers",
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "unsupported protocol version",
    0x85: "client id not valid",
    0x86: "bad user name or password",
    0x87: "not authorized",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x8F: "topic filter invalid",
    0x90: "topic name invalid",
    0x91: "packet id in use",
    0x92: "packet id not found",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9E: "shared subscriptions not supported",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
    0xA1: "subscription ids not supported",
    0xA2: "wildcard subscriptions not supported",
}

_ANOTHER_VERSION = frozenset({0x01, 0x84})


def describe(reason: int, found: Properties) -> str:
    """Such as `not authorized (0x87): try later`, with the broker's own words where it sent some."""
    words = found.get(Prop.REASON_STRING, "")
    return f"{_V5.get(reason, 'unknown reason')} (0x{reason:02x})" + (f": {words}" if words else "")


def describe_connack(reason: int, found: Properties) -> str:
    """As `describe`; below 0x80 a refusal is one of 3.1.1's."""
    return f"{_V3[reason]} (0x{reason:02x})" if reason in _V3 else describe(reason, found)


def describe_refused(reason: str) -> str:
    """The words for a key of `Link.refused`."""
    return describe(int(reason, 16), {}) if reason.startswith("0x") else reason.replace("_", " ")


def wants_another_version(reason: int) -> bool:
    """Whether a refused CONNECT should be tried with the other protocol version."""
    return reason in _ANOTHER_VERSION
