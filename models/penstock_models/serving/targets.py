"""Gives requests to the versions that serve: what a reference such as `person@stable` stands for, for each flow, right now.

A flow sticks to its version while that serves. When versions come, go or change places, what waits moves with its flow; what
runs is finished where it runs. While nothing of a model serves but something of it is on its way, its requests wait in a
lobby, within their deadlines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from penstock_models.items import ServableInfo
from penstock_models.scheduling.request import Flow
from penstock_models.scheduling.runs import VersionRun
from penstock_models.scheduling.scheduler import Scheduler
from penstock_models.store import Reference
from penstock_models.versions.ports import Usage
from penstock_models.versions.split import Choice, Routing, choose

log = logging.getLogger(__name__)

MOST_CHOICES = 10_000
"""Flows of a reference whose version is remembered; one beyond is chosen for anew."""


class Models(Protocol):
    """What is known of the models: the version manager."""

    def routing(self, name: str) -> Routing: ...

    def coming(self, name: str) -> bool:
        """Whether some version of it is being loaded, or would be if somebody asked."""

    def want(self, name: str, version: int | None = None) -> None:
        """Somebody asked in vain."""


class ModelTarget:
    """What a reference stands for."""

    def __init__(
        self, reference: Reference, choose_run: Callable[[Reference, Flow], VersionRun | None]
    ) -> None:
        self.reference = reference
        self._choose = choose_run
        self._choices: dict[str, VersionRun | None] = {}

    def run_for(self, flow: Flow) -> VersionRun | None:
        """The version that runs this flow; None where none does, and none will."""
        if flow.key in self._choices:
            return self._choices[flow.key]
        run = self._choose(self.reference, flow)
        if len(self._choices) >= MOST_CHOICES:
            del self._choices[next(iter(self._choices))]
        if run is not None:  # nobody may have asked for it before
            self._choices[flow.key] = run
        return run

    def forget(self) -> None:
        """Choose anew."""
        self._choices.clear()


class Targets:
    """All references, and the versions behind them. The manager's `Traffic`."""

    def __init__(
        self, scheduler: Scheduler, models: Callable[[], Models], on_news: Callable[[], None]
    ) -> None:
        """
        Args:
            models: the manager, which is made after its traffic.
            on_news: hears that versions came, went or failed.
        """
        self._scheduler = scheduler
        self._models = models
        self._on_news = on_news
        self._runs: dict[tuple[str, int], VersionRun] = {}
        self._lobbies: dict[str, VersionRun] = {}
        self._targets: dict[Reference, ModelTarget] = {}
        self._failures: dict[tuple[str, int], str] = {}

    @property
    def runs(self) -> list[VersionRun]:
        """The versions that serve."""
        return list(self._runs.values())

    def target(self, reference: Reference) -> ModelTarget:
        """What a reference stands for, the same object each time."""
        found = self._targets.get(reference)
        if found is None:
            found = self._targets[reference] = ModelTarget(reference, self._chosen)
        return found

    def failures_of(self, name: str, version: int | None = None) -> list[str]:
        """Why versions of a model could not be loaded at the last try, a line each."""
        return [text for (of, n), text in self._failures.items() if of == name and version in (None, n)]

    def shadow_for(self, run: VersionRun, flow: Flow) -> VersionRun | None:
        """The version that gets a copy of what this one answers a flow."""
        name = run.info.name
        choice = choose(self._models().routing(name), Reference(name, run.info.version), flow.key)
        return self._runs.get((name, choice.shadow)) if choice and choice.shadow else None

    def changed(self, name: str) -> None:
        """Labels, shares or versions of a model are others now: what waits goes where it belongs."""
        self._forget(name)
        lobby = self._lobbies.get(name)
        for run in [*(run for (of, _), run in self._runs.items() if of == name), *([lobby] if lobby else [])]:
            self._rearrange(run)
        self._scheduler.kick()

    def rebuilt(self, info: ServableInfo, serving: bool) -> None:
        """A version runs elsewhere now, or nowhere for a while."""
        run = self._runs.get((info.name, info.version))
        if run is not None:
            run.rebuilt(info, serving)
            self._scheduler.kick()

    # --- the manager's Traffic ---------------------------------------------------------------------------------------

    def available(self, info: ServableInfo) -> None:
        run = VersionRun(info)
        self._runs[info.name, info.version] = run
        self._failures.pop((info.name, info.version), None)
        self._scheduler.runs.append(run)
        self.changed(info.name)
        log.info("%s:%d serves on %s", info.name, info.version, info.placement)
        self._on_news()

    async def retire(self, info: ServableInfo) -> None:
        run = self._runs.pop((info.name, info.version), None)
        if run is None:
            return
        self._forget(info.name)
        self._rearrange(run)
        log.info("%s:%d serves no more", info.name, info.version)
        await self._scheduler.retire(run)
        self._on_news()

    def failed(self, name: str, version: int, reason: str, text: str, attempts: int) -> None:
        self._failures[name, version] = text
        log.warning("%s:%d is not loaded (try %d): %s", name, version, attempts, text)
        lobby = self._lobbies.get(name)
        if lobby is not None and not self._models().coming(name):
            self._scheduler.give_up(lobby)
        self._on_news()

    def usage(self, info: ServableInfo) -> Usage:
        run = self._runs.get((info.name, info.version))
        if run is None:
            return Usage(float("-inf"), False)
        return Usage(run.used, bool(run.running or run.queue.waiting))

    # --- choosing ----------------------------------------------------------------------------------------------------

    def _chosen(self, reference: Reference, flow: Flow) -> VersionRun | None:
        models, name = self._models(), reference.name
        choice: Choice | None = choose(models.routing(name), reference, flow.key)
        run = self._runs.get((name, choice.version)) if choice is not None else None
        if run is not None:
            return run
        models.want(name, reference.version)
        return self._lobby(name) if models.coming(name) else None

    def _lobby(self, name: str) -> VersionRun:
        """Where requests wait for a model of which nothing serves yet."""
        lobby = self._lobbies.get(name)
        if lobby is None:
            nothing = ServableInfo(name, 0, "", "", "", 1, False, 0.0, 0)
            lobby = self._lobbies[name] = VersionRun(nothing)
            lobby.serving = False
            self._scheduler.runs.append(lobby)
        return lobby

    def _rearrange(self, run: VersionRun) -> None:
        """Move flows whose version is another one now."""
        for flow in run.queue.flows():
            to = flow.chosen()
            if to is not None and to is not run:
                to.queue.adopt(flow)

    def _forget(self, name: str) -> None:
        for target in self._targets.values():
            if target.reference.name == name:
                target.forget()
