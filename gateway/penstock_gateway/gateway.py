"""The gateway: its parts, wired together once, and its life as verbs.

`run` loads the models, opens the journal, connects, serves, and on `stop` leaves in order: stop accepting, drain with
a deadline, publish what is settled, close. Everything that runs is a task of one group, so a part that fails takes the
gateway down loudly instead of leaving half of it standing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import msgspec

from penstock_gateway import connections
from penstock_gateway.admission import Admission
from penstock_gateway.broker_check import Needs
from penstock_gateway.config import Config, load
from penstock_gateway.connections import Plan, Watch
from penstock_gateway.embedded import Address, embedded_broker
from penstock_gateway.frames import Frame, Lane
from penstock_gateway.health import Health
from penstock_gateway.http import serve
from penstock_gateway.identity import StreamIdentity
from penstock_gateway.intake import Books, Durable, Intake
from penstock_gateway.journal import Journal
from penstock_gateway.ledger import Counts, Fate, Ledger
from penstock_gateway.logs import Log
from penstock_gateway.metrics import Tally
from penstock_gateway.models import Core, frozen_keys, reference, wanted
from penstock_gateway.mqtt import Link, LinkOptions, Publish
from penstock_gateway.mqtt.link import MqttLink
from penstock_gateway.receipts import Receipts
from penstock_gateway.refusals import Refusals
from penstock_gateway.results import Results
from penstock_gateway.status import Parts, Views
from penstock_gateway.streams import Streams
from penstock_gateway.topics import gateway_topic
from penstock_gateway.watchdog import Watchdog
from penstock_gateway.wire import GatewayStatus, encode_stats, encode_status
from penstock_models.errors import PenstockError
from penstock_models.items import Outcome
from penstock_models.scheduling.runs import VersionRun
from penstock_models.serving.core import ServingCore, Settings

DRAIN_S = 10.0
FLUSH_S = 5.0
CHECKPOINT_S = 1.0
STATS_S = 10.0

log = Log(__name__)

T = TypeVar("T")


LinkMaker = Callable[[LinkOptions], Link]


async def run(
    config: Config,
    stop: asyncio.Event,
    make_link: LinkMaker = MqttLink,
    reload: asyncio.Event | None = None,
) -> None:
    """Run a gateway until `stop` is set, then drain and leave.

    Args:
        reload: when it is set, the configuration is read again.
        make_link: fills the seam towards MQTT.

    Raises:
        PenstockError: a model, the journal, the broker's address or a port is not usable; nothing was subscribed then.
    """
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(_serving(config))
        if not await _unless(stop, _started(core, config)):
            return
        broker = Address(config.mqtt.url.host, config.mqtt.url.port, "")
        if config.mqtt.url.embedded:
            folder = config.state / "broker"
            broker = await stack.enter_async_context(embedded_broker(str(config.mqtt.listen), folder))
        events = _JournalEvents()
        journal = await Journal.open(
            config.state / "journal.db",
            config.journal.max_bytes,
            events,
            max_entry=config.limits.max_frame_bytes + (64 << 10),
            max_streams=config.limits.max_streams,
        )
        for report in journal.opened.reports:
            log.warning("journal", report=report)
        gateway = Gateway(config, core, journal, broker, make_link)
        events.gateway = gateway
        gc.freeze()  # what was made so far stays: no collection walks 60,000 objects of modules for 30 ms again
        try:
            await gateway.run(stop, reload)
        finally:
            await gateway.close_books()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Do some work; None where `stop` came first."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()
        stopping.cancel()


@asynccontextmanager
async def _serving(config: Config) -> AsyncIterator[ServingCore]:
    """The serving core of a configuration, at work; when it fails, so does what is inside."""
    settings = Settings(config.models.path, config.state, config.threads, config.limits.max_pixels)
    core = ServingCore(settings)
    core.configure(wanted(config))
    try:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(core.run(), name="versions")
            yield core
            work.cancel()
    finally:
        await core.close()


async def _started(core: ServingCore, config: Config) -> bool:
    """Wait for every model that a route names; nothing else is served yet, so they are loaded in this process."""
    await core.started(reference(ref) for ref in config.references)
    for info in (run.info for run in core.runs):
        log.info(
            "loaded", model=info.name, version=info.version, placement=info.placement, p50_ms=info.p50_ms
        )
    return True


class _JournalEvents:
    """Hands the journal's events on; the gateway exists only after the journal, since it speaks of its start."""

    gateway: Gateway

    def on_durable(self, tokens: Sequence[Durable], streams: Sequence[StreamIdentity]) -> None:
        self.gateway.intake.durable(tokens, streams)

    def on_stuck(self, reason: str) -> None:
        log.error("journal stuck", reason=reason)
        self.gateway.publish_status()

    def on_unstuck(self) -> None:
        log.info("journal writes again")
        self.gateway.intake.resume()
        self.gateway.publish_status()

    def on_broken(self, reason: str) -> None:
        log.error("journal broken", reason=reason)
        self.gateway.publish_status()


class Gateway:
    """The parts of one start."""

    def __init__(
        self,
        config: Config,
        core: Core,
        journal: Journal,
        broker: Address,
        make_link: LinkMaker,
    ) -> None:
        self._config = config
        self._journal = journal
        self._books = Books(Ledger(), Counts())
        self._checkpointed: tuple[int, ...] = ()
        self._told = b""
        self._watchdog = Watchdog()
        self._core = core
        tally = Tally()
        self._links = self._connect(config, broker, make_link)
        control, results_link = self._links["control"][2], self._links["results"][2]
        self._health = Health(core.executor, lambda: [run.info for run in core.runs], self.publish_status)
        self._receipts = Receipts(control, tally, lambda stream: self.intake.passed(stream))
        self._results = Results(results_link, journal, self._books.journalled, tally, self._let_go)
        core.own(self)
        core.on_news = self.publish_status
        self._scheduler = core.scheduler
        self._lanes = [
            Lane(
                route,
                core.target(reference(route.model)),
                [core.target(reference(stage)) for stage in route.stages],
            )
            for route in config.route
        ]
        limits, mqtt = config.limits, config.mqtt
        self._streams = Streams(self._lanes, self._books.ledger, mqtt.root, config.site, limits.max_streams)
        self.intake = Intake(
            admission=Admission(limits, mqtt.response_prefixes, self._identities(), journal.opened.digests),
            streams=self._streams,
            books=self._books,
            results=self._results,
            scheduler=self._scheduler,
            journal=journal,
            receipts=self._receipts,
            tally=tally,
            first_id=journal.opened.first_row,
        )
        links = {name: (watch, link) for name, (_, watch, link) in self._links.items()}
        self._refusals = Refusals({name: link for name, (_, link) in links.items()}, self.publish_status)
        self._views = Views(
            Parts(self._books.ledger, self._lanes, core, links, journal, self._health, self._refusals, tally)
        )

    def outcomes(self, run: VersionRun, batch: list[Frame], outcomes: Sequence[Outcome]) -> None:
        """A batch was answered; for the core."""
        self._results.outcomes(run, batch, outcomes)

    def settled(self, frames: list[Frame], fate: Fate) -> None:
        """Settle what was not run. A journalled frame outlives a shutdown: the next start carries it over."""
        if fate == ("dropped", "shutdown"):
            frames = [frame for frame in frames if not frame.row]
        self._results.settle(frames, fate)

    async def run(self, stop: asyncio.Event, reload: asyncio.Event | None = None) -> None:
        """Serve until `stop`, then leave in order."""
        http, token = self._config.http, self._config.http.token_file
        tokens = token.tokens() if token else ()
        async with serve(self._views, str(http.listen), tokens, self.reload), asyncio.TaskGroup() as group:
            scheduler = group.create_task(self._scheduler.run(), name="scheduler")
            tasks = [
                group.create_task(work, name=name)
                for name, work in (
                    ("receipts", self._receipts.run()),
                    ("health", self._health.run()),
                    ("refusals", self._refusals.run()),
                    ("stats", self._every(STATS_S, self._publish_stats)),
                    ("checkpoint", self._every(CHECKPOINT_S, self._checkpoint)),
                    ("watchdog", self._watchdog.run()),
                    ("reload", self._reload_on(reload or asyncio.Event())),
                )
            ]
            await self._carry()
            self._watchdog.tell("READY=1")  # a broker that is away is waited for while it runs
            links = {name: group.create_task(self._serve_link(name), name=name) for name in self._links}
            await stop.wait()
            await self._leave(links, scheduler)
            for task in (*tasks, *links.values()):
                task.cancel()

    def reload(self) -> list[str]:
        """Read the configuration again, and take over what `[[model]]` says.

        Returns:
            The keys that differ and wait for a restart.

        Raises:
            UsageError: the file is wrong; everything stays as it was.
        """
        new = load(self._config.file, os.environ)
        self._core.configure(wanted(msgspec.structs.replace(self._config, model=new.model)))
        waiting = frozen_keys(self._config, new)
        self._config = msgspec.structs.replace(self._config, model=new.model)
        log.info("configuration reloaded", waiting_for_restart=waiting)
        return waiting

    async def _reload_on(self, reload: asyncio.Event) -> None:
        while await reload.wait():
            reload.clear()
            try:
                self.reload()
            except PenstockError as error:
                log.error("configuration not reloaded", reason=str(error))

    async def close_books(self) -> None:
        """End the journal's start: cleanly where it can still write."""
        self._checkpoint()
        if not await self._journal.close(FLUSH_S):
            log.error("journal not closed in time", seconds=FLUSH_S)

    def publish_status(self) -> None:
        """Tell the retained status topic when the state is a new one; nothing until every link has answered or failed."""
        if not self._views.stopping and not all(watch.heard for _, watch, _ in self._links.values()):
            return
        status = encode_status(self._views.gateway_status())
        if status != self._told and self._publish("status", status, qos=1, retain=True):
            self._told = status

    async def _leave(self, links: dict[str, asyncio.Task[None]], scheduler: asyncio.Task[None]) -> None:
        """Stop accepting, drain with a deadline, publish."""
        log.info("stopping")
        self._watchdog.tell("STOPPING=1")
        self._views.stopping = True
        incoming = [task for name, task in links.items() if self._links[name][0].routes]
        for task in incoming:
            task.cancel()
        await asyncio.wait(incoming)
        drained = await self._scheduler.drain(DRAIN_S)
        if not drained:
            log.warning("not drained in time", seconds=DRAIN_S)
        scheduler.cancel()
        await asyncio.wait((scheduler,))  # what runs has a fate before the last stats
        for run in self._scheduler.runs:
            self.settled(run.queue.drain(), ("dropped", "shutdown"))
        self._receipts.send()
        await self._links["results"][2].flush(FLUSH_S)
        self._publish_stats()
        self.publish_status()
        await self._links["control"][2].flush(FLUSH_S)

    def _connect(
        self, config: Config, broker: Address, make_link: LinkMaker
    ) -> dict[str, tuple[Plan, Watch, Link]]:
        start = self._journal.opened.start.start
        gone = GatewayStatus(state="offline", start=start, since=time.time_ns() // 1_000_000)
        will = Publish(self._topic("status"), encode_status(gone), qos=1, retain=True)
        links = {}
        for plan in connections.plan(config, broker, will):
            needs = Needs(config.limits.max_frame_bytes if plan.routes else 0, plan.options.session_expiry_s)
            watch = Watch(plan.name, needs, self.publish_status)
            links[plan.name] = (plan, watch, make_link(plan.options))
        return links

    async def _serve_link(self, name: str) -> None:
        _, watch, link = self._links[name]
        await link.run(partial(self.intake.take, link), watch)

    async def _carry(self) -> None:
        """Take over what earlier starts left in the journal, before anything new is subscribed."""
        async for entry in self._journal.carried():
            self.intake.carry(entry)
        if self._journal.opened.carried:
            log.info("carried over", frames=self._journal.opened.carried)
        self.intake.recall(self._journal.opened.streams)
        self._scheduler.kick()

    def _identities(self) -> dict[str, StreamIdentity]:
        """The streams that the journal remembers; one gets its route's `gap_s` when its route is known."""
        now = time.monotonic()
        gap_s = max((route.gap_s for route in self._config.route if route.mode == "every"), default=0.0)
        found = {}
        for key, blob in self._journal.opened.streams.items():
            try:
                found[key] = StreamIdentity.restore(key, blob, gap_s, now)
            except ValueError as error:
                log.warning("stream forgotten", stream=key, reason=str(error))
        return found

    def _let_go(self, frame: Frame) -> None:
        self.intake.let_go(frame)

    def _checkpoint(self) -> None:
        """Make the totals of what is not journalled durable, when they changed."""
        total = self._books.ledger.total()
        state = (total.received, total.settled, total.late, total.missing_upstream)
        if state == self._checkpointed:
            return
        self._checkpointed = state
        numbered = {stream.key for stream in self._streams if stream.lane.route.mode == "every"}
        self._journal.checkpoint(self._books.rest(numbered))

    def _publish_stats(self) -> None:
        self._publish("stats", encode_stats(self._views.stats()), qos=0)
        self.publish_status()  # what the last seconds told of deadlines

    def _publish(self, kind: str, payload: bytes, qos: int, retain: bool = False) -> bool:
        control = self._links["control"][2]
        taken = control.publish(Publish(self._topic(kind), payload, qos=qos, retain=retain))
        if not taken:
            log.warning("outbox full", link="control", message=kind)
        return taken

    def _topic(self, kind: str) -> str:
        return gateway_topic(self._config.mqtt.root, self._config.site, self._config.gateway, kind)

    @staticmethod
    async def _every(seconds: float, act: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(seconds)
            act()
