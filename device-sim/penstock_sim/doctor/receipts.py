"""Rules about receipts (contracts 5): a device sends again what one lists as missing, and pauses at window 0. Pure.

A device is given `ANSWER_S` from the first new frame after the listing on, so that one that was offline is not blamed,
and again from each number that it sent again, so that a long backlog is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from penstock_gateway.mqtt import Message
from penstock_gateway.wire import Receipt
from penstock_sim.doctor.findings import Trouble
from penstock_sim.doctor.seen import Seen

ANSWER_S = 5.0
"""How long a device may take to send again what a receipt lists."""
PAUSE_S = 2.0
"""How long frames may still come after window 0: those that were under way."""
_FEW = 3
"""New frames behind that pause from which it is ignored."""
_LISTED = 1024
"""Missing numbers that are watched at once; the lowest of a receipt."""

_receipt = msgspec.json.Decoder(Receipt)


class Receipts:
    """What the gateway told one stream, and what the device did about it."""

    def __init__(self) -> None:
        self._told: Receipt | None = None
        self._began = -1
        """`through` of the first receipt of this boot: what lies before it, nobody watched."""
        self._missing: dict[int, float | None] = {}
        """Listed numbers, and since when the device was heard without them."""
        self._ignored: set[int] = set()
        self._highest = -1
        self._halted: float | None = None
        self._unpaused = 0

    @property
    def any(self) -> bool:
        """Whether the stream is receipted: its route is `every`."""
        return self._told is not None

    def told(self, message: Message, at: float) -> None:
        """A message on the stream's receipt topic; what is no receipt is nobody's."""
        try:
            receipt = _receipt.decode(message.payload)
        except msgspec.MsgspecError:
            return
        if self._told is None or receipt.boot != self._told.boot:
            self._missing, self._ignored, self._highest = {}, set(), -1
            self._began = receipt.through
        self._told = receipt
        listed = dict.fromkeys(_numbers(receipt))
        self._missing = {seq: self._missing.get(seq) for seq in listed if seq not in self._ignored}
        if receipt.window:
            self._halted, self._unpaused = None, 0
        elif self._halted is None:
            self._halted = at

    def knows(self, boot: str, seq: int) -> Literal["safe", "listed", "before"] | None:
        """What the gateway said of a number that did not come by here."""
        told = self._told
        if told is None or told.boot != boot:
            return None
        if seq in self._missing or seq in self._ignored:
            return "listed"
        if any(first <= seq <= last for first, last in told.missing):
            return "listed"
        if seq <= self._began:
            return "before"
        return "safe" if seq <= told.through else None

    def observe(self, seen: Seen) -> list[Trouble]:
        boot, seq = seen.header.boot, seen.header.seq
        if self._told is None or seq is None or boot != self._told.boot:
            return []
        if seq in self._missing:
            del self._missing[seq]
            self._missing = dict.fromkeys(self._missing)
            return []
        if seq <= self._highest:
            return []
        self._highest = seq
        return [*self._overdue(seen), *self._paused(seen)]

    def _overdue(self, seen: Seen) -> Iterator[Trouble]:
        late = [s for s, since in self._missing.items() if since is not None and seen.at - since >= ANSWER_S]
        for seq in self._missing:
            if self._missing[seq] is None:
                self._missing[seq] = seen.at
        if late:
            for seq in late:
                del self._missing[seq]
            self._ignored = {*self._ignored, *late} if len(self._ignored) < _LISTED else set(late)
            expected = f"seq {late[0]} again within {ANSWER_S:g} s of the receipt that lists it as missing"
            came = f"newer frames only, up to {seen.header.seq}"
            yield Trouble("receipt", expected, came, seen.topic, late[0], len(late))

    def _paused(self, seen: Seen) -> Iterator[Trouble]:
        if self._halted is None or seen.at - self._halted < PAUSE_S:
            return
        self._unpaused += 1
        if self._unpaused >= _FEW:
            expected = "no new frame while the receipt says window 0"
            came = f"new frames {seen.at - self._halted:.3g} s after it"
            count = _FEW if self._unpaused == _FEW else 1
            yield Trouble("receipt", expected, came, seen.topic, seen.header.seq, count)


def _numbers(receipt: Receipt) -> Iterator[int]:
    left = _LISTED
    for first, last in receipt.missing:
        for seq in range(first, min(last, first + left - 1) + 1):
            yield seq
            left -= 1
