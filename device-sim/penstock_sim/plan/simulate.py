"""Plays a scenario's frames through a plan: edge boxes, the cloud tier behind them, and the ways between. Seeded.

Every frame gets exactly one fate, as at a gateway. Nothing is random but what batches take, drawn from their measured
distribution.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from penstock_models.errors import UsageError
from penstock_models.scheduling.request import Flow
from penstock_models.scheduling.scheduler import Fate
from penstock_sim.plan.away import Away
from penstock_sim.plan.host import BURST, Frame, Host, Lane
from penstock_sim.plan.kernel import Kernel
from penstock_sim.plan.overflow import Budget, Where, to_cloud
from penstock_sim.plan.profile import Profile
from penstock_sim.plan.slots import Delays
from penstock_sim.plan.work import Sending, Work

ANSWERED: Fate = ("answered", "")


class Plan(msgspec.Struct, frozen=True):
    """What is decided: for each route its model and place, requests in a batch at most (0: as the gateway forms them), edge
    boxes that share the devices, machines of the cloud tier."""

    models: tuple[str, ...]
    where: tuple[Where, ...]
    batch: int = 0
    edge: int = 1
    cloud: int = 0

    @property
    def uses_cloud(self) -> bool:
        return any(where != "edge" for where in self.where)


class Mix:
    """What became of the frames of a mix: latencies (s, from the intended sending) of its answers, fates, and how many
    of the answers were late or came from the cloud."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.fates: Counter[Fate] = Counter()
        self.sent = self.late = self.offloaded = 0


class Tier(msgspec.Struct, frozen=True):
    """How busy a tier was, as shares of the simulated time: `slots` of its inference threads, `loop` of the busiest event
    loop, `journal` of the busiest journal, `link` of the way to it."""

    slots: float
    loop: float
    journal: float
    link: float


class Outcome(msgspec.Struct, frozen=True):
    """`seconds` is how long the load lasted, `ended_s` when the last frame had its fate."""

    mixes: Mapping[str, Mix]
    tiers: Mapping[str, Tier]
    seconds: float
    ended_s: float


def simulate(
    work: Work,
    plan: Plan,
    edge: Profile,
    cloud: Profile | None = None,
    seed: int = 0,
    budget: Budget | None = None,
) -> Outcome:
    """Play it through.

    Raises:
        UsageError: the plan wants a model that a profile lacks, or a cloud tier without a profile.
    """
    if plan.uses_cloud and (cloud is None or plan.cloud < 1):
        raise UsageError(
            "expected a profile of the cloud tier and a machine in it where a route is offloaded"
        )
    with Kernel() as kernel:
        site = _Site(kernel, work, plan, edge, cloud if plan.uses_cloud else None, seed, budget or Budget())
        try:
            return site.play()
        finally:
            site.close()


class _Site:
    """The servers of a plan."""

    def __init__(
        self,
        kernel: Kernel,
        work: Work,
        plan: Plan,
        edge: Profile,
        cloud: Profile | None,
        seed: int,
        budget: Budget,
    ) -> None:
        self._kernel, self._work, self._plan, self._budget = kernel, work, plan, budget
        self._settled, self._ended_s = 0, 0.0
        self._mixes = {sending.mix: Mix() for sending in work.streams}
        self._routes = [
            msgspec.structs.replace(route, model=model)
            for route, model in zip(work.routes, plan.models, strict=True)
        ]
        local = [r.model for r, where in zip(self._routes, plan.where, strict=True) if where != "cloud"]
        facts = edge.facts
        self._before_s = facts.before_ms / 1e3
        self._after = Delays(facts.after_ms, facts.after_p99_ms, f"{seed} way")
        seeds = itertools.count(seed * 1_000_003)
        make = partial(Host, kernel, most=plan.batch)
        slots = work.threads or edge.slots
        away = self._send_away if cloud is not None else None
        self._edge = [
            make(edge, _once(local), slots, told=self._told, seed=next(seeds), away=away)
            for _ in range(plan.edge)
        ]
        self._cloud: list[Host] = []
        if cloud is not None:
            remote = [r.model for r, where in zip(self._routes, plan.where) if where != "edge"]
            self._cloud = [
                make(cloud, _once(remote), cloud.slots, told=self._answer, seed=next(seeds))
                for _ in range(plan.cloud)
            ]
            self._away = Away(cloud, self._routes)
        lanes = [[Lane(route) for route in self._routes] for _ in self._edge]
        self._ways = [
            _Way(self._edge[box], lanes[box][sending.route], Flow(str(n), lanes[box][sending.route]), sending)
            for n, sending in enumerate(work.streams)
            for box in (sending.device % plan.edge,)
        ]

    def play(self) -> Outcome:
        """Take the frames as they come, and everything that follows in between, until each has its fate."""
        kernel, ways = self._kernel, self._ways
        times, owners = (self._work.times + self._before_s).tolist(), self._work.owners.tolist()
        count, place, burst = len(times), 0, 0
        while self._settled < count:
            if place == count or kernel.next_at() < times[place]:
                kernel.step()
                continue
            way = ways[owners[place]]
            host = way.host
            kernel.turn(host.process, times[place])
            self._mixes[way.sending.mix].sent += 1
            host.take(Frame(way.flow, way.lane, way.sending, times[place] - self._before_s))
            place += 1
            burst += 1
            last = place == count or times[place] > host.process.now or burst == BURST
            if last or ways[owners[place]].host is not host:
                host.kick()
                burst = 0
        return self._outcome()

    def close(self) -> None:
        for host in (*self._edge, *self._cloud):
            host.close()

    def _send_away(self, host: Host, frame: Frame) -> bool:
        """Send a frame to the cloud tier, where the plan and the budget say so."""
        where = self._plan.where[frame.sending.route]
        if where == "edge" or not self._goes(host, frame, where):
            return False
        self._away.send(self._kernel, host.process.now, frame, self._cloud)
        return True

    def _goes(self, host: Host, frame: Frame, where: Where) -> bool:
        now = host.process.now
        edge_s = cloud_s = 0.0
        if where == "overflow":
            model = frame.lane.route.model
            edge_s = host.finish_at(model)
            server = self._cloud[self._away.next]
            waits = max(0.0, server.finish_at(model) - server.process.now)
            cloud_s = self._away.there(now, frame.sending.nbytes) + waits + self._away.back_s
        return to_cloud(where, edge_s, cloud_s, frame.deadline) and self._budget.take(now)

    def _answer(self, frame: Frame, fate: Fate, at: float) -> None:
        """A machine of the cloud tier is done with a frame: its gateway hears of it."""
        host = self._edge[frame.sending.device % self._plan.edge]
        self._kernel.at(at + self._away.back_s, host.process, self._relay, host, frame.origin, fate)

    def _relay(self, host: Host, frame: Frame, fate: Fate) -> None:
        host.relay(frame)
        if fate == ANSWERED:
            self._mixes[frame.sending.mix].offloaded += 1
        self._told(frame, fate, host.process.now)

    def _told(self, frame: Frame, fate: Fate, at: float) -> None:
        self._settled += 1
        self._ended_s = max(self._ended_s, at)
        mix = self._mixes[frame.sending.mix]
        mix.fates[fate] += 1
        if fate == ANSWERED:
            latency = at + self._after.take() - frame.sent
            mix.latencies.append(latency)
            mix.late += latency > frame.sending.late_s

    def _outcome(self) -> Outcome:
        span = max(self._work.seconds, self._ended_s)
        tiers = {"edge": _tier(self._edge, span, 0.0)}
        if self._cloud:
            tiers["cloud"] = _tier(self._cloud, span, self._away.busy_s)
        return Outcome(self._mixes, tiers, self._work.seconds, self._ended_s)


class _Way(NamedTuple):
    """Where the frames of one stream go in."""

    host: Host
    lane: Lane
    flow: Flow
    sending: Sending


def _tier(hosts: Sequence[Host], span: float, link_s: float) -> Tier:
    slots = sum(host.slots.busy_s / host.slots.slots for host in hosts) / len(hosts)
    return Tier(
        slots / span,
        max(host.process.spent for host in hosts) / span,
        max(host.committing_s for host in hosts) / span,
        link_s / span,
    )


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))
