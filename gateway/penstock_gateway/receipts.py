"""Sends receipts: within a fifth of a second of a change, and so at most five a second and stream (contracts 5).

What a receipt says is `StreamIdentity`'s business; this module knows when. It also ends the wait for gaps, on every
numbered stream, since a passed gap changes the receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from penstock_gateway.frames import Lane, Stream
from penstock_gateway.metrics import Tally
from penstock_gateway.mqtt import Link, Publish
from penstock_gateway.wire import Receipt, encode_receipt

PERIOD_S = 0.2


class Receipts:
    """Streams whose receipt changed, and streams that wait for a gap.

    Args:
        link: the control connection; a receipt that its outbox has no room for is tried again in the next period.
        on_passed: called with every stream whose gaps were passed.
    """

    def __init__(self, link: Link, tally: Tally, on_passed: Callable[[Stream], None]) -> None:
        self._link = link
        self._tally = tally
        self._on_passed = on_passed
        self._due: dict[Stream, None] = {}
        self._gaps: dict[Stream, None] = {}
        self._wake = asyncio.Event()

    def changed(self, stream: Stream) -> None:
        """The stream's durable progress, or the window that it may use, is a new one."""
        self._due[stream] = None
        self._wake.set()

    def room(self, lane: Lane) -> None:
        """The lane takes frames again: tell the streams that were told to pause."""
        halted, lane.halted = lane.halted, {}
        for stream in halted:
            self.changed(stream)

    def watch(self, stream: Stream) -> None:
        """A frame of this stream came: where it left a gap, wait for it."""
        if (
            stream not in self._gaps
            and stream.identity is not None
            and stream.identity.next_due() is not None
        ):
            self._gaps[stream] = None
            self._wake.set()

    async def run(self) -> None:
        """Send until cancelled. Sleeps while nothing changes and no gap is due."""
        while True:
            await self._wait()
            self._pass_gaps(time.monotonic())
            self.send()
            await asyncio.sleep(PERIOD_S)

    def send(self) -> None:
        """Send what is due now."""
        self._wake.clear()
        for stream in list(self._due):
            if not self._send(stream):
                self._wake.set()
                return
            del self._due[stream]

    def _send(self, stream: Stream) -> bool:
        told = stream.identity.durable if stream.identity is not None else None
        if told is None or not told.boot:
            return True
        window = stream.lane.window
        receipt = Receipt(told.boot, told.through, told.missing, window)
        if not self._link.publish(Publish(stream.receipt_topic, encode_receipt(receipt), qos=1, retain=True)):
            return False
        self._tally.receipts += 1
        if window == 0:
            stream.lane.halted[stream] = None
        return True

    async def _wait(self) -> None:
        due = self._next_gap()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                await self._wake.wait()

    def _next_gap(self) -> float | None:
        """When the next gap is to be passed; streams without one are watched no more."""
        dues = {stream: stream.identity.next_due() for stream in self._gaps if stream.identity is not None}
        self._gaps = {stream: None for stream, due in dues.items() if due is not None}
        return min((due for due in dues.values() if due is not None), default=None)

    def _pass_gaps(self, now: float) -> None:
        for stream in self._gaps:
            if stream.identity is not None and (missing := stream.identity.expire(now)):
                stream.counts.missing_upstream += missing
                self._on_passed(stream)
