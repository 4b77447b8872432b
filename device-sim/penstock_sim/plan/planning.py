"""Puts the parts together: a scenario, profiles and wishes in, candidates out. No words, no files of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from penstock_models.errors import UsageError
from penstock_sim.measure.figures import NAMES as MEASURED
from penstock_sim.measure.objectives import Objective
from penstock_sim.plan import profile as profiles
from penstock_sim.plan.figures import NAMES, cost_per_hour, figures, saturation
from penstock_sim.plan.overflow import Budget, Where
from penstock_sim.plan.profile import Profile
from penstock_sim.plan.search import Candidate, Found, Space, search
from penstock_sim.plan.simulate import Plan, simulate
from penstock_sim.plan.work import Work, work_of
from penstock_sim.scenario.tree import Loaded

TIERS = ("edge", "cloud")


class Wishes(msgspec.Struct, frozen=True):
    """What may be tried, and how hard. `models` are alternatives by the model that a route names."""

    models: Mapping[str, Sequence[str]] = {}
    where: Sequence[Where] = ()
    batches: Sequence[int] = ()
    edge: int = 1
    cloud: int = 4
    budget: int | None = None
    """Requests to the cloud an hour."""
    frames: int = 50_000
    most: int = 60
    seed: int = 0


BATCHES = (0, 1, 4, 16)


class Planning(msgspec.Struct, frozen=True):
    """A question that was understood. `notes` is what it leaves out."""

    work: Work
    edge: Profile
    cloud: Profile | None
    space: Space
    objectives: tuple[Objective, ...]
    wishes: Wishes
    notes: tuple[str, ...]

    def evaluate(self, plan: Plan) -> Candidate:
        """Simulate a plan and judge it."""
        budget = Budget(self.wishes.budget)
        outcome = simulate(self.work, plan, self.edge, self.cloud, self.wishes.seed, budget)
        found = figures(outcome, plan, self.edge, self.cloud)
        verdicts = tuple(objective.judge(found) for objective in self.objectives)
        name, share = saturation(outcome)
        return Candidate(plan, found, verdicts, f"{name} {share:.0%}", found[""]["cost_per_hour"] or 0.0)

    def least_cost(self, plan: Plan) -> float:
        return cost_per_hour(plan, self.edge, self.cloud)

    def search(self, told: Callable[[Candidate], None] = lambda candidate: None) -> Found:
        """Look for the cheapest plan; without objectives the first one is looked at alone."""

        def evaluate(plan: Plan) -> Candidate:
            candidate = self.evaluate(plan)
            told(candidate)
            return candidate

        if not self.objectives:
            only = evaluate(self.space.shapes()[0])
            return Found((only,), only, True)
        return search(self.space, evaluate, self.least_cost, self.wishes.most)


def planning(
    loaded: Loaded, devices: Mapping[str, Profile], objectives: Sequence[str], wishes: Wishes
) -> Planning:
    """Understand a question.

    Args:
        devices: profiles by tier, `edge` and perhaps `cloud`.
        objectives: what must hold; what the scenario says, as far as it can be predicted, where there are none.

    Raises:
        UsageError: one line with what is wrong.
    """
    if "edge" not in devices:
        raise UsageError("expected --profile edge=FILE: the boxes that the gateway would run on")
    edge, cloud = devices["edge"], devices.get("cloud")
    work = work_of(loaded, frames=wishes.frames)
    where: Sequence[Where] = wishes.where or (
        ("edge", "overflow", "cloud") if cloud is not None else ("edge",)
    )
    if cloud is None and set(where) != {"edge"}:
        raise UsageError(f"expected --profile cloud=FILE beside --where {' '.join(where)}")
    named = [route.model for route in work.routes]
    if unknown := [name for name in wishes.models if name not in named]:
        raise UsageError(
            f"expected a model of a route ({', '.join(named)}) before the =, came {unknown[0]!r}"
        )
    models = tuple(tuple(dict.fromkeys((name, *wishes.models.get(name, ())))) for name in named)
    for tier in (edge, cloud) if cloud is not None else (edge,):
        for name in {name for names in models for name in names}:
            tier.model(name)
    space = Space(
        models, tuple(where), tuple(wishes.batches or BATCHES), wishes.edge, wishes.cloud if cloud else 0
    )
    held, notes = _objectives(loaded, objectives)
    if loaded.scenario.fault:
        notes.append(f"{len(loaded.scenario.fault)} faults of the scenario are left out")
    if work.seconds < loaded.load.seconds:
        notes.append(
            f"{len(work.times)} frames in {work.seconds:.0f} s in place of {loaded.load.seconds:.0f} s: the load's"
            " phases are played faster, see --frames"
        )
    return Planning(work, edge, cloud, space, tuple(held), wishes, tuple(notes))


def read_profiles(texts: Sequence[str]) -> dict[str, Profile]:
    """Read profiles from words like `edge=FILE`; several files of one tier are one profile.

    Raises:
        UsageError: another tier, no file, a wrong file.
    """
    files: dict[str, list[Path]] = {}
    for text in texts:
        tier, _, file = text.partition("=")
        if tier not in TIERS or not file:
            raise UsageError(f"expected a profile as edge=FILE or cloud=FILE, came {text!r}")
        files.setdefault(tier, []).append(Path(file))
    return {tier: profiles.read(tier, paths) for tier, paths in files.items()}


def _objectives(loaded: Loaded, given: Sequence[str]) -> tuple[list[Objective], list[str]]:
    """Those that are to be held, and notes on those of the scenario that a simulation cannot tell."""
    mixes = [mix.name for mix in loaded.scenario.device]
    if given:
        return [Objective.parse(text, mixes, NAMES) for text in given], []
    held, notes = [], []
    for text in loaded.scenario.objectives:
        asked = Objective.parse(text, mixes, {*NAMES, *MEASURED})
        if asked.figure in NAMES:
            held.append(asked)
        else:
            notes.append(f"the objective {text!r} is left out: only a run can tell")
    return held, notes
