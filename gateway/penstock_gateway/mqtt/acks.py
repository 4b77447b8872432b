"""The order of acknowledgements: PUBACKs go out as the messages came in, and only those that were allowed.

MQTT demands the order (v5 4.6, [MQTT-4.6.0-2]). Pure; one window lives as long as its link, and a new connection
makes every handle of the last one stale.
"""

from __future__ import annotations

from collections import deque


class AckWindow:
    """Received QoS 1 messages that are not acknowledged yet.

    Handles count up from 1 and are never used twice. `overruns` counts messages beyond the Receive Maximum.
    """

    def __init__(self) -> None:
        self.overruns = 0
        self._maximum = 65_535
        self._waiting: deque[int] = deque()
        self._front = 1
        self._allowed: set[int] = set()
        self._ready: list[int] = []

    def __len__(self) -> int:
        """Messages that the broker waits for."""
        return len(self._waiting)

    def arrive(self, packet_id: int) -> int:
        """Take in a message; returns its handle."""
        waiting = self._waiting
        waiting.append(packet_id)
        outstanding = len(waiting)
        if outstanding > self._maximum:
            self.overruns += 1
        return self._front + outstanding - 1

    def allow(self, handle: int) -> None:
        """Allow the PUBACK of `handle`; it becomes ready once all before it are allowed. Stale ones do nothing."""
        front = self._front
        if handle > front:
            if handle < front + len(self._waiting):
                self._allowed.add(handle)
            return
        if handle < front or not self._waiting:
            return
        waiting, allowed, ready = self._waiting, self._allowed, self._ready
        ready.append(waiting.popleft())
        front += 1
        while front in allowed:
            allowed.remove(front)
            ready.append(waiting.popleft())
            front += 1
        self._front = front

    def take(self) -> list[int]:
        """The packet ids whose PUBACK is to be sent now, in order of arrival."""
        ready, self._ready = self._ready, []
        return ready

    def reset(self, receive_maximum: int) -> None:
        """A new connection: the broker delivers again what it has no PUBACK for; the old handles are stale."""
        self._maximum = receive_maximum
        self._front += len(self._waiting)
        self._waiting.clear()
        self._allowed.clear()
        self._ready.clear()
