"""One run of a scenario, from the first process to the verdict.

Owns the order of things. What devices do is in the workers, what breaks in `timeline`, what is written in `records`, and
what it means in `penstock_sim.measure`.
"""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec

from penstock_gateway.config.values import BrokerUrl
from penstock_sim.faults.proxy import LinkProxy
from penstock_sim.run import merge, timeline, wire
from penstock_sim.run.broker_sampler import BrokerSampler
from penstock_sim.run.build import Part, options_of
from penstock_sim.run.judge import judge
from penstock_sim.run.limits import allow_connections
from penstock_sim.run.local import LocalSite, local_site
from penstock_sim.run.processes import Worker, workers
from penstock_sim.run.records import Event, Row, Summary, Writer
from penstock_sim.run.sampling import Pids, Sampling, machine
from penstock_sim.run.tasks import errors_as_they_are, run_all
from penstock_sim.scenario import Loaded, Target
from penstock_sim.scenario import faults as f
from penstock_sim.site.gateway import Pages

LEAD_S = 0.5
"""Between the order to begin and the first frame."""

DRAIN_S = 30.0
"""How long the gateway may take to settle what was sent."""

DEVICES_A_WORKER = 5_000
RATE_A_WORKER = 50_000.0
"""Beyond either another process is started: a frame costs some 7 µs."""


class View(Protocol):
    """Where a run shows its progress."""

    def stage(self, text: str, done: int | None = None, of: int | None = None) -> None: ...

    def row(self, row: Row, of_s: float) -> None: ...

    def event(self, event: Event) -> None: ...


def worker_count(loaded: Loaded, broker: str) -> int:
    """How many processes share the devices; a broker on this machine keeps a core, as sending on all of them would make
    the generator late."""
    cores = len(os.sched_getaffinity(0))
    free = cores - 1 if BrokerUrl.parse(broker).host in _HERE else cores
    wanted = max(loaded.devices / DEVICES_A_WORKER, loaded.rate_hz * loaded.load.highest / RATE_A_WORKER)
    return max(1, min(free, loaded.devices, math.ceil(wanted)))


_HERE = ("127.0.0.1", "localhost", "::1")


class Run:
    """One run. `stop` ends the sending early; the books are closed all the same.

    Args:
        site: a broker and a gateway that run already; else they are started where the scenario names no other target.
    """

    def __init__(self, loaded: Loaded, writer: Writer, view: View, site: LocalSite | None = None) -> None:
        self._loaded, self._writer, self._view, self._given = loaded, writer, view, site
        self._name = secrets.token_hex(4)
        self._stop = asyncio.Event()
        self._began_s = 0.0
        self._notes: list[str] = []

    def stop(self) -> None:
        self._stop.set()

    async def go(self) -> Summary:
        """Run it all.

        Raises:
            UsageError: the scenario cannot be run as it stands.
            PenstockError: something did not start, or died; what was written stays.
        """
        target = self._loaded.scenario.target
        timeline.check(self._loaded.scenario.fault, local=not target.url)
        allow_connections(self._loaded.devices * (2 if self._bad_link else 1))
        summary = None
        try:
            async with self._site() as (site, reached), self._link(reached) as (link, through):
                summary = await self._measured(site, link, reached, through)
        finally:
            self._writer.close(summary)
        return summary

    @property
    def _bad_link(self) -> bool:
        """Whether what goes to the broker goes through a link that can be bad."""
        return any(isinstance(fault, timeline.LINK) for fault in self._loaded.scenario.fault)

    @asynccontextmanager
    async def _site(self) -> AsyncIterator[tuple[LocalSite | None, Target]]:
        target = self._loaded.scenario.target
        if target.url:
            yield None, target
            return
        if self._given is not None:
            yield self._given, msgspec.structs.replace(target, url=self._given.gateway.url)
            return
        self._view.stage("starting a broker and a gateway")
        config = self._loaded.folder / target.gateway if target.gateway else None
        async with local_site(self._writer.folder, config, self._loaded.devices) as site:
            yield site, msgspec.structs.replace(target, url=site.gateway.url)

    @asynccontextmanager
    async def _link(self, target: Target) -> AsyncIterator[tuple[LinkProxy | None, Target]]:
        """A link that can be bad, where the scenario has faults of it."""
        if not self._bad_link:
            yield None, target
            return
        url = BrokerUrl.parse(target.url)
        async with LinkProxy(url.host, url.port, self._loaded.scenario.seed) as link:
            here = f"{'mqtts' if url.tls else 'mqtt'}://127.0.0.1:{link.port}"
            yield link, msgspec.structs.replace(target, url=here)

    def _pages(self, site: LocalSite | None) -> Pages | None:
        if site is not None:
            return site.gateway.pages
        target = self._loaded.scenario.target
        if target.status:
            return Pages(target.status, target.token(self._loaded.folder))
        self._notes.append("no [target] status: the gateway's ledger was not asked, the books are one-sided")
        return None

    async def _measured(
        self, site: LocalSite | None, link: LinkProxy | None, reached: Target, through: Target
    ) -> Summary:
        pages = self._pages(site)
        before = await pages.status() if pages is not None else None
        count = worker_count(self._loaded, reached.url)
        broker = BrokerSampler()
        try:
            async with workers(count) as found:
                await broker.listen(*options_of(reached, self._loaded.folder, f"sim-{self._name}-broker"))
                for number, worker in enumerate(found):
                    worker.say(wire.Order(self._loaded, Part(number, count), through, self._name))
                heard = [worker.heard() for worker in found]
                await self._connected(heard)
                began_ms = int(time.time() * 1000)
                sampling = Sampling(_processes(found, site), pages, broker)
                done = await self._through(found, heard, site, link, sampling)
        finally:
            broker.close()
        self._view.stage("closing the books")
        after = await self._closed(pages, before, done)
        return await asyncio.to_thread(
            judge, self._loaded, self._name, began_ms, done, self._writer.folder, before, after,
            count, machine(), tuple(self._notes),
        )  # fmt: skip

    async def _connected(self, streams: list[AsyncIterator[Any]]) -> None:
        counts = [0] * len(streams)

        async def one(number: int, heard: AsyncIterator[Any]) -> None:
            async for message in heard:
                counts[number] = message.connected
                self._view.stage("connecting the devices", sum(counts), self._loaded.devices)
                if message.ready:
                    return

        await run_all(one(number, heard) for number, heard in enumerate(streams))

    async def _through(
        self,
        found: list[Worker],
        streams: list[AsyncIterator[Any]],
        site: LocalSite | None,
        link: LinkProxy | None,
        sampling: Sampling,
    ) -> wire.Done:
        """From the begin to the workers' closed books."""
        self._began_s = time.monotonic() + LEAD_S
        for worker in found:
            worker.say(wire.Begin(self._began_s))

        async def second(whole: wire.Second) -> None:
            row = await sampling.row(whole)
            self._writer.row(row)
            self._view.row(row, self._loaded.load.seconds)

        seconds = merge.Seconds(len(found), second)
        books: list[wire.Done] = []

        async def one(heard: AsyncIterator[Any]) -> None:
            async for message in heard:
                if isinstance(message, wire.Done):
                    books.append(message)
                else:
                    await seconds.take(message)

        faults = timeline.within(self._loaded.scenario.fault, self._loaded.load.seconds)
        with errors_as_they_are():
            async with asyncio.TaskGroup() as group:
                folder = self._loaded.folder
                acting = timeline.act(faults, self._began_s, link, site, self._fault, self._stop, folder)
                group.create_task(acting, name="faults")
                stopping = group.create_task(self._stopped(found), name="stop")
                await run_all(one(heard) for heard in streams)
                await seconds.rest()
                stopping.cancel()
        return merge.done(books)

    def _fault(self, fault: f.AnyFault, begins: bool) -> None:
        event = Event(round(time.monotonic() - self._began_s, 3), f.kind(fault), describe(fault), begins)
        self._writer.event(event)
        self._view.event(event)

    async def _stopped(self, found: list[Worker]) -> None:
        await self._stop.wait()
        for worker in found:
            worker.say(wire.Stop())

    async def _closed(
        self, pages: Pages | None, before: Mapping[str, Any] | None, done: wire.Done
    ) -> Mapping[str, Any] | None:
        """The gateway's page once all that was sent has its fate, as far as it comes."""
        if pages is None:
            return None
        sent = sum(report.sent for books in done.streams.values() for report in books.values())
        earlier = int(before["ledger"]["received"]) if before is not None else 0
        return await pages.drained(earlier + sent, DRAIN_S)


def describe(fault: f.AnyFault) -> str:
    """A fault in words for the time line: its keys without the time."""
    keys = msgspec.structs.asdict(fault)
    return ", ".join(
        f"{key} {value}" for key, value in keys.items() if key != "at_s" and value not in ("", False)
    )


def _processes(found: list[Worker], site: LocalSite | None) -> dict[str, Pids]:
    generator = [os.getpid(), *(worker.pid for worker in found)]
    own: dict[str, Pids] = {"generator": lambda: generator}
    if site is None:
        return own
    return own | {"broker": lambda: [site.broker.child.pid], "gateway": lambda: [site.gateway.child.pid]}
