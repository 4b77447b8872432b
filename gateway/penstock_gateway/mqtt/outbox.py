"""What is still to be sent: messages in order, the QoS 1 window, and what a reconnect sends again.

Pure: it turns the queue into bytes when asked and is told what the broker said; sockets and the event loop are
`link`'s. A QoS 1 message stays here until its PUBACK, so count and bytes cover what is queued and what is in flight.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from penstock_gateway.mqtt import OnAcked, Publish
from penstock_gateway.mqtt.encode import publish_header

_CHUNK = 256 * 1024
"""Bytes for one write to the socket; a larger message goes alone."""

LAST_PACKET_ID = 65_534
"""Ids of PUBLISH and SUBSCRIBE share one space (v5 2.2.1); 65,535 is left to SUBSCRIBE."""

_OVERHEAD = 64
"""Bytes that a message is counted for beside its topic and payload, so that empty ones are bounded too."""


class _Entry:
    __slots__ = ("message", "on_acked", "packet_id", "size")

    def __init__(self, message: Publish, on_acked: OnAcked | None, size: int) -> None:
        self.message = message
        self.on_acked = on_acked
        self.size = size
        self.packet_id = 0
        """Given when it is first sent; a message that waits with one is sent again, with DUP."""


class Limits(msgspec.Struct, frozen=True):
    """What the broker of this connection takes. `window` is its Receive Maximum."""

    protocol: int
    window: int
    maximum_qos: int = 1
    retain: bool = True
    max_packet: int | None = None


class Outbox:
    """Bounded in messages and bytes.

    A retained message that waits unsent is replaced, in its place, by a newer one of its topic: the broker would keep
    only the last, and an outage of hours would fill the bounds with the others. The replaced one is done, too.

    `refused` counts, by reason, messages that will never reach the broker or that it did not take, `refused_topic` is
    the last one's; `dropped` counts messages that had no connection, or went with it: QoS 0, and those that are not
    `kept`. Both are told to the caller as done (`on_acked`), as nothing will be retried.
    """

    def __init__(self, count: int, size: int) -> None:
        self.refused: Counter[str] = Counter()
        self.refused_topic = ""
        self.dropped = 0
        self._max_count = count
        self._max_bytes = size
        self._count = 0
        self._bytes = 0
        self._queue: deque[_Entry] = deque()
        self._replaceable: dict[str, _Entry] = {}  # by topic: retained, unsent, and the last put on its topic
        self._sent: dict[int, _Entry] = {}  # on this connection, without PUBACK yet
        self._reserved: set[int] = set()  # ids of messages that wait to be sent again
        self._last_id = 0
        self._done: list[OnAcked] = []
        self._limits: Limits | None = None

    def __len__(self) -> int:
        """Messages that the broker does not have yet."""
        return self._count

    @property
    def sendable(self) -> bool:
        """Whether `take` would give bytes now."""
        if self._limits is None or not self._queue:
            return False
        return len(self._sent) < self._limits.window or not self._queue[0].message.qos

    def put(self, message: Publish, on_acked: OnAcked | None) -> bool:
        """Queue a message; False when it does not fit. Without a connection what does not outlive one is dropped at once."""
        size = len(message.payload) + len(message.topic) + _OVERHEAD
        waiting = self._replaceable.get(message.topic) if self._replaceable else None
        if waiting is not None and message.retain and message.qos == waiting.message.qos:
            return self._replace(waiting, message, on_acked, size)
        if self._count >= self._max_count or self._bytes + size > self._max_bytes:
            return False
        if self._limits is None and not _outlives(message):
            self.dropped += 1
            if on_acked is not None:
                self._done.append(on_acked)
            return True
        self._count += 1
        self._bytes += size
        entry = _Entry(message, on_acked, size)
        self._queue.append(entry)
        if message.retain:
            self._replaceable[message.topic] = entry
        elif waiting is not None:
            del self._replaceable[message.topic]  # a newer one in its place would overtake this message
        return True

    def _replace(self, entry: _Entry, message: Publish, on_acked: OnAcked | None, size: int) -> bool:
        if self._bytes - entry.size + size > self._max_bytes:
            return False
        if entry.on_acked is not None:
            self._done.append(entry.on_acked)
        self._bytes += size - entry.size
        entry.message, entry.on_acked, entry.size = message, on_acked, size
        return True

    def _no_longer_waits(self, entry: _Entry) -> None:
        """It is on its way, or gone: what comes on its topic is a new message."""
        if self._replaceable.get(entry.message.topic) is entry:
            del self._replaceable[entry.message.topic]

    def opened(self, limits: Limits, session_present: bool) -> None:
        """A connection is there. What was in flight goes out again, with its id and DUP where the session lives.

        A broker that forgot the session forgot the packet ids too: there the message is a new one [MQTT-4.4.0-1].
        """
        if not session_present:
            self._reserved.clear()
            for entry in self._queue:
                entry.packet_id = 0
        self._limits = limits

    def closed(self) -> None:
        """The connection is gone, and with it the messages that do not outlive it."""
        self._limits = None
        queue: deque[_Entry] = deque()
        for entry in (*self._sent.values(), *self._queue):
            if _outlives(entry.message):
                queue.append(entry)
                if entry.packet_id:
                    self._reserved.add(entry.packet_id)
            else:
                self.dropped += 1
                self._no_longer_waits(entry)
                self._finish(entry)
        self._queue = queue
        self._sent = {}

    def take(self) -> bytes:
        """The bytes of as many messages as one write should hold, b"" when none may be sent."""
        limits, queue = self._limits, self._queue
        if limits is None:
            return b""
        parts: list[bytes] = []
        size = 0
        while queue and size < _CHUNK:
            entry = queue[0]
            if entry.message.qos and len(self._sent) >= limits.window:
                break
            queue.popleft()
            if entry.message.retain:
                self._no_longer_waits(entry)
            header = self._header(entry, limits)
            if header:
                parts += (header, entry.message.payload)
                size += entry.size
        return b"".join(parts)

    def _header(self, entry: _Entry, limits: Limits) -> bytes:
        """The packet up to its payload, b"" where it was refused here; notes it as in flight or done."""
        message = entry.message
        if message.qos > limits.maximum_qos or (message.retain and not limits.retain):
            message = _reduced(message, limits)
        packet_id = entry.packet_id
        self._reserved.discard(packet_id)
        dup = message.qos > 0 and packet_id > 0
        if message.qos and not dup:
            packet_id = self._new_id()
        try:
            header = publish_header(message, limits.protocol, packet_id, dup)
        except ValueError:
            return self._refuse(entry, "not_encodable")
        if limits.max_packet is not None and len(header) + len(message.payload) > limits.max_packet:
            return self._refuse(entry, "packet_too_large")
        if message.qos:
            entry.packet_id = packet_id
            self._sent[packet_id] = entry
        else:
            self._finish(entry)
        return header

    def acked(self, packet_id: int, reason: int) -> None:
        """The broker answered a QoS 1 message. An unknown id is the answer to one of an earlier session."""
        entry = self._sent.pop(packet_id, None)
        if entry is None:
            return
        if reason >= 0x80:
            self._refuse(entry, f"0x{reason:02x}")
        else:
            self._finish(entry)

    def take_done(self) -> list[OnAcked]:
        """The callbacks of the messages that are done since the last call."""
        done, self._done = self._done, []
        return done

    def _refuse(self, entry: _Entry, reason: str) -> bytes:
        self.refused[reason] += 1
        self.refused_topic = entry.message.topic
        self._finish(entry)
        return b""

    def _finish(self, entry: _Entry) -> None:
        self._count -= 1
        self._bytes -= entry.size
        if entry.on_acked is not None:
            self._done.append(entry.on_acked)

    def _new_id(self) -> int:
        """A packet id that is not in use (v5 2.2.1). There is one: what waits to be sent again goes before new
        messages, and the window is no wider than the ids."""
        packet_id = self._last_id
        while True:
            packet_id = packet_id % LAST_PACKET_ID + 1
            if packet_id not in self._sent and packet_id not in self._reserved:
                self._last_id = packet_id
                return packet_id


def _outlives(message: Publish) -> bool:
    """Whether a message is sent again on the next connection."""
    return message.qos > 0 and message.kept


def _reduced(message: Publish, limits: Limits) -> Publish:
    """What the broker can take of a message: a lower QoS, no retain (v5 3.2.2.3.4 and 3.2.2.3.5)."""
    return msgspec.structs.replace(
        message, qos=min(message.qos, limits.maximum_qos), retain=message.retain and limits.retain
    )
