"""An owner of a journal that remembers what it was told, and waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from penstock_gateway.identity import StreamIdentity


class JournalOwner:
    """`durable` are the tokens in order, `commits` what each call brought, `said` the troubles and their ends."""

    def __init__(self) -> None:
        self.durable: list[Any] = []
        self.commits: list[tuple[list[Any], list[StreamIdentity]]] = []
        self.said: list[str] = []
        self._changed = asyncio.Event()

    def on_durable(self, tokens: Sequence[Any], streams: Sequence[StreamIdentity]) -> None:
        self.durable += tokens
        self.commits.append((list(tokens), list(streams)))
        self._changed.set()

    def on_stuck(self, reason: str) -> None:
        self._say(f"stuck: {reason}")

    def on_unstuck(self) -> None:
        self._say("unstuck")

    def on_broken(self, reason: str) -> None:
        self._say(f"broken: {reason}")

    def _say(self, word: str) -> None:
        self.said.append(word)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds, looking after each word of the journal; at most 20 s."""
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
