"""`ProcessHost`: one version in a process of its own, as a `Host`.

Owns the life of the process: that it loads in time, stays within its memory, ends by name and leaves nobody waiting.
Which call goes when is left to `desk`, how it is started and spoken to to `spawning` and `line`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from penstock_models.errors import HostError
from penstock_models.gaps import Gaps
from penstock_models.hosts import CLOSE_S
from penstock_models.isolation.calls import AnyCall, ProbeCall, RunCall
from penstock_models.isolation.channel import Channel, ChannelError
from penstock_models.isolation.desk import Desk
from penstock_models.isolation.line import CONTROL, Line, Slot
from penstock_models.isolation.spawning import Child
from penstock_models.isolation.words import Close, Failed, Load, Loaded, Reply, raised, replies
from penstock_models.items import Item, Outcome, Refusal, ServableInfo
from penstock_models.resident import proportional_bytes

RETIRE_S = 5.0
"""For the batches that run, before a process that took too much memory or hangs in a run is ended."""

END_S = 2.0
"""For a process that was told to close."""

SAMPLE_S = 5.0
"""Between two looks at its memory."""


class ProcessHost:
    """A `Host`. Used from the event loop that opened it; ends with that loop's thread."""

    info: ServableInfo

    def __init__(
        self, child: Child, line: Line[Reply], channel: Channel, limit_bytes: int, gaps: Gaps
    ) -> None:
        """Listen to a process; `open` is the way in."""
        self._loop = asyncio.get_running_loop()
        self._child = child
        self._line = line
        self._channel = channel
        self._limit_bytes = limit_bytes
        self._gaps = gaps
        self._desk = Desk(line, self._end)
        self._loaded: asyncio.Future[Loaded | Failed] = self._loop.create_future()
        self._refusal = ""  # why nothing new is taken; "" while something is
        self._why = ""  # why we ended the process, where we did
        self._closing: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self.resident_bytes = 0
        self.lost: asyncio.Future[str] = self._loop.create_future()
        self._loop.add_reader(channel.fileno(), self._listen)
        child.ended.add_done_callback(self._on_end)

    @classmethod
    async def open(
        cls,
        path: str,
        devices: Sequence[str] = (),
        *,
        threads: int = 1,
        max_pixels: int,
        load_timeout_s: float,
        expected_digest: str = "",
        cache_bytes: int = 0,
        model_cache: str = "",
        limit_bytes: int = 0,
        gaps: Gaps | None = None,
    ) -> ProcessHost:
        """Load a version in a fresh process, behind everybody else, and serve it. A cancelled one leaves nothing.

        Args:
            path, devices: as `ThreadExecutor.load` takes them.
            threads: how many batches it runs at once.
            max_pixels: pictures beyond it are `rejected: pixels`.
            load_timeout_s: from the start of the process to the golden answers; the time in which it is stopped does not count.
            expected_digest: what the bundle's digest must be; "" for any.
            cache_bytes: of answers to keep for inputs that come again; 0 for none.
            model_cache: folder where runtimes keep what they made of a model; "" for nowhere.
            limit_bytes: memory of the process beyond which it is lost; 0 for no limit.
            gaps: of those that serve, in which it loads and closes; None where nobody serves.

        Raises:
            BundleError, ModelRefused, PlacementError, UsageError: as a load in this process.
            HostError: the process could not be started, ended, or was not ready in time.
        """
        load = Load(
            _absolute(path),
            tuple(devices),
            max_pixels,
            expected_digest,
            cache_bytes,
            os.fsencode(model_cache),
        )
        host = await cls._started(path, threads, limit_bytes, gaps or Gaps(threads))
        try:
            with host._gaps.within(host._child.signal):
                await host._load(load, load_timeout_s)
        except BaseException:
            host._child.kill()
            await asyncio.shield(host._child.ended)
            raise
        host._watch = host._loop.create_task(host._watch_memory(), name=f"memory of {host.info.name}")
        return host

    @classmethod
    async def _started(cls, path: str, threads: int, limit_bytes: int, gaps: Gaps) -> ProcessHost:
        try:
            child, end = await Child.start(threads)
        except OSError as error:
            raise HostError("crashed", f"{path}: no process could be started for it: {error}") from error
        channel = Channel(end)
        return cls(child, Line[Reply](channel, replies, threads + 1), channel, limit_bytes, gaps)

    def run(self, items: Sequence[Item], timeout_s: float) -> asyncio.Future[list[Outcome]]:
        """One call for a whole batch; the limit counts from when it leaves the line. As `Host.run`.

        A line that is full answers `dropped: full`, more bytes than cross at once `dropped: memory`, both at once. A
        batch that is cancelled in the line does not run; one that runs goes on unheard.
        """
        call = RunCall(items, timeout_s)
        self._submit(call)
        return call.done

    async def probe(self) -> bool:
        """Run a golden sample, behind the batches in line, and say whether the answer was right."""
        call = ProbeCall()
        self._submit(call)
        return await call.done

    async def close(self) -> None:
        """Let running and waiting batches end within a bound, then end the process; it is reaped when this returns.

        The end goes on although the caller is cancelled.
        """
        if self._closing is None:
            self._refusal = self._refusal or "the version is closed"
            self._closing = self._loop.create_task(self._close(), name="close a process host")
        await asyncio.shield(self._closing)

    def _submit(self, call: AnyCall) -> None:
        if self._refusal:
            call.refuse(Refusal("failed", "not_ready", self._refusal))
        else:
            self._desk.submit(call)

    # --- what the process says

    def _listen(self) -> None:
        try:
            while (heard := self._line.hear()) is not None:
                self._take(*heard)
        except ChannelError as error:
            self._loop.remove_reader(self._channel.fileno())
            # Where its end is why, that is told by how it ended.
            self._end("" if error.closed else f"ended for what it said: {error}")

    def _take(self, slot: Slot, word: Reply) -> None:
        if isinstance(word, Loaded | Failed):
            if slot.number != CONTROL or self._loaded.done():
                raise ChannelError("it was loaded already")
            self._loaded.set_result(word)
            return
        self._desk.answer(slot, word)
        if word.hung:
            self._retire(f"ended for a run that does not come back ({word.hung})")
        self._desk.advance()

    # --- its end

    def _retire(self, why: str) -> None:
        """Take nothing new, and end the process when the batches that run have ended, within a bound."""
        if self._refusal:
            return
        self._refusal = why
        self._desk.refuse_waiting(why)
        self._desk.quiet().add_done_callback(lambda _: self._end(why))
        self._loop.call_later(RETIRE_S, self._end, why)

    def _end(self, why: str) -> None:
        """End it now; `why` is the reason that counts, "" for what the process' own end says."""
        self._refusal = self._refusal or why or "its process is ending"
        self._why = self._why or why
        self._child.kill()

    def _on_end(self, _: asyncio.Future[None]) -> None:
        """It is gone: what it still said counts, everything else is settled."""
        reason = self._why or self._child.epitaph()
        self.resident_bytes = 0
        if self._closing is None:
            self._refusal = f"its process {reason}"
        self._desk.refuse_waiting(self._refusal)
        self._loop.remove_reader(self._channel.fileno())
        with contextlib.suppress(ChannelError):
            while (heard := self._line.hear()) is not None:
                self._take(*heard)
        self._desk.fail_running(self._refusal)
        self._line.close()
        if not self._loaded.done():
            self._loaded.set_result(Failed(HostError.__name__, self._refusal))
        if self._closing is None and not self.lost.done():
            self.lost.set_result(reason)

    # --- loading, watching, closing

    async def _load(self, load: Load, timeout_s: float) -> None:
        path = os.fsdecode(load.path)
        with contextlib.suppress(ChannelError):  # it ended already, and that says why
            self._line.say(self._line.slots[CONTROL], load)
        if not await self._gaps.wait(self._loaded, timeout_s):
            text = f"{path}: not loaded within {timeout_s:g} s; give it more time, or the machine less to do"
            raise HostError("load_timeout", text)
        word = self._loaded.result()
        if isinstance(word, Failed):
            raise raised(word, path)
        self.info = word.info
        await self._measure()

    async def _watch_memory(self) -> None:
        while await self._measure():
            if 0 < self._limit_bytes < self.resident_bytes:
                held, limit = self.resident_bytes / 1e6, self._limit_bytes / 1e6
                self._retire(f"ended for its memory: {held:.0f} MB, at most {limit:.0f} MB are allowed")
                return
            await asyncio.sleep(SAMPLE_S)

    async def _measure(self) -> bool:
        """Look at its memory, beside the event loop; False where the process is gone."""
        with contextlib.suppress(OSError):
            size = await asyncio.to_thread(proportional_bytes, self._child.pid)
            # Once it is reaped, its number may be another's.
            self.resident_bytes = 0 if self._child.ended.done() else size
        return not self._child.ended.done()

    async def _close(self) -> None:
        try:
            await asyncio.wait([self._desk.quiet()], timeout=CLOSE_S)
            if not self._desk.running:
                with self._gaps.within(self._child.signal):
                    self._say_close()
                    await self._gaps.wait(self._child.ended, END_S)
        finally:
            self._child.kill()
            await asyncio.shield(self._child.ended)
            if self._watch is not None:
                self._watch.cancel()
                await asyncio.wait([self._watch])

    def _say_close(self) -> None:
        if self._child.ended.done():
            return
        try:
            self._line.say(self._line.slots[CONTROL], Close())
        except (ChannelError, OSError):
            self._child.kill()


def _absolute(path: str) -> bytes:
    """The process has another working directory. Looks at no disk."""
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100  # Path.resolve follows links, Path.absolute keeps `..`
