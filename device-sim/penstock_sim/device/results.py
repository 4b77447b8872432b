"""The results of a device's streams, on their way from the kit's thread to the device's code.

Only results that somebody asked for are kept: the newest `limit` of a stream, older ones that nobody read are counted.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition

from penstock_gateway.wire import Result

log = logging.getLogger(__name__)

OnResult = Callable[[Result], None]

LIMIT = 1_000


class Results:
    """`changed` is the condition that guards it; `unread` counts results that went before anybody read them."""

    def __init__(self, changed: Condition, limit: int = LIMIT) -> None:
        self._changed = changed
        self._limit = limit
        self._waiting: dict[str, deque[Result]] = {}
        self._callbacks: dict[str, OnResult] = {}
        self._ended = False
        self.unread = 0

    def call(self, stream: str, callback: OnResult) -> None:
        """Call this for each result of the stream from now on."""
        with self._changed:
            self._callbacks[stream] = callback

    def iterate(self, stream: str, timeout_s: float | None) -> Iterator[Result]:
        """The results from now on, until none came for `timeout_s` (None: for ever) or the device is closed."""
        with self._changed:
            self._waiting.setdefault(stream, deque())
        return self._read(stream, timeout_s)

    def _read(self, stream: str, timeout_s: float | None) -> Iterator[Result]:
        waiting = self._waiting[stream]
        while True:
            with self._changed:
                self._changed.wait_for(lambda: waiting or self._ended, timeout_s)
                if not waiting:
                    return
                result = waiting.popleft()
            yield result

    def take(self, result: Result) -> None:
        """A result came: hand it on. Called on the kit's thread; a callback is called there."""
        with self._changed:
            callback = self._callbacks.get(result.stream)
            waiting = self._waiting.get(result.stream)
            if waiting is not None:
                waiting.append(result)
                if len(waiting) > self._limit:
                    waiting.popleft()
                    self.unread += 1
                self._changed.notify_all()
        if callback is not None:
            try:
                callback(result)
            except Exception:  # the device's own code: its fault must not end the connection
                log.exception("the callback for results of %s failed", result.stream)

    def end(self) -> None:
        """Nothing comes any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
