"""PUBLISH packets from a template: everything that stays the same in a stream is encoded once.

Owns the bytes of an outgoing PUBLISH (MQTT 3.3, 3.1.1 and 5) and nothing else of the protocol. What changes from one
message to the next is the packet id, `seq`, `ts` and the body.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from penstock_gateway.mqtt.wire import text, varint
from penstock_sim.sources.encodings import ENVELOPES, UserProperties, stamp

_EXPIRY, _CONTENT_TYPE, _USER_PROPERTY = b"\x02", b"\x03", b"\x26"

NOTHING: Mapping[str, int] = MappingProxyType({})


class PublishTemplate:
    """Builds the packets of one stream.

    Args:
        more: what every message says beside its stamp, such as `dl`.
        spoiled: whether the bodies are not what `media_type` says, so that nothing can be put inside.
        expiry_s: after how long the broker drops a message that it could not hand on; None: never.

    `stamped` tells whether the messages carry `boot`, `seq`, `ts` and `more`: inside an envelope, else as user
    properties, which 3.1.1 does not have.
    """

    def __init__(
        self,
        topic: str,
        qos: int,
        version: int,
        media_type: str,
        boot: str,
        more: Mapping[str, int] = NOTHING,
        spoiled: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        self._qos, self._v5 = qos, version == 5
        self._media_type, self._boot, self._more = media_type, boot, more
        self._enveloped = media_type in ENVELOPES and not spoiled
        self.stamped = self._enveloped or self._v5
        self._topic = text(topic)
        self._type = _CONTENT_TYPE + text(media_type) if media_type else b""
        if expiry_s is not None:
            self._type += _EXPIRY + expiry_s.to_bytes(4, "big")
        self._fixed: dict[UserProperties, bytes] = {}

    def packet(self, body: bytes, user: UserProperties, seq: int, ts: int, packet_id: int = 0) -> bytes:
        """One PUBLISH; `packet_id` is written at QoS 1."""
        if self._enveloped:
            body = stamp(self._media_type, body, self._boot, seq, ts, **self._more)
        head = self._topic + packet_id.to_bytes(2, "big") if self._qos else self._topic
        if self._v5:
            head += self._properties(user, seq, ts)
        return b"%c%b%b%b" % (0x30 | self._qos << 1, varint(len(head) + len(body)), head, body)

    def _properties(self, user: UserProperties, seq: int, ts: int) -> bytes:
        fixed = self._fixed.get(user)
        if fixed is None:  # a source has a handful of shapes, so this stays small
            fixed = self._fixed[user] = self._type + b"".join(
                _property(*pair) for pair in (*user, *self._own())
            )
        if self._enveloped:
            properties = fixed
        else:
            number, time = b"%d" % seq, b"%d" % ts
            properties = b"%b\x26\x00\x03seq\x00%c%b\x26\x00\x02ts\x00%c%b" % (
                fixed, len(number), number, len(time), time
            )  # fmt: skip
        return varint(len(properties)) + properties

    def _own(self) -> UserProperties:
        """What every message of this start says of itself."""
        if self._enveloped:
            return ()
        return ("boot", self._boot), *((name, str(value)) for name, value in self._more.items())


def _property(name: str, value: str) -> bytes:
    return _USER_PROPERTY + text(name) + text(value)
