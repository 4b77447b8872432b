"""Does the faults of link and processes at their times; those of devices are done by the workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from penstock_models.errors import PenstockError, UsageError
from penstock_sim.faults.proxy import LinkProxy
from penstock_sim.run.accelerator import lose
from penstock_sim.run.local import LocalSite
from penstock_sim.scenario import faults as f

LINK, PROCESS = f.LINK, f.PROCESS

OnFault = Callable[[f.AnyFault, bool], None]
"""A fault that begins (True) or ends."""


def check(faults: Sequence[f.AnyFault], local: bool) -> None:
    """Whether they can be done.

    Raises:
        UsageError: a fault of a process that is not ours.
    """
    for fault in faults:
        if isinstance(fault, PROCESS) and not local:
            raise UsageError(
                f"the fault {f.kind(fault)} needs a gateway that the run starts itself: leave [target] url out"
            )


async def act(
    faults: Sequence[f.AnyFault],
    begin_s: float,
    link: LinkProxy | None,
    site: LocalSite | None,
    told: OnFault,
    over: asyncio.Event | None = None,
    folder: Path = Path(),
) -> None:
    """Do all of them, from the loop's time `begin_s`; returns when the last is over and everything is there again.

    Args:
        folder: where the paths of faults start.
        over: set when the run ends early: what is broken is mended at once, and nothing else is broken.
    """
    ends = over or asyncio.Event()
    turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    async with asyncio.TaskGroup() as group:
        for number, fault in enumerate(faults):
            turn = turns[_process(fault) or str(number)]
            doing = _Doing(link, site, told, ends, folder)
            group.create_task(doing.one(fault, begin_s, turn), name=f.kind(fault))


def within(faults: Sequence[f.AnyFault], end_s: float) -> list[f.AnyFault]:
    """The faults, none of which lasts longer than the load: what comes behind it is the devices' to recover in."""
    return [
        msgspec.structs.replace(fault, for_s=end_s - fault.at_s) if fault.ends_s > end_s else fault
        for fault in faults
    ]


def _process(fault: f.AnyFault) -> str:
    """Which process it is done to: a second fault of one waits until it is up again after the first."""
    if isinstance(fault, f.BrokerRestart):
        return "broker"
    return "gateway" if isinstance(fault, PROCESS) else ""


class _Doing:
    """One fault at its time."""

    def __init__(
        self,
        link: LinkProxy | None,
        site: LocalSite | None,
        told: OnFault,
        over: asyncio.Event,
        folder: Path,
    ) -> None:
        self._link, self._site, self._told, self._over = link, site, told, over
        self._folder = folder

    async def one(self, fault: f.AnyFault, begin_s: float, turn: asyncio.Lock) -> None:
        await self._wait(begin_s + fault.at_s - _now())
        async with turn:
            if self._over.is_set():
                return
            self._told(fault, True)
            if isinstance(fault, LINK):
                assert self._link is not None, "a run with such faults has a link"
                await self._on_link(fault, self._link)
            elif isinstance(fault, PROCESS):
                assert self._site is not None, "checked before the run"
                await self._on_process(fault, self._site)
            else:
                await self._wait(fault.ends_s - fault.at_s)
            self._told(fault, False)

    async def _wait(self, seconds: float) -> None:
        """So long, or until the run is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._over.wait()

    async def _on_link(self, fault: f.AnyFault, link: LinkProxy) -> None:
        match fault:
            case f.LinkCut():
                link.cut(fault.silent)
                await self._wait(fault.for_s)
                link.heal()
            case f.Latency():
                link.delay(fault.delay_ms / 1000, fault.jitter_ms / 1000)
                await self._wait(fault.for_s)
                link.delay(0.0)
            case f.Bandwidth():
                link.narrow(fault.bytes_per_s)
                await self._wait(fault.for_s)
                link.narrow(None)
            case f.Flapping():
                end = _now() + fault.for_s
                while _now() < end and not self._over.is_set():
                    link.cut()
                    await self._wait(min(fault.down_s, end - _now()))
                    link.heal()
                    await self._wait(min(fault.up_s, end - _now()))

    async def _on_process(self, fault: f.AnyFault, site: LocalSite) -> None:
        match fault:
            case f.BrokerRestart():
                await site.broker.child.kill()
                await self._wait(fault.for_s)
                await site.broker.start()
            case f.GatewayKill():
                await site.gateway.child.kill()
                await self._wait(fault.for_s)
                await site.gateway.child.start()
                await site.gateway.ready()
            case f.GatewayPause():
                site.gateway.child.pause()
                try:
                    await self._wait(fault.for_s)
                finally:
                    site.gateway.child.resume()
            case f.AcceleratorLoss():
                pid = site.gateway.child.pid
                if pid is None:
                    raise PenstockError("expected a running gateway to lose its accelerator, it has ended")
                bring_back = await asyncio.to_thread(lose, self._folder / fault.library, pid)
                try:
                    await self._wait(fault.for_s)
                finally:
                    bring_back()


def _now() -> float:
    return asyncio.get_running_loop().time()
