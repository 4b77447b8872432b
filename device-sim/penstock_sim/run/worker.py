"""One process of a run: its part of the devices, from the first connection to the closed books.

    python -m penstock_sim.run.worker

Takes an `Order` on standard input and answers on standard output, one JSON object a line (`wire`). It is started by
`processes`; nobody else needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import AsyncIterator

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.load.fleet import Fleet
from penstock_sim.load.lane import Sending
from penstock_sim.load.sender import Sender
from penstock_sim.load.track import StreamReport, StreamTrack
from penstock_sim.measure.window import Window
from penstock_sim.run import wire
from penstock_sim.run.build import Built, build
from penstock_sim.run.device_faults import act

GRACE_S = 10.0
"""For what is still unsent at the end, and for PUBACKs."""

SETTLE_S = 30.0
_PROGRESS_S = 0.2


def say(message: wire.FromWorker) -> None:
    sys.stdout.buffer.write(wire.line(message))
    sys.stdout.buffer.flush()


async def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for who started us
    orders = _orders()
    order = await anext(orders)
    assert isinstance(order, wire.Order)
    try:
        sending = Sending()
        built = build(order.loaded, order.part, order.target, order.run, sending)
        work = Work(order, built, sending)
        gc.freeze()
        await work.run(orders)
    except PenstockError as error:
        say(wire.Failed(str(error), isinstance(error, UsageError)))


async def _orders() -> AsyncIterator[wire.ToWorker]:
    """The lines of standard input; its end is a stop."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield wire.to_worker.decode(line)
    yield wire.Stop()


class Work:
    """The devices at work."""

    def __init__(self, order: wire.Order, built: Built, sending: Sending) -> None:
        loaded = self._loaded = order.loaded
        self._order, self._built, self._sending = order, built, sending
        self._windows = {mix.name: Window() for mix in loaded.scenario.device}
        self._mix_of = {
            (stream.stream.device, stream.stream.stream): device.mix
            for device in built.devices
            for stream in device.streams
        }
        self._deadlines = {
            (stream.stream.device, stream.stream.stream): stream.stream.deadline_ms
            for device in built.devices
            for stream in device.streams
        }
        self._fleet = Fleet(built.devices, sending, self._result, loaded.scenario.seed)
        self._sent = dict.fromkeys(self._windows, 0)
        self._stopped = False
        self._seconds = 0

    async def run(self, orders: AsyncIterator[wire.ToWorker]) -> None:
        try:
            await self._connect()
            begin = await anext(orders)
            if isinstance(begin, wire.Begin):
                await self._send(begin.at_s, orders)
            say(self._done())
        finally:
            self._fleet.close()

    async def _connect(self) -> None:
        told = 0.0

        def progress(count: int) -> None:
            nonlocal told
            if time.monotonic() - told > _PROGRESS_S:
                told = time.monotonic()
                say(wire.Progress(count))

        await self._fleet.connect(progress)
        say(wire.Progress(self._fleet.connected, ready=True))

    async def _send(self, begin_s: float, orders: AsyncIterator[wire.ToWorker]) -> None:
        """Send until the load ends or somebody stops it; then wait for what is still to come."""
        sender = Sender(self._built.sends, self._built.schedules, self._sending)
        for stream, _ in self._built.sends:
            stream.began_s = begin_s
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._fleet.keep(), name="reconnect"),
                group.create_task(self._tell(begin_s), name="seconds"),
                group.create_task(
                    act(
                        self._fleet, self._loaded.scenario.fault, begin_s, self._built.others, self._order.run
                    )
                ),
            ]
            sending = asyncio.create_task(self._within(sender, begin_s), name="send")
            beside.append(group.create_task(self._until_stop(orders, sending), name="orders"))
            await asyncio.wait((sending,))
            if not sending.cancelled():
                sending.result()
            await self._fleet.settle(SETTLE_S)
            for task in beside:
                task.cancel()

    async def _within(self, sender: Sender, begin_s: float) -> None:
        seconds = self._loaded.load.seconds
        with contextlib.suppress(TimeoutError):  # what is unsent then stays so, and is reported
            async with asyncio.timeout(max(0.0, begin_s - time.monotonic()) + seconds + GRACE_S):
                await sender.run(begin_s, seconds)

    async def _until_stop(self, orders: AsyncIterator[wire.ToWorker], sending: asyncio.Task[None]) -> None:
        async for order in orders:
            if isinstance(order, wire.Stop):
                self._stopped = sending.cancel()  # False where all was sent already
                return

    async def _tell(self, begin_s: float) -> None:
        """Say what happened in each second, at its end."""
        try:
            while True:
                await asyncio.sleep(max(0.0, begin_s + self._seconds + 1 - time.monotonic()))
                self._second()
        finally:
            self._second()  # what came since

    def _second(self) -> None:
        sent = self._sent_by_mix()
        mixes = {name: window.cut(sent[name] - self._sent[name]) for name, window in self._windows.items()}
        self._sent = sent
        fleet, sending = self._fleet, self._sending
        second = wire.Second(
            number=self._seconds,
            mixes=mixes,
            connected=fleet.connected,
            held=sending.held,
            unsent=sending.unsent.total(),
            lag_p99_ms=sending.lag_ms.percentile(99),
            bytes_received=fleet.traffic.received,
            bytes_sent=fleet.traffic.sent,
        )
        self._seconds += 1
        say(second)

    def _sent_by_mix(self) -> dict[str, int]:
        sent = dict.fromkeys(self._windows, 0)
        for device in self._built.devices:
            sent[device.mix] += sum(track.sent for stream in device.streams for track in stream.tracks)
        return sent

    def _result(self, track: StreamTrack, fate: str, is_answer: bool, latency_ms: float) -> None:
        key = track.device, track.stream
        self._windows[self._mix_of[key]].result(fate, is_answer, latency_ms, self._deadlines[key])

    def _done(self) -> wire.Done:
        streams: dict[str, dict[str, StreamReport]] = {name: {} for name in self._windows}
        for device in self._built.devices:
            for stream in device.streams:
                streams[device.mix][f"{stream.stream.device}/{stream.stream.stream}"] = stream.report()
        fleet, sending = self._fleet, self._sending
        return wire.Done(
            streams=streams,
            unsent={str(why): count for why, count in sending.unsent.items() if count},
            lag_ms=sending.lag_ms.summary(),
            behind=sending.behind,
            sent_lag_ms=sending.sent_lag_ms.summary(),
            lost_connections=dict(fleet.lost),
            refused=fleet.refused,
            foreign=fleet.tracker.foreign,
            undecodable=fleet.tracker.undecodable,
            stopped=self._stopped,
            offset_ms=fleet.tracker.offset.bounds_ms,
        )


if __name__ == "__main__":
    asyncio.run(main())
