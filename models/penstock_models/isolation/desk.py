"""The calls of one host: as many with the process as it has threads, each in a slot, the others in a bounded line.

Owns which call goes when, its watch over the process's silence, and that each gets exactly one end. Why the process
ends, and ending it, is the host's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from penstock_models.hosts import GRACE_S
from penstock_models.isolation.buffers import TooLarge
from penstock_models.isolation.calls import AnyCall
from penstock_models.isolation.channel import ChannelError
from penstock_models.isolation.line import Line, Slot
from penstock_models.isolation.words import Reply
from penstock_models.items import Refusal

MAX_WAITING = 64
"""Calls in line beside those that are with the process."""

SILENCE_S = GRACE_S + 1.0
"""The process ends a run at its limit, within `GRACE_S`. One that has not said so by then hangs as a whole."""


class Desk:
    """Used from one event loop."""

    def __init__(self, line: Line[Reply], end: Callable[[str], None]) -> None:
        """Take calls for the process at the other end of `line`; `end` is called with the reason why it must end."""
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._end = end
        self._free = line.slots[1:]
        self._waiting: deque[AnyCall] = deque()
        self._running: dict[Slot, AnyCall] = {}
        self._late: AnyCall | None = None
        self._quiet: asyncio.Future[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the process has a call."""
        return bool(self._running)

    def submit(self, call: AnyCall) -> None:
        """Take a call, or refuse it: `dropped: full`."""
        if len(self._waiting) >= MAX_WAITING:
            self._waiting = deque(other for other in self._waiting if not other.done.done())
        if len(self._waiting) >= MAX_WAITING:
            call.refuse(Refusal("dropped", "full", f"{MAX_WAITING} batches wait for this version already"))
            return
        self._waiting.append(call)
        self.advance()

    def answer(self, slot: Slot, word: Reply) -> None:
        """The process answers the call in that slot; `advance` gives the slot to the next.

        Raises:
            ChannelError: there is none, or that is no answer to it.
        """
        call = self._running.get(slot)
        if call is None:
            raise ChannelError("it answered what nobody asked")
        call.answer(word, slot.reader)
        self._forget(slot, call)
        slot.reader.trim()
        self._free.append(slot)

    def advance(self) -> None:
        """Send what there is a slot for."""
        while self._waiting and self._free:
            call = self._waiting.popleft()
            if not call.done.done():
                self._send(call, self._free.pop())
        self._note_quiet()

    def refuse_waiting(self, why: str) -> None:
        """What is in line does not run."""
        for call in self._waiting:
            call.refuse(Refusal("failed", "not_ready", why))
        self._waiting.clear()
        self._note_quiet()

    def fail_running(self, why: str) -> None:
        """The process is gone, and with it what it had."""
        for slot, call in [*self._running.items()]:
            reason = "model_timeout" if call is self._late else "model_error"
            call.refuse(Refusal("failed", reason, why, suspect=True))
            self._forget(slot, call)
        self._note_quiet()

    def quiet(self) -> asyncio.Future[None]:
        """Done when no call is in line or with the process."""
        if self._quiet is None:
            self._quiet = self._loop.create_future()
            self._note_quiet()
        return self._quiet

    def _send(self, call: AnyCall, slot: Slot) -> None:
        try:
            call.say(self._line, slot)
        except (TooLarge, OSError) as error:
            self._free.append(slot)
            call.refuse(Refusal("dropped", "memory", str(error), suspect=True))
            return
        except ChannelError as error:
            self._end(str(error))
        self._running[slot] = call
        call.timer = self._loop.call_later(call.limit_s + SILENCE_S, self._silent, call)

    def _silent(self, call: AnyCall) -> None:
        self._late = call
        self._end(f"ended for its silence {SILENCE_S:g} s after the limit of {call.limit_s:g} s of a run")

    def _forget(self, slot: Slot, call: AnyCall) -> None:
        del self._running[slot]
        if call.timer is not None:
            call.timer.cancel()

    def _note_quiet(self) -> None:
        idle = not self._running and not self._waiting
        if idle and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)
