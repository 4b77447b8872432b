"""The serving core: versions of models that come and go, and requests that are answered by them in time.

One object for whoever serves: a gateway, an inference server. It owns the wiring and the start; the owner of the requests
says what becomes of an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock_models.devices.builds import Progress
from penstock_models.errors import BundleError, UsageError
from penstock_models.items import ServableInfo
from penstock_models.scheduling.runs import VersionRun
from penstock_models.serving.executor import BUILD_S, LOAD_S, ServingExecutor, VersionOptions
from penstock_models.serving.front import Front, Owner
from penstock_models.serving.loader import Loader
from penstock_models.serving.targets import ModelTarget, Targets
from penstock_models.store import Reference, resolve
from penstock_models.versions.box import SystemBox
from penstock_models.versions.config import ModelConfig
from penstock_models.versions.manager import VersionManager
from penstock_models.versions.memory import Returned
from penstock_models.versions.record import RecordFile
from penstock_models.versions.source import StoreSource
from penstock_models.versions.split import choose
from penstock_models.versions.staging import Staging
from penstock_models.versions.status import ModelStatus
from penstock_models.versions.steps import Steps
from penstock_models.vetting.cache import Verdicts

LONGEST_LOAD_S = BUILD_S + LOAD_S
"""The executor and the vetting child keep limits of their own; this one is for what hangs between them."""


class Settings(msgspec.Struct, frozen=True):
    """`store` is a model store; `state` the folder for copies, verdicts, engines and the record; `threads` batches at a time;
    `budget_bytes` what versions may take of the box's memory, None for what it has."""

    store: Path
    state: Path
    threads: int
    max_pixels: int
    budget_bytes: int | None = None


class ServingCore:
    """Made once, in the event loop that uses it. `on_news` is called when versions came, went, failed, or run elsewhere."""

    def __init__(self, settings: Settings) -> None:
        self.on_news: Callable[[], None] = lambda: None
        self._settings = settings
        self._options: dict[str, VersionOptions] = {}
        self._news = asyncio.Event()
        state = settings.state
        self.executor = ServingExecutor(
            settings.threads,
            max_pixels=settings.max_pixels,
            model_cache=state / "engines",
            on_change=self._changed,
        )
        self.front = Front(self.executor, settings.threads, self._shadow)
        self.scheduler = self.front.scheduler
        self.targets = Targets(self.scheduler, lambda: self.manager, self._heard)
        loader = Loader(
            self.executor,
            Verdicts(state / "verdicts", gaps=self.executor.gaps),
            lambda name: self._options.get(name, VersionOptions()),
        )
        box = SystemBox(settings.budget_bytes)
        staging = Staging(state / "staging", gaps=self.executor.gaps)
        steps = Steps(staging, loader, self.targets, box, load_s=LONGEST_LOAD_S)
        self.manager = VersionManager(StoreSource(settings.store), RecordFile(state / "versions.json"), steps)

    @property
    def runs(self) -> list[VersionRun]:
        """The versions that serve."""
        return self.targets.runs

    def own(self, owner: Owner) -> None:
        """From now on requests are this owner's."""
        self.front.own(owner)

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Every version of every model, as it is."""
        return self.manager.snapshot()

    def builds(self, digest: str) -> Sequence[Progress]:
        """The engines of a version that are built for minutes, and how far they are."""
        return self.executor.builds(digest)

    def unready(self) -> list[str]:
        """Models of which nothing serves, a line each with the reason."""
        return self.manager.unready()

    def problems(self) -> list[str]:
        """What is wrong with the store, the record and the memory, a line each."""
        return self.manager.problems()

    def shadow_counts(self) -> Mapping[tuple[str, int, int], Mapping[str, int]]:
        """How shadows compared, by (model, version, shadow's version)."""
        return self.front.shadows.counts

    def memory_returned(self) -> list[Returned]:
        """How much memory came back at the last unloads, the newest last."""
        return self.manager.memory_returned()

    def configure(self, models: Iterable[tuple[ModelConfig, VersionOptions]]) -> None:
        """State anew, and in full, which models are wanted and how they are run.

        Options are those of versions that are loaded from now on.
        """
        wanted = list(models)
        self._options = {config.name: options for config, options in wanted}
        self.front.shadows.active = any(config.shadow for config, _ in wanted)
        self.manager.set_config([config for config, _ in wanted])
        for config, _ in wanted:
            self.targets.changed(config.name)

    async def set_label(self, name: str, label: str, version: int) -> None:
        """Set or move a label; it survives a restart once this returns.

        Raises:
            UsageError: no such model or label name, or the version is not available; the label stays.
            TemporaryError: it could not be recorded; the label stays.
        """
        await self.manager.set_label(name, label, version)
        self.targets.changed(name)

    def target(self, reference: Reference) -> ModelTarget:
        """What requests for a reference are submitted to."""
        return self.targets.target(reference)

    async def run(self) -> None:
        """Keep what is loaded what is wanted, until cancelled. The scheduler is run by the owner."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.manager.run(), name="manager")
            await self.executor.fault

    async def started(self, references: Iterable[Reference]) -> None:
        """Wait until something answers each of these, or waits for its first request; then loads disturb nobody.

        Raises:
            UsageError: there is no such model or version.
            BundleError: none of its versions could be loaded; the reason is named.
        """
        await self.manager.scanned.wait()
        for reference in references:
            while not self._answers(reference):
                self._news.clear()
                await self._raise_if_hopeless(reference)
                await self._news.wait()
        self.executor.serving = True

    async def close(self) -> None:
        """Free every version. `run` is cancelled before."""
        await self.executor.close()

    def _answers(self, reference: Reference) -> bool:
        name = reference.name
        available = choose(self.manager.routing(name), reference, "") is not None
        return available or self.manager.parked(name)

    async def _raise_if_hopeless(self, reference: Reference) -> None:
        if failures := self.targets.failures_of(reference.name, reference.version):
            raise BundleError("; ".join(failures))
        if not self.manager.known(reference.name, reference.version):
            named = Reference(reference.name, reference.version)  # a folder knows no labels
            await asyncio.to_thread(resolve, self._settings.store, str(named))
        elif reference.label and not self.manager.coming(reference.name):
            raise UsageError(f"model {reference}: no version that serves bears the label {reference.label!r}")

    def _shadow(self, run: VersionRun, flow: Any) -> VersionRun | None:
        return self.targets.shadow_for(run, flow)

    def _changed(self, info: ServableInfo, available: bool) -> None:
        self.targets.rebuilt(info, available)
        self._heard()

    def _heard(self) -> None:
        self._news.set()
        self.on_news()
