"""The owner of a link, for tests: runs it, keeps what it said, and waits for conditions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from penstock_gateway.mqtt import Granted, Link, Message

WAIT_S = 10.0


class Owner:
    """Takes a link's messages and state. With `acks` it acknowledges everything at once."""

    def __init__(self, link: Link, acks: bool = True) -> None:
        self.link = link
        self.acks = acks
        self.messages: list[Message] = []
        self.ups: list[Granted] = []
        self.downs: list[str] = []
        self.batches = 0
        self._changed = asyncio.Event()

    def take(self, messages: Sequence[Message]) -> None:
        self.messages += messages
        self.batches += 1
        if self.acks:
            for message in messages:
                self.link.ack(message.ack)
        self._changed.set()

    def up(self, granted: Granted) -> None:
        self.ups.append(granted)
        self._changed.set()

    def down(self, reason: str) -> None:
        self.downs.append(reason)
        self._changed.set()

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    async def until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Wait until something of this link makes `condition` true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_up(self, times: int = 1) -> Granted:
        await self.until(lambda: len(self.ups) >= times)
        return self.ups[times - 1]


@asynccontextmanager
async def running(link: Link, acks: bool = True) -> AsyncIterator[Owner]:
    """Run the link; an exception of its own comes out, the cancellation at the end does not."""
    owner = Owner(link, acks)
    task = asyncio.create_task(link.run(owner.take, owner))
    try:
        yield owner
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
