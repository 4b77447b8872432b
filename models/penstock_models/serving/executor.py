"""The executor of a process that serves while it loads.

Versions that are loaded before anything is served run on the threads of this process. Later ones, those that are to be
isolated, and every rebuild, are loaded in processes of their own: a load beside runs disturbs them, in a thread of this
process by its hold on the interpreter, in a process of low priority hardly at all. Each version is supervised over its list
of devices, wherever it runs.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from penstock_models.devices.builds import Builds, Progress
from penstock_models.devices.cache import ModelCache
from penstock_models.devices.supervised import Limits, SupervisedHost
from penstock_models.devices.supervision import Supervision
from penstock_models.errors import UsageError
from penstock_models.executor import ThreadExecutor
from penstock_models.gaps import Gaps
from penstock_models.hosts import Host
from penstock_models.isolation.process_host import ProcessHost
from penstock_models.isolation.thread_host import ThreadHost
from penstock_models.items import Item, Outcome, ServableInfo

Isolation = Literal["none", "process"]

IN_THREADS = frozenset(("cpu", "xnnpack"))
"""Devices whose libraries are trusted with this process; an accelerator's driver may take it along."""

BUILDS = frozenset(("tensorrt",))
"""Devices where opening a session builds an engine for minutes."""

LOAD_S = 120.0
BUILD_S = 3600.0
LIMITS = Limits(open_s=LOAD_S, build_s=BUILD_S, probe_s=15.0)

LEAK = 2.0
BASE_BYTES = 256 * 1024**2
"""A process may take its base and so many times what its version was measured to take, then it leaks. Where an engine is
built nothing was measured."""


class VersionOptions(msgspec.Struct, frozen=True):
    """How versions of a model are run; `isolation` None means: in a process where an accelerator is among the devices."""

    devices: tuple[str, ...] = ()
    isolation: Isolation | None = None
    cache_bytes: int = 0

    @property
    def isolated(self) -> bool:
        if self.isolation is None:
            return not IN_THREADS.issuperset(self.devices)
        return self.isolation == "process"

    @property
    def trial_devices(self) -> tuple[str, ...]:
        """Where a version is tried before it is loaded: not where that would build its engine, within a trial's limits."""
        quick = tuple(device for device in self.devices if device not in BUILDS)
        return quick if quick or not self.devices else ("cpu",)


class Load(msgspec.Struct, frozen=True):
    """A version to load: a bundle with a known digest. `peak_bytes` is what it was measured to take, 0 where it was not."""

    name: str
    path: Path
    digest: str
    options: VersionOptions = VersionOptions()
    peak_bytes: int = 0


class ServingExecutor:
    """An `Executor`. Used from one event loop.

    While it is not `serving`, loads happen in this process; the owner sets it before the first request comes. `fault` raises
    what the owner must not survive: nobody looks after a version any more. In its `gaps` runs what may wait for its batches.
    """

    def __init__(
        self,
        threads: int,
        *,
        max_pixels: int,
        model_cache: Path,
        on_change: Callable[[ServableInfo, bool], None] = lambda info, available: None,
    ) -> None:
        """Start the threads.

        Args:
            threads: batches at a time, of each version and of all.
            model_cache: folder where accelerators keep what they made of a model. On the CPU finding it costs about what
                it saves.
            on_change: hears of a version that runs elsewhere now, or nowhere for a while.
        """
        self.serving = False
        self.fault: Future[None] = asyncio.get_running_loop().create_future()
        self._threads = ThreadExecutor(threads, max_pixels=max_pixels)
        self.gaps = Gaps(threads)
        self._max_pixels = max_pixels
        self._model_cache = model_cache
        self._on_change = on_change
        self._hosts: dict[str, SupervisedHost] = {}
        self._builds: dict[str, Builds] = {}

    @property
    def degraded(self) -> tuple[str, ...]:
        """Why versions do not run as wished, a line each."""
        lines = [host.degraded for host in self._hosts.values() if host.degraded]
        return (*lines, *self._threads.degraded)

    async def load(self, wanted: Load) -> ServableInfo:
        """Load a version on the best device that takes it; it serves from then on. A cancelled load leaves nothing.

        Raises:
            BundleError, PlacementError, HostError: with a reason that names the file and what to do.
            UsageError: it is loaded already.
        """
        name, digest = wanted.name, wanted.digest
        if digest in self._builds:
            raise UsageError(f"{name}: {digest[:19]}… is loaded already")
        supervision = Supervision(wanted.options.devices, seed=digest, slow=BUILDS)
        builds = Builds(name, supervision, ModelCache(self._model_cache), partial(self._open, wanted))
        self._builds[digest] = builds
        try:
            host = await SupervisedHost.open(
                name, supervision, builds.open, on_change=partial(self._changed, digest), limits=LIMITS
            )
        except BaseException:
            del self._builds[digest]
            raise
        self._hosts[digest] = host
        host.lost.add_done_callback(self._unsupervised)
        return host.info

    def run(self, digest: str, items: Sequence[Item], timeout_s: float) -> Future[list[Outcome]]:
        """As `Executor.run`.

        Raises:
            UsageError: nothing of that digest is loaded.
        """
        host = self._hosts.get(digest)
        if host is None:
            raise UsageError(f"no version {digest} is loaded; load its bundle first")
        run = host.run(items, timeout_s)
        self.gaps.begin()
        run.add_done_callback(self._ran)
        return run

    async def probe(self, digest: str) -> bool:
        host = self._hosts.get(digest)
        return host is not None and await host.probe()

    async def unload(self, digest: str) -> None:
        """Let the runs of a version end within a bound, then free it. Of a version that is not loaded: nothing."""
        host = self._hosts.pop(digest, None)
        if host is not None:
            del self._builds[digest]
            await host.close()

    def resident_bytes(self, digest: str) -> int:
        """What a version takes now, measured."""
        host = self._hosts.get(digest)
        return host.resident_bytes if host is not None else 0

    def builds(self, digest: str) -> list[Progress]:
        """The engines of a version that are built for minutes, and how far they are; also while it is being loaded."""
        builds = self._builds.get(digest)
        return builds.progress() if builds is not None else []

    async def close(self) -> None:
        """Let running batches end within a bound, then free everything."""
        await asyncio.gather(*(self.unload(digest) for digest in [*self._hosts]))
        await self._threads.close()

    async def _open(self, wanted: Load, device: str) -> Host:
        # The threads hold a version once: another host beside the one that serves has a process.
        if not (self.serving or wanted.options.isolated or wanted.digest in self._hosts):
            return await ThreadHost.open(
                self._threads,
                str(wanted.path),
                (device,),
                expected_digest=wanted.digest,
                cache_bytes=wanted.options.cache_bytes,
            )
        measured = wanted.peak_bytes if device not in BUILDS else 0
        return await ProcessHost.open(
            str(wanted.path),
            (device,),
            threads=self._threads.threads,
            max_pixels=self._max_pixels,
            load_timeout_s=BUILD_S if device in BUILDS else LOAD_S,
            expected_digest=wanted.digest,
            cache_bytes=wanted.options.cache_bytes,
            model_cache=str(self._model_cache) if device not in IN_THREADS else "",
            limit_bytes=BASE_BYTES + int(LEAK * measured) if measured else 0,
            gaps=self.gaps,
        )

    def _ran(self, _: Future[list[Outcome]]) -> None:
        self.gaps.end()

    def _unsupervised(self, lost: Future[str]) -> None:
        if not lost.cancelled() and not self.fault.done():
            self.fault.set_exception(RuntimeError(lost.result()))

    def _changed(self, digest: str) -> None:
        host = self._hosts.get(digest)
        if host is not None:
            self._on_change(host.info, host.available)
