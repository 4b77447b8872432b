"""A run or a probe that was asked of a host: how it is said to the process, and the ways in which it ends.

Each ends exactly once, whatever comes later; its future may be cancelled by whoever waits. When is the host's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock_models.hosts import PROBE_S
from penstock_models.isolation.buffers import Parts, Reader
from penstock_models.isolation.channel import ChannelError
from penstock_models.isolation.line import Line, Slot
from penstock_models.isolation.packing import pack_item, unpack_outcome
from penstock_models.isolation.words import Done, Probe, Probed, Reply, Run
from penstock_models.items import Item, Outcome, Refusal


class RunCall:
    """A batch."""

    timer: asyncio.TimerHandle | None = None

    def __init__(self, items: Sequence[Item], timeout_s: float) -> None:
        self._items = items
        self._count = len(items)
        self.limit_s = timeout_s
        self.done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()

    def say(self, line: Line[Reply], slot: Slot) -> None:
        """Send it. Raises as `Line.say`."""
        parts = Parts()
        packed = tuple(pack_item(item, parts) for item in self._items)
        line.say(slot, Run(packed, self.limit_s), parts)
        self._items = ()  # nobody needs the payloads any more

    def answer(self, word: Reply, reader: Reader) -> None:
        """Take the reply.

        Raises:
            ChannelError: it is none to this call.
        """
        if not isinstance(word, Done) or len(word.outcomes) != self._count:
            raise ChannelError(f"it gave no {self._count} outcomes to as many items")
        try:
            outcomes = [unpack_outcome(packed, reader) for packed in word.outcomes]
        except ValueError as error:
            raise ChannelError(f"it gave an outcome that is none ({error})") from error
        self._settle(outcomes)

    def refuse(self, refusal: Refusal) -> None:
        """It has no answers: every item is refused so."""
        self._settle([refusal] * self._count)

    def _settle(self, outcomes: list[Outcome]) -> None:
        if not self.done.done():
            self.done.set_result(outcomes)


class ProbeCall:
    """A golden sample, which the process has itself."""

    timer: asyncio.TimerHandle | None = None
    limit_s = PROBE_S

    def __init__(self) -> None:
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def say(self, line: Line[Reply], slot: Slot) -> None:
        """Send it. Raises as `Line.say`."""
        line.say(slot, Probe())

    def answer(self, word: Reply, reader: Reader) -> None:
        """Take the reply.

        Raises:
            ChannelError: it is none to this call.
        """
        if not isinstance(word, Probed):
            raise ChannelError("it did not say whether its probe was good")
        self._settle(word.good)

    def refuse(self, refusal: Refusal) -> None:
        """It did not run, or did not come back: not good."""
        self._settle(False)

    def _settle(self, good: bool) -> None:
        if not self.done.done():
            self.done.set_result(good)


AnyCall = RunCall | ProbeCall
