"""The work of a version's process: words come in, a `ThreadExecutor` loads and runs, words go out.

The executor keeps the time limits, at the priorities that it gives its threads. Whatever goes wrong here beyond a model's
or an item's fault ends the process: its parent sees that and says so.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from penstock_models.background import bring_forward, stand_last, threads
from penstock_models.devices.cache import ModelCache
from penstock_models.errors import PenstockError
from penstock_models.executor import ThreadExecutor, outcomes
from penstock_models.isolation.buffers import Parts, TooLarge
from penstock_models.isolation.channel import Channel, ChannelError
from penstock_models.isolation.line import CONTROL, Line, Slot
from penstock_models.isolation.packing import pack_outcome, unpack_items
from penstock_models.isolation.words import (
    Call,
    Close,
    Done,
    Load,
    Loaded,
    Probe,
    Probed,
    Run,
    calls,
    failed,
)
from penstock_models.items import Outcome, Refusal
from penstock_models.servable import TIMED_OUT, Servable

BROKEN = 70  # EX_SOFTWARE


def serve(end: int, threads: int) -> None:
    """Serve the parent at the other end of a socket, given by its descriptor, until it is done. Does not return."""
    channel = Channel(socket.socket(fileno=end))
    asyncio.run(_Serving(channel, threads).until_closed())
    # No teardown of the interpreter under the native libraries: the kernel frees what is left.
    os._exit(0)


class _Serving:
    """One version, from its first word to its last."""

    _executor: ThreadExecutor
    _closed: asyncio.Future[None]

    def __init__(self, channel: Channel, threads: int) -> None:
        self._channel = channel
        self._line = Line[Call](channel, calls, threads + 1)
        self._threads = threads
        self._digest = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def until_closed(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_give_up)
        self._closed = loop.create_future()
        loop.add_reader(self._channel.fileno(), self._listen)
        await self._closed

    def _listen(self) -> None:
        while True:
            try:
                heard = self._line.hear()
            except ChannelError as error:
                if error.closed:  # the parent is gone: nobody wants what runs
                    os._exit(0)
                raise
            if heard is None:
                return
            self._obey(*heard)

    def _obey(self, slot: Slot, word: Call) -> None:
        match word:
            case Run():
                self._run(slot, word)
            case Probe():
                self._start(self._probe(slot))
            case Load():
                self._executor = ThreadExecutor(
                    self._threads,
                    max_pixels=word.max_pixels,
                    model_cache=ModelCache(Path(os.fsdecode(word.model_cache))) if word.model_cache else None,
                )
                self._start(self._load(word))
            case Close():
                self._start(self._close())

    def _run(self, slot: Slot, word: Run) -> None:
        batch = _Batch(self, slot, word)
        run = self._executor.call(self._digest, batch.run, word.timeout_s, None)
        run.add_done_callback(batch.over)

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        task.result()

    async def _load(self, word: Load) -> None:
        control = self._line.slots[CONTROL]
        started = threads()
        try:
            info = await self._executor.load(
                os.fsdecode(word.path), word.devices, word.expected_digest, word.cache_bytes
            )
        except PenstockError as error:
            self._line.say(control, failed(error))
            return
        self._digest = info.digest
        # A runtime's own threads were started by the one that loads, and serve from now on.
        bring_forward(started, os.getpriority(os.PRIO_PROCESS, 0))
        # What loading made stays: the collector need not look at it again and again, which takes milliseconds.
        gc.collect()
        gc.freeze()
        self._line.say(control, Loaded(info))

    async def _probe(self, slot: Slot) -> None:
        self._line.say(slot, Probed(await self._executor.probe(self._digest), self._hung()))

    async def _close(self) -> None:
        stand_last()
        await self._executor.close()
        self._closed.set_result(None)

    def say_outcomes(self, slot: Slot, answers: list[Outcome]) -> None:
        """From any thread."""
        try:
            self._say_done(slot, answers)
        except (TooLarge, OSError) as error:
            refusal = Refusal("failed", "model_output", str(error), suspect=True)
            self._say_done(slot, [refusal] * len(answers))

    def _say_done(self, slot: Slot, answers: list[Outcome]) -> None:
        slot.reader.trim()  # before the answer: after it, the slot has its next call
        parts = Parts()
        packed = tuple(pack_outcome(outcome, parts) for outcome in answers)
        self._line.say(slot, Done(packed, self._hung()), parts)

    def _hung(self) -> str:
        return "; ".join(self._executor.degraded)


class _Batch:
    """One batch, whose answers the thread that ran it sends at once: the event loop would be one more to wake up.

    Where that thread does not come back, the loop answers in its place.
    """

    def __init__(self, serving: _Serving, slot: Slot, word: Run) -> None:
        self._serving = serving
        self._slot = slot
        self._items = unpack_items(word.items, slot.reader)
        self._answered = threading.Lock()

    def run(self, servable: Servable) -> None:
        answers = outcomes(servable, self._items)
        if self._answered.acquire(blocking=False):
            self._serving.say_outcomes(self._slot, answers)

    def over(self, run: asyncio.Future[None]) -> None:
        run.result()
        if self._answered.acquire(blocking=False):
            self._serving.say_outcomes(self._slot, [TIMED_OUT] * len(self._items))


def _give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A fault of ours: the parent keeps the last lines."""
    print(context["message"], file=sys.stderr)
    error = context.get("exception")
    if error is not None:
        traceback.print_exception(error)
    sys.stderr.flush()
    os._exit(BROKEN)
