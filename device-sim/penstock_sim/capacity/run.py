"""A capacity search: probes, the proof by holding, and what the limit was.

Owns the order of things and the site, which all levels share.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.capacity import limit
from penstock_sim.capacity.limit import Limit
from penstock_sim.capacity.probe import Probed, Wanted, at_level, probe
from penstock_sim.capacity.search import Hold, Search, Step
from penstock_sim.capacity.steady import unsteady
from penstock_sim.run.limits import allow_connections
from penstock_sim.run.local import LocalSite, local_site
from penstock_sim.run.records import Machine
from penstock_sim.run.run import View
from penstock_sim.run.sampling import machine
from penstock_sim.scenario import Loaded

V = 1


class SearchView(View, Protocol):
    """Where a search shows its steps, beside what each run shows."""

    def trying(self, devices: int, seconds: float, holding: bool) -> None: ...

    def step(self, step: Step) -> None: ...


class Plan(msgspec.Struct, frozen=True):
    """Levels are probed for `probe_s`, from `first` devices up to `most`; what is found is held for `dwell_s`."""

    first: int = 1
    most: int = 1000
    probe_s: float = 5.0
    dwell_s: float = 60.0


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """`devices` is the largest number that was held, 0 where none was; `limit` what stood in the way of more.

    `stopped`: somebody ended the search before it was done; `steps` are those that were.
    """

    v: int = V
    route: str
    deadline_ms: int
    missed: float
    devices: int
    frames_per_s: float
    dwell_s: float
    held: Step | None
    limit: Limit
    steps: tuple[Step, ...]
    machine: Machine
    stopped: bool = False


class CapacityRun:
    def __init__(self, loaded: Loaded, wanted: Wanted, plan: Plan, folder: Path, view: SearchView) -> None:
        self._loaded, self._wanted, self._plan = loaded, wanted, plan
        self._folder, self._view = folder, view
        self._steps: list[Step] = []
        self._limit = Limit("none", f"no limit up to {plan.most} devices")

    async def go(self) -> Capacity:
        """Search and hold.

        Raises:
            UsageError: the scenario has no such devices, or cannot be run here, or the folder is there already.
            PenstockError: something did not start or died, or the books differ.
        """
        highest = at_level(self._loaded, self._wanted, self._plan.most, 1.0).devices
        allow_connections(highest)
        try:
            self._folder.mkdir(parents=True)
        except OSError as error:
            raise UsageError(
                f"expected to write the search's results to {self._folder}: {error.strerror}"
            ) from None
        try:
            async with self._site(highest) as site:
                found = await self._search(site)
                held = await self._hold(site, found) if found else None
        finally:
            with contextlib.suppress(OSError):  # there are results in it
                self._folder.rmdir()
        return self._capacity(held)

    def stopped(self) -> Capacity:
        """What was found until the search was cancelled."""
        return msgspec.structs.replace(self._capacity(None), stopped=True)

    @asynccontextmanager
    async def _site(self, streams: int) -> AsyncIterator[LocalSite | None]:
        target = self._loaded.scenario.target
        if target.url:
            yield None
            return
        self._view.stage("starting a broker and a gateway")
        config = self._loaded.folder / target.gateway if target.gateway else None
        async with local_site(self._folder / "site", config, streams) as site:
            yield site

    async def _search(self, site: LocalSite | None) -> int:
        search = Search(self._plan.first, self._plan.most)
        while (level := search.level) is not None:
            probed = await self._probe(site, level, self._plan.probe_s, holding=False)
            search.tell(not probed.why)
        return search.passed

    async def _hold(self, site: LocalSite | None, found: int) -> Step | None:
        hold = Hold(found)
        while (level := hold.level) is not None:
            probed = await self._probe(site, level, self._plan.dwell_s, holding=True)
            hold.tell(not probed.why)
        return self._steps[-1] if hold.held else None

    async def _probe(self, site: LocalSite | None, devices: int, seconds: float, holding: bool) -> Probed:
        self._view.trying(devices, seconds, holding)
        folder = self._folder / f"{len(self._steps):03d}-{'hold' if holding else 'probe'}-{devices}"
        probed = await probe(self._loaded, self._wanted, devices, seconds, folder, site, self._view)
        if holding and not probed.why:
            moved = unsteady(probed.rows, self._wanted.route)
            probed = msgspec.structs.replace(probed, why="; ".join(moved))
        if probed.why:
            self._limit = limit.first(probed.rows, probed.summary.on_time)
        step = Step(devices, seconds, not probed.why, probed.why, probed.figures)
        self._steps.append(step)
        self._view.step(step)
        return probed

    def _capacity(self, held: Step | None) -> Capacity:
        wanted = self._wanted
        mix = next(mix for mix in self._loaded.scenario.device if mix.name == wanted.route)
        devices = held.devices if held is not None else 0
        return Capacity(
            route=wanted.route,
            deadline_ms=wanted.deadline_ms,
            missed=wanted.missed,
            devices=devices,
            frames_per_s=devices * sum(stream.rate_hz for stream in mix.stream),
            dwell_s=self._plan.dwell_s,
            held=held,
            limit=self._limit,
            steps=tuple(self._steps),
            machine=machine(),
        )


def save(capacity: Capacity, folder: Path) -> Path:
    """Write it as JSON into the search's folder.

    Raises:
        PenstockError: the disk is full, or the like.
    """
    file = folder / "capacity.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)  # a search that was stopped at once left none
        file.write_bytes(msgspec.json.format(msgspec.json.encode(capacity)))
    except OSError as error:
        raise PenstockError(f"expected to write {file}: {error.strerror}") from None
    return file
