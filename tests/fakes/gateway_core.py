"""The gateway's own wiring with simulators at its seams: links, journal and executor have verbs instead of sockets,
a disk and models.

    async with core(tmp_path, route("every"), disk=disk) as gw:
        gw.bring("dev/cam", b"[1]")        # what the broker delivers
        gw.journal.commit()                # what was given so far is durable
        await gw.executor.finish()         # the batches that run give their answers
        gw.results.deliver()               # the broker takes what waits in the outbox
        gw.kill()                          # nothing that happens from here on reaches disk or broker
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from penstock_gateway.config import Config, load
from penstock_gateway.embedded import Address
from penstock_gateway.frames import Frame
from penstock_gateway.gateway import Gateway, _JournalEvents
from penstock_gateway.identity import StreamIdentity
from penstock_gateway.journal import Entry, Journal
from penstock_gateway.ledger import Counts, Fate
from penstock_gateway.mqtt import (
    Granted,
    LinkOptions,
    LinkState,
    Message,
    OnAcked,
    OnMessages,
    Publish,
    Traffic,
)
from penstock_gateway.starts import Books, StartRecord, Totals, off_by
from penstock_models.devices.builds import Progress
from penstock_models.items import ServableInfo
from penstock_models.scheduling.runs import VersionRun
from penstock_models.serving.executor import VersionOptions
from penstock_models.serving.front import Front
from penstock_models.store import Reference
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.memory import Returned
from penstock_models.versions.status import ModelStatus, VersionStatus
from tests.fakes.executor import FakeExecutor, servable, turns

GRANTED = Granted(protocol=5, session_present=True)


class FakeLink:
    """One connection. `outbox` is what waits for the broker, `taken` what it got, `acked` the handles in order."""

    def __init__(self, options: LinkOptions) -> None:
        self.options = options
        self.overruns = self.dropped = 0
        self.refused: Counter[str] = Counter()
        self.refused_topic = ""
        self.traffic = Traffic()
        self.room = 10_000
        self.outbox: deque[tuple[Publish, OnAcked | None]] = deque()
        self.taken: list[Publish] = []
        self.acked: list[int] = []
        self.paused = False
        self.dead = False
        self.answers = True
        self.bring: OnMessages = lambda _: None
        self.state: LinkState | None = None

    async def run(self, on_messages: OnMessages, state: LinkState) -> None:
        self.bring, self.state = on_messages, state
        if self.answers:
            state.up(GRANTED)
        await asyncio.Event().wait()

    def publish(self, message: Publish, on_acked: OnAcked | None = None) -> bool:
        if len(self.outbox) >= self.room:
            return False
        self.outbox.append((message, on_acked))
        return True

    def deliver(self, count: int = 1 << 30) -> None:
        """The broker takes so many messages."""
        while count and self.outbox and not self.dead:
            message, on_acked = self.outbox.popleft()
            self.taken.append(message)
            count -= 1
            if on_acked is not None:
                on_acked()

    def ack(self, handle: int) -> None:
        if handle and not self.dead:
            self.acked.append(handle)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    async def flush(self, timeout_s: float) -> bool:
        self.deliver()
        return not self.outbox

    def sent(self, topic: str) -> list[dict[str, Any]]:
        """What was published on a topic, whether the broker has it or not."""
        waiting = [message for message, _ in self.outbox]
        return [json.loads(m.payload) for m in [*self.taken, *waiting] if m.topic == topic]


class Disk:
    """What outlives a kill. `settled` holds every fate that became durable, by row or by acknowledgement handle."""

    def __init__(self) -> None:
        self.rows: dict[int, Entry] = {}
        self.handles: dict[int, int] = {}
        self.streams: dict[str, bytes] = {}
        self.digests: list[bytes] = []
        self.settled: list[tuple[int, Fate]] = []
        self.books = Books()
        self.starts = 0


class FakeJournal:
    """A journal on a `Disk`: what is given becomes durable at `commit`, all of it or, after a kill, none."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.full = self.stuck = False
        self.broken: str | None = None
        self.bytes_used = 0
        self.space = SimpleNamespace(max_entry=1 << 20)
        self.events = _JournalEvents()
        self.pending: list[Callable[[], None]] = []
        self.flying = 0
        self._tokens: list[Any] = []
        self._touched: dict[str, StreamIdentity] = {}
        self.dead = False
        disk.starts += 1
        disk.books = Books.opened(len(disk.rows))
        self._found = list(disk.rows.values())
        start = f"{disk.starts:x}"
        self.opened = SimpleNamespace(
            start=StartRecord(start, 0, None, "running", Totals()),
            first_row=disk.starts << 20,
            carried=len(disk.rows),
            starts=(),
            streams=dict(disk.streams),
            digests=tuple(disk.digests),
            reports=(),
        )

    def append(self, entry: Entry, token: Any) -> None:
        def write() -> None:
            assert entry.row not in self.disk.rows
            self.disk.rows[entry.row] = entry
            self.disk.handles[entry.row] = token.ack
            self._book(appended=1)

        self.flying += 1
        self.pending.append(write)
        self._tokens.append(token)

    def barrier(self, token: Any, fate: Fate | None = None) -> None:
        def count() -> None:
            if fate is not None:
                self.disk.settled.append((token.ack, fate))
                self._book(counted={fate: 1})

        self.pending.append(count)
        self._tokens.append(token)

    def settle(self, row: int, fate: Fate) -> None:
        def delete() -> None:
            del self.disk.rows[row]  # a row that is settled twice raises here
            self.disk.settled.append((self.disk.handles[row], fate))
            self._book(settled={fate: 1})

        self.pending.append(delete)

    def touch(self, stream: StreamIdentity) -> None:
        self._touched[stream.key] = stream

    def remember(self, digest: bytes) -> None:
        self.pending.append(lambda: self.disk.digests.append(digest))

    def checkpoint(self, counts: Counts) -> None:
        self.pending.append(lambda: self._book(other=Totals.of(counts)))

    def _book(
        self,
        appended: int = 0,
        settled: dict[Fate, int] | None = None,
        counted: dict[Fate, int] | None = None,
        missing: int = 0,
        other: Totals | None = None,
    ) -> None:
        self.disk.books = self.disk.books.after(appended, settled or {}, counted or {}, missing, other)

    async def carried(self) -> AsyncIterator[Entry]:
        for entry in self._found:
            yield entry

    def commit(self) -> None:
        """Everything given so far is durable."""
        if self.dead:
            return
        pending, self.pending = self.pending, []
        tokens, self._tokens = self._tokens, []
        touched, self._touched = self._touched, {}
        self.flying = 0
        for write in pending:
            write()
        for stream in touched.values():
            sealed = stream.seal(0.0)
            self._book(missing=sealed.missing)
            self.disk.streams[stream.key] = sealed.blob
            stream.confirm(sealed)
        assert off_by(self.disk.books, len(self.disk.rows)) == 0
        self.events.on_durable(tokens, tuple(touched.values()))

    async def close(self, timeout_s: float) -> bool:
        self.commit()
        return True


class FakeCore:
    """A serving core in which one version answers everything."""

    def __init__(self, executor: FakeExecutor, info: ServableInfo, threads: int) -> None:
        self.executor = executor
        self.on_news: Callable[[], None] = lambda: None
        self.front = Front(executor, threads, lambda run, flow: None)
        self.scheduler = self.front.scheduler
        self.runs = [VersionRun(info)]
        self.scheduler.runs.extend(self.runs)
        self.own = self.front.own
        self.configured: list[ModelConfig] = []
        self.building: list[Progress] = []

    def target(self, reference: Reference) -> VersionRun:
        return self.runs[0]

    def configure(self, models: Iterable[tuple[ModelConfig, VersionOptions]]) -> None:
        self.configured = [config for config, _ in models]

    def statuses(self) -> tuple[ModelStatus, ...]:
        views = [
            VersionStatus(
                run.info.version, run.info.digest, "available", True, 0, placement=run.info.placement
            )
            for run in self.runs
        ]
        return (ModelStatus(self.runs[0].info.name, tuple(views), {}),)

    def builds(self, digest: str) -> list[Progress]:
        return self.building

    def unready(self) -> list[str]:
        return []

    def problems(self) -> list[str]:
        return []

    def shadow_counts(self) -> dict[tuple[str, int, int], dict[str, int]]:
        return {("m", 1, 2): {"agreed": 3, "differed": 1}}

    def memory_returned(self) -> list[Returned]:
        return [Returned("m:1", 9_000_000, 0.9, "")]


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait until a condition about the gateway holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  what the gateway keeps inside has no event to wait for
            await asyncio.sleep(0.001)


def route(
    mode: str = "every", topic: str = "penstock/v1/home/dev/{device}/{stream}/data", **keys: object
) -> str:
    """A [[route]] of JSON frames."""
    values = {"topic": topic, "model": "m", "mode": mode, "content_type": "application/json", **keys}
    return "\n".join(["[[route]]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def configure(folder: Path, *routes: str, threads: int = 1, more: str = "") -> Config:
    """Read a configuration with these routes."""
    (folder / "bundles").mkdir(exist_ok=True)
    path = folder / "gateway.toml"
    head = f'site = "home"\ngateway = "gw1"\nthreads = {threads}\n[http]\nlisten = "127.0.0.1:0"\n'
    path.write_text(
        f'{head}[mqtt]\nurl = "mqtt://127.0.0.1"\n[models]\npath = "bundles"\n{more}\n' + "\n".join(routes)
    )
    return load(path, {})


class Core:
    """A gateway that runs on simulators."""

    def __init__(
        self,
        gateway: Gateway,
        journal: FakeJournal,
        executor: FakeExecutor,
        fake: FakeCore,
        links: list[FakeLink],
    ) -> None:
        self.gateway = gateway
        self.journal = journal
        self.executor = executor
        self.fake = fake
        self.links = {link.options.client_id.rsplit("home-gw1-")[-1]: link for link in links}
        self.control, self.results = self.links["control"], self.links["results"]
        self._handles = 0

    @property
    def frames(self) -> FakeLink:
        """The link that brings frames; the first where there are several."""
        return next(link for name, link in self.links.items() if name not in ("control", "results"))

    @property
    def ledger(self) -> Counts:
        return self.gateway._books.ledger.total()

    def counts(self, stream: str) -> Counts:
        return self.gateway._books.ledger.streams[stream]

    def bring(self, stream: str, payload: bytes = b"[1]", *, kind: str = "data", **options: Any) -> int:
        """The broker delivers one message; returns its acknowledgement handle."""
        self._handles += 1
        options = {"qos": 1, "ack": self._handles, **options}
        user = tuple(
            (key, str(options.pop(key))) for key in ("boot", "seq", "ts", "dl", "pr") if key in options
        )
        link = options.pop("link", self.frames)
        link.bring([Message(f"penstock/v1/home/dev/{stream}/{kind}", payload, user=user, **options)])
        return int(options["ack"])

    def results_of(self, stream: str) -> list[dict[str, Any]]:
        return self.results.sent(f"penstock/v1/home/dev/{stream}/result")

    def receipts_of(self, stream: str) -> list[dict[str, Any]]:
        return self.control.sent(f"penstock/v1/home/dev/{stream}/receipt")

    def statuses(self) -> list[dict[str, Any]]:
        return self.control.sent("penstock/v1/home/gw/gw1/status")

    def in_the_works(self) -> int:
        """Frames without a fate, counted where they are."""
        waiting = sum(model.queue.waiting for model in self.gateway._scheduler.runs)
        running = sum(len(items) for items, _ in self.executor.running)
        return waiting + running + self.journal.flying

    async def check(self) -> None:
        """Every ledger closes, and what it says is in flight is there."""
        await turns()  # a batch that was formed reaches the executor
        assert self.ledger.in_flight == self.in_the_works()
        for counts in self.gateway._books.ledger.streams.values():
            assert counts.in_flight >= 0
        rest = self.gateway._books.rest(())
        assert rest.in_flight >= 0 and all(n >= 0 for n in rest.fates.values())
        assert off_by(self.journal.disk.books, len(self.journal.disk.rows)) == 0

    def kill(self) -> None:
        """From here on nothing reaches the disk or the broker."""
        self.journal.dead = True
        self.journal.pending.clear()
        for link in self.links.values():
            link.dead = True


@asynccontextmanager
async def core(
    folder: Path,
    *routes: str,
    disk: Disk | None = None,
    info: ServableInfo | None = None,
    threads: int = 1,
    more: str = "",
    mute: Sequence[str] = (),
) -> AsyncIterator[Core]:
    """Run a gateway; on leaving it is stopped in order, or just ended where it was killed.

    Args:
        mute: links that neither come up nor fail until told.
    """
    config = configure(folder, *routes, threads=threads, more=more)
    journal, executor = FakeJournal(disk or Disk()), FakeExecutor()
    links: list[FakeLink] = []

    def make_link(options: LinkOptions) -> FakeLink:
        link = FakeLink(options)
        link.answers = not any(options.client_id.endswith(name) for name in mute)
        links.append(link)
        return link

    broker = Address("127.0.0.1", 1883, "")
    fake = FakeCore(executor, info or servable(), config.threads)
    gateway = Gateway(config, fake, cast(Journal, journal), broker, make_link)
    journal.events.gateway = gateway
    made = Core(gateway, journal, executor, fake, links)
    stop = asyncio.Event()
    task = asyncio.create_task(gateway.run(stop))
    try:
        await until(lambda: task.done() or all(link.state is not None for link in links))
        if not task.done():
            yield made
    finally:
        await _end(made, task, stop)


async def _end(made: Core, task: asyncio.Task[None], stop: asyncio.Event) -> None:
    if made.journal.dead or task.done():
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return
    stop.set()
    async with asyncio.timeout(20):
        while not task.done():
            made.journal.commit()
            await made.executor.finish()
            made.results.deliver()
    await made.gateway.close_books()
    task.result()


def waiting(made: Core) -> list[Frame]:
    """The frames that wait for the model."""
    return [cast(Frame, frame) for stream in made.gateway._streams for frame in stream.waiting]
