"""MQTT as the gateway needs it: the seam that one connection fills, and what a message is.

A link is one connection to one broker. It reconnects by itself, keeps its subscriptions, acknowledges in arrival
order and only what it is told to, and can stop reading its socket without losing the connection. It runs on the event
loop: callbacks are called there, and must not block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec


class Message(msgspec.Struct, frozen=True, eq=False):
    """A received PUBLISH. `payload` is the message's own copy. v5 properties are empty on 3.1.1.

    `ack` is the handle for `Link.ack`, `packet_id` the wire's, which a redelivery repeats; both 0 for QoS 0. `expiry_s` is what the broker says remains, None without one.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    dup: bool = False
    ack: int = 0
    packet_id: int = 0
    content_type: str = ""
    expiry_s: int | None = None
    response_topic: str = ""
    correlation: bytes = b""
    user: tuple[tuple[str, str], ...] = ()


class Publish(msgspec.Struct, frozen=True, eq=False):
    """An outgoing PUBLISH; the properties are left out on a 3.1.1 connection.

    `kept` False: a QoS 1 message that is not sent again on the next connection, since it would come too late there.
    """

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    content_type: str = ""
    expiry_s: int | None = None
    correlation: bytes = b""
    user: tuple[tuple[str, str], ...] = ()
    kept: bool = True


class Granted(msgspec.Struct, frozen=True):
    """What CONNACK and SUBACK granted: `protocol` 4 (3.1.1) or 5. Unknown values are None.

    `refused` are the filters that the broker did not grant.
    """

    protocol: int
    session_present: bool
    receive_maximum: int | None = None
    maximum_qos: int | None = None
    maximum_packet_size: int | None = None
    session_expiry_s: int | None = None
    refused: tuple[str, ...] = ()


class LinkOptions(msgspec.Struct, frozen=True):
    """How to connect. `session_expiry_s` 0 means a clean session; > 0 a persistent one under `client_id`."""

    host: str
    port: int
    client_id: str
    tls: bool = False
    username: str | None = None
    password: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    session_expiry_s: int = 0
    receive_maximum: int = 65535
    max_packet: int | None = None
    keepalive_s: int = 30
    connect_timeout_s: float = 10.0
    reconnect_min_s: float = 0.2
    reconnect_max_s: float = 30.0
    subscriptions: tuple[tuple[str, int], ...] = ()
    will: Publish | None = None
    will_delay_s: int = 0
    protocol: int = 5
    """The version to try first: 4 (3.1.1) where the broker is known to speak no other."""
    outbox: int = 10_000
    outbox_bytes: int = 64 << 20


class Traffic(msgspec.Struct):
    """Bytes over a link's connections, MQTT without TLS and TCP."""

    received: int = 0
    sent: int = 0


OnMessages = Callable[[Sequence[Message]], None]
OnAcked = Callable[[], None]


class LinkState(Protocol):
    """What a link tells its owner; called on the event loop."""

    def up(self, granted: Granted) -> None: ...

    def down(self, reason: str) -> None: ...


class Link(Protocol):
    """One MQTT connection. `run` is the task that owns it."""

    @property
    def traffic(self) -> Traffic: ...

    @property
    def overruns(self) -> int:
        """Messages that arrived beyond our advertised Receive Maximum: counted, never an error."""

    @property
    def dropped(self) -> int:
        """Messages that went with a connection, or had none."""

    @property
    def refused(self) -> Counter[str]:
        """Messages that the broker did not take, by its reason code (`0x87`) or a word."""

    @property
    def refused_topic(self) -> str:
        """The topic of the last of them, "" before the first."""

    async def run(self, on_messages: OnMessages, state: LinkState) -> None:
        """Connect, serve, reconnect with jittered back-off, until cancelled; then disconnect cleanly.

        `on_messages` gets everything that one read of the socket brought, at once.
        """

    def publish(self, message: Publish, on_acked: OnAcked | None = None) -> bool:
        """Queue a message; False when the outbox is full (nothing was taken). `on_acked` once the broker has it
        (QoS 1: PUBACK, also after a reconnect; QoS 0: written to the socket, or dropped with the connection)."""

    def ack(self, handle: int) -> None:
        """Allow the PUBACK of a received QoS 1 message; sent in arrival order. Stale handles are ignored."""

    def pause(self) -> None:
        """Stop reading the socket; pings go on, so the session lives."""

    def resume(self) -> None: ...

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the outbox is empty; False on time-out."""
