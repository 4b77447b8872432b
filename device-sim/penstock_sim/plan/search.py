"""Looks for the cheapest plan that meets the objectives. Pure but for what evaluates a plan, which is an argument.

Plans are tried in the order of the least that they can cost (uniform-cost search), those that cost the same in the order of
preference. Of a combination of models, places and batches the fewest boxes and machines come first. Before a third one is
added the most of them are tried: what even they do not meet no number does (more is never worse), and the combination is left out.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Sequence

import msgspec

from penstock_models.errors import UsageError
from penstock_sim.measure.objectives import Objective, Verdict
from penstock_sim.plan.figures import Figures
from penstock_sim.plan.overflow import Where
from penstock_sim.plan.simulate import Plan

MAX_SHAPES = 2000


class Space(msgspec.Struct, frozen=True):
    """What may be chosen, the preferred first: of each route its models; places, batch limits (0: the gateway's own), and up to
    how many boxes and machines of the cloud tier."""

    models: tuple[tuple[str, ...], ...]
    where: tuple[Where, ...] = ("edge",)
    batches: tuple[int, ...] = (0,)
    edge: int = 1
    cloud: int = 0

    def shapes(self) -> list[Plan]:
        """Every combination of models, places and batches on the fewest boxes and machines.

        Raises:
            UsageError: they are too many to try.
        """
        routes = len(self.models)
        chosen = [self._per_model(names) for names in itertools.product(*self.models)]
        models = list(dict.fromkeys(names for names in chosen if names is not None))
        places = list(itertools.product(self.where, repeat=routes))
        places.sort(key=lambda where: sum(map(self.where.index, where)))
        count = len(models) * len(places) * len(self.batches)
        if count > MAX_SHAPES:
            raise UsageError(
                f"expected at most {MAX_SHAPES} combinations of models, places and batches, came {count}:"
                " leave some out with --model, --where and --batch"
            )
        plans = [Plan(names, where, batch) for batch in self.batches for names in models for where in places]
        return [msgspec.structs.replace(plan, cloud=1) if plan.uses_cloud else plan for plan in plans]

    def _per_model(self, names: tuple[str, ...]) -> tuple[str, ...] | None:
        """Routes that run one model go on running one; None where they would not."""
        swapped: dict[str, str] = {}
        for route, name in enumerate(names):
            if swapped.setdefault(self.models[route][0], name) != name:
                return None
        return names

    def larger(self, plan: Plan) -> list[Plan]:
        """The same with one box or machine more."""
        found = []
        if plan.edge < self.edge:
            found.append(msgspec.structs.replace(plan, edge=plan.edge + 1))
        if plan.uses_cloud and plan.cloud < self.cloud:
            found.append(msgspec.structs.replace(plan, cloud=plan.cloud + 1))
        return found

    def largest(self, plan: Plan) -> Plan:
        return msgspec.structs.replace(plan, edge=self.edge, cloud=self.cloud if plan.uses_cloud else 0)


class Candidate(msgspec.Struct, frozen=True):
    """A plan that was simulated: its figures by mix ("" for all), what is held against the objectives, what is busiest."""

    plan: Plan
    figures: dict[str, Figures]
    verdicts: tuple[Verdict, ...]
    busiest: str
    cost: float

    @property
    def meets(self) -> bool:
        return all(verdict.met for verdict in self.verdicts)


class Found(msgspec.Struct, frozen=True):
    """All candidates in the order in which they were tried. `chosen` is None where nothing meets the objectives; `complete` says
    that none was left untried that could have been cheaper."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    complete: bool


def search(
    space: Space,
    evaluate: Callable[[Plan], Candidate],
    least_cost: Callable[[Plan], float],
    most: int,
) -> Found:
    """Look for the cheapest one.

    Args:
        least_cost: what a plan costs at least; what it does cost may depend on how it runs.
        most: plans that are evaluated.

    Raises:
        UsageError: too many combinations.
    """
    looking = _Looking(space, evaluate, least_cost, most)
    while looking.heap:
        cost, rank, plan = heapq.heappop(looking.heap)
        if plan.edge + plan.cloud > 2 and looking.hopeless(plan):
            continue
        candidate = looking.of(plan)
        if candidate is None:
            return looking.found(complete=False)
        if not candidate.meets:
            looking.note(space.larger(plan))
        elif candidate.cost > cost and looking.heap and candidate.cost > looking.heap[0][0]:
            heapq.heappush(looking.heap, (candidate.cost, rank, plan))  # dearer than it had to be
        else:
            return looking.found(complete=True)
    return looking.found(complete=True)


class _Looking:
    """A search under way: what was tried, and what stands in line by (least cost, preference)."""

    def __init__(
        self,
        space: Space,
        evaluate: Callable[[Plan], Candidate],
        least_cost: Callable[[Plan], float],
        most: int,
    ) -> None:
        self.heap: list[tuple[float, int, Plan]] = []
        self._space, self._evaluate, self._least_cost, self._most = space, evaluate, least_cost, most
        self._tried: dict[Plan, Candidate] = {}
        self._noted: set[Plan] = set()
        self.note(space.shapes())

    def note(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            if plan not in self._noted:
                heapq.heappush(self.heap, (self._least_cost(plan), len(self._noted), plan))
                self._noted.add(plan)

    def of(self, plan: Plan) -> Candidate | None:
        """The plan, simulated; None where enough were."""
        if plan not in self._tried and len(self._tried) < self._most:
            self._tried[plan] = self._evaluate(plan)
        return self._tried.get(plan)

    def hopeless(self, plan: Plan) -> bool:
        """Whether not even the most boxes and machines do."""
        ceiling = self.of(self._space.largest(plan))
        return ceiling is not None and not ceiling.meets

    def found(self, complete: bool) -> Found:
        meeting = [candidate for candidate in self._tried.values() if candidate.meets]
        chosen = min(meeting, key=lambda candidate: candidate.cost, default=None)
        return Found(tuple(self._tried.values()), chosen, complete)


def nearest(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> Candidate:
    """The one that misses the objectives by least: by the worst of them, as a share of its limit."""
    return min(candidates, key=lambda candidate: (miss(candidate, objectives), candidate.cost))


def miss(candidate: Candidate, objectives: Sequence[Objective]) -> float:
    """By how much it misses the worst of the objectives, as a share of the limit; 0 where it meets all."""
    return max(
        (
            0.0
            if verdict.met
            else math.inf
            if verdict.value is None
            else abs(verdict.value - objective.limit) / max(abs(objective.limit), 1e-9)
            for verdict, objective in zip(candidate.verdicts, objectives, strict=True)
        ),
        default=0.0,
    )
