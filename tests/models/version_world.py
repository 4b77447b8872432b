"""A small world for the version manager: a clock with hands to turn, a store, a disk, a loader and a box with verbs."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from penstock_models.errors import BundleError, ModelRefused
from penstock_models.items import ServableInfo
from penstock_models.manifest import Manifest, Task, TensorSpec, Variant
from penstock_models.versions import keeper as keeper_module
from penstock_models.versions import manager as manager_module
from penstock_models.versions import steps as steps_module
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.manager import VersionManager
from penstock_models.versions.memory import RESERVE_BYTES, Need, Room
from penstock_models.versions.offers import Offer, Offers, Problem
from penstock_models.versions.ports import Usage
from penstock_models.versions.record import Record, RecordFile
from penstock_models.versions.staging import Staged, Staging
from penstock_models.versions.status import VersionStatus
from penstock_models.versions.steps import Steps

T = TypeVar("T")
MB = 10**6
SIZE = 10 * MB  # of every version


class FakeClock:
    """Time stands still until it is turned on."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []
        self._limits: list[tuple[float, asyncio.Timeout]] = []

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time + 1e9

    async def wait(self, event: asyncio.Event, until: float) -> None:
        if event.is_set() or until <= self.time:
            await asyncio.sleep(0)
            return
        due = asyncio.get_running_loop().create_future()
        entry = (until, due)
        self._waiting.append(entry)
        happened = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({happened, due}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.remove(entry)
            happened.cancel()

    def limit(self, seconds: float) -> AbstractAsyncContextManager[object]:
        return self._limit(self.time + seconds)

    @asynccontextmanager
    async def _limit(self, until: float) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as limit:
            entry = (until, limit)
            self._limits.append(entry)
            try:
                yield
            finally:
                self._limits.remove(entry)

    def turn(self, seconds: float) -> None:
        self.time += seconds
        for until, due in self._waiting:
            if until <= self.time and not due.done():
                due.set_result(None)
        for until, limit in self._limits:
            if until <= self.time:
                limit.reschedule(0.0)


class FakeStore:
    """What lies in the store, as (name, version): contents. Contents are a word that says what is wrong with them:

    `good…`, `corrupt…` (wrong digest), `golden…` (a wrong answer), `flaky…` (fails until healed), `hang…` (never loads),
    `cancels…` (a load that is cancelled by something else), `drift…` (another task).
    """

    def __init__(self) -> None:
        self.contents: dict[tuple[str, int], str] = {}
        self.troubled: set[tuple[str, int]] = set()
        self.gone = False
        self._last: tuple[Offer, ...] = ()

    def scan(self, now: float, wall: float) -> Offers:
        if self.gone:
            return Offers(self._last, (Problem("", 0, "no model store"),))
        self._last = tuple(
            offer(name, version, word)
            for (name, version), word in sorted(self.contents.items())
            if (name, version) not in self.troubled
        )
        problems = tuple(Problem(n, v, f"{n}:{v} is half copied") for n, v in sorted(self.troubled))
        return Offers(self._last, problems)


def offer(name: str, version: int, word: str) -> Offer:
    return Offer(name, version, Path(name), f"stamp of {word}", digest(name, version, word))


def digest(name: str, version: int, word: str) -> str:
    return f"sha256:{word}:{name}:{version}:" + hashlib.sha256(word.encode()).hexdigest()[:8]


class FakeStaging(Staging):
    """Copies in memory; they outlive a killed process."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.copies: dict[str, Staged] = {}

    def start(self) -> None:
        pass

    async def stage(self, offer: Offer) -> Staged:
        await asyncio.sleep(0)
        word = offer.digest.split(":")[1]
        if word.startswith("corrupt"):
            raise BundleError(f"{offer.path}: model.onnx has sha256 a, manifest.json says b")
        task: Task = "anomaly" if word.startswith("drift") else "raw"
        ends = (TensorSpec("x", "float32", (1,)),)
        manifest = Manifest(
            offer.name,
            offer.version,
            task,
            (Variant("model.onnx", "onnx", ends, ends),),
            (),
        )
        path = Path(offer.digest)
        self.copies[offer.digest] = Staged(
            offer.name, offer.version, offer.digest, path, offer.stamp, manifest
        )
        return self.copies[offer.digest]

    def find(self, digest: str, stamp: str) -> Staged | None:
        copy = self.copies.get(digest)
        return msgspec.structs.replace(copy, stamp=stamp) if copy else None

    def clean(self, used: object) -> None:
        assert isinstance(used, frozenset)
        self.copies = {digest: copy for digest, copy in self.copies.items() if digest in used}


class FakeFile(RecordFile):
    """A record that outlives a killed process; `full` makes the disk say no."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.record = Record()
        self.full = False

    def load(self) -> tuple[Record, str]:
        return self.record, ""

    def save(self, record: Record) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.record = msgspec.json.decode(msgspec.json.encode(record), type=Record)


class FakeBox:
    """A box with so much memory; what is loaded takes of it."""

    def __init__(self, loader: "FakeLoader") -> None:
        self.total = 100 * SIZE
        self.leaks = False
        self._loader = loader

    def room(self) -> Room:
        free = self.total - len(self._loader.loaded) * SIZE
        return Room(self.total + RESERVE_BYTES, max(0, free) + RESERVE_BYTES)

    def footprint(self) -> int:
        return 0 if self.leaks else len(self._loader.loaded) * SIZE


class FakeLoader:
    """Loads by the contents' word. `broken` names the promises that were not kept: what it raises would only be retried."""

    def __init__(self) -> None:
        self.loaded: dict[str, ServableInfo] = {}
        self.healed = False
        self.at_once = asyncio.Event()  # cleared: loads of `good` wait at the door
        self.at_once.set()
        self.log: list[str] = []
        self.broken: list[str] = []
        self._loading = 0

    async def measure(self, staged: Staged) -> Need:
        await asyncio.sleep(0)
        return Need(SIZE, SIZE)

    async def load(self, staged: Staged) -> ServableInfo:
        key = f"{staged.name}:{staged.version}"
        if self._loading:
            self.broken.append("two loads at once")
        if any((i.name, i.version) == (staged.name, staged.version) for i in self.loaded.values()):
            self.broken.append(f"{key} is loaded twice")
        self._loading += 1
        self.log.append(f"load {key}")
        try:
            await asyncio.sleep(0)
            await self._behave(staged.digest.split(":")[1], key)
        finally:
            self._loading -= 1
        info = ServableInfo(staged.name, staged.version, staged.digest, "fake:cpu", "raw", 0, False, 1.0, 1)
        self.loaded[staged.digest] = info
        return info

    async def _behave(self, word: str, key: str) -> None:
        if word.startswith("golden"):
            raise ModelRefused("golden", f"{key}: a golden answer is wrong")
        if word.startswith("cancels"):
            raise asyncio.CancelledError
        if word.startswith("flaky") and not self.healed:
            raise OSError(5, f"{key}: input/output error")
        if word.startswith("hang") and not self.healed:
            await asyncio.Event().wait()
        await self.at_once.wait()

    async def unload(self, info: ServableInfo) -> None:
        await asyncio.sleep(0)
        del self.loaded[info.digest]
        self.log.append(f"unload {info.name}:{info.version}")

    def resident_bytes(self, info: ServableInfo) -> int:
        return SIZE


class FakeTraffic:
    """Knows who gets work. `busy` versions have work in flight until they are freed of it."""

    def __init__(self) -> None:
        self.serving: dict[tuple[str, int], ServableInfo] = {}
        self.failures: list[tuple[str, int, str, int]] = []
        self.last_used: dict[tuple[str, int], float] = {}
        self.busy: set[tuple[str, int]] = set()
        self.idle = asyncio.Event()
        self.idle.set()

    def available(self, info: ServableInfo) -> None:
        self.serving[info.name, info.version] = info

    async def retire(self, info: ServableInfo) -> None:
        self.serving.pop((info.name, info.version), None)
        await self.idle.wait()

    def failed(self, name: str, version: int, reason: str, text: str, attempts: int) -> None:
        self.failures.append((name, version, reason, attempts))

    def usage(self, info: ServableInfo) -> Usage:
        key = (info.name, info.version)
        return Usage(self.last_used.get(key, -math.inf), key in self.busy)


class World:
    """The manager and everything around it. `restart` is a kill: only the store, copies and the record stay."""

    def __init__(self, patch: pytest.MonkeyPatch, kind: type[VersionManager] = VersionManager) -> None:
        # Nothing here blocks, and without threads every run of a test is the same.
        for module in (steps_module, manager_module, keeper_module):
            patch.setattr(module, "in_thread", _at_once)
        self._kind = kind
        self.clock = FakeClock()
        self.store = FakeStore()
        self.staging = FakeStaging()
        self.file = FakeFile()
        self.configs: Sequence[ModelConfig] = ()
        self.start()

    def start(self) -> None:
        self.loader = FakeLoader()
        self.traffic = FakeTraffic()
        self.box = FakeBox(self.loader)
        steps = Steps(self.staging, self.loader, self.traffic, self.box, clock=self.clock, load_s=300.0)
        self.manager = self._kind(self.store, self.file, steps)
        self.manager.set_config(self.configs)
        self.task = asyncio.ensure_future(self.manager.run())

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.loader.broken == []
        if not self.task.cancelled() and (error := self.task.exception()) is not None:
            raise error

    async def restart(self) -> None:
        total = self.box.total
        await self.stop()
        self.start()
        self.box.total = total
        await self.settle()

    def configure(self, *configs: ModelConfig) -> None:
        self.configs = configs
        self.manager.set_config(configs)

    async def serve(self, *versions: int, **config: object) -> None:
        """A model `m` with those versions in the store."""
        self.configure(ModelConfig("m", **config))  # type: ignore[arg-type]
        for version in versions:
            self.store.contents["m", version] = "good"
        await self.pass_time(1.1)

    async def put(self, version: int, word: str = "good") -> None:
        """Another version of `m` in the store."""
        self.store.contents["m", version] = word
        await self.pass_time(1.1)

    async def settle(self) -> None:
        """Until nothing moves any more without time."""
        quiet = 0
        before: object = None
        while quiet < 40:
            await asyncio.sleep(0)
            if self.task.done():
                self.task.result()
            now = (len(self.loader.log), len(self.traffic.failures), self.states())
            quiet = quiet + 1 if now == before else 0
            before = now

    async def pass_time(self, seconds: float) -> None:
        """Turn the clock in steps of at most a second's scan, then settle."""
        left = seconds
        while left > 0:
            step = min(left, 1.01 if seconds < 10 else 5.0)
            self.clock.turn(step)
            left -= step
            await self.settle()

    def states(self) -> dict[str, str]:
        """`person:3` to its state."""
        return {
            f"{model.name}:{v.version}": v.state for model in self.manager.snapshot() for v in model.versions
        }

    def version(self, name: str, version: int) -> VersionStatus:
        found = next(model for model in self.manager.snapshot() if model.name == name)
        return next(v for v in found.versions if v.version == version)

    def available(self, name: str) -> set[int]:
        return set(self.manager.routing(name).available)


async def _at_once(call: Callable[..., T], *arguments: object) -> T:
    await asyncio.sleep(0)
    return call(*arguments)
