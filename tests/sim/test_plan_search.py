"""The search for the cheapest plan, on made-up devices whose best plan is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.errors import UsageError
from penstock_sim.measure.objectives import Verdict
from penstock_sim.plan.search import Candidate, Space, miss, nearest, search
from penstock_sim.plan.simulate import Plan

Rule = Callable[[Plan], bool]


def evaluator(meets: Rule, cost: Callable[[Plan], float], tried: list[Plan]) -> Callable[[Plan], Candidate]:
    def evaluate(plan: Plan) -> Candidate:
        assert plan not in tried, "a plan was simulated twice"
        tried.append(plan)
        met = meets(plan)
        return Candidate(
            plan, {"": {}}, (Verdict("p99_ms < 1", 0.5 if met else 2.0, met),), "slots", cost(plan)
        )

    return evaluate


def money(plan: Plan) -> float:
    return 1.0 * plan.edge + 5.0 * plan.cloud


def look(space: Space, meets: Rule, most: int = 100) -> tuple[Plan | None, list[Plan], bool]:
    tried: list[Plan] = []
    found = search(space, evaluator(meets, money, tried), money, most)
    assert [candidate.plan for candidate in found.candidates] == tried
    return (found.chosen.plan if found.chosen else None), tried, found.complete


TWO = Space((("big", "small"),), ("edge", "overflow", "cloud"), (0, 4), edge=4, cloud=2)

GOLDEN: dict[str, tuple[Space, Rule, Plan | None]] = {
    "as it is": (TWO, lambda p: True, Plan(("big",), ("edge",))),
    "smaller model": (TWO, lambda p: p.models == ("small",), Plan(("small",), ("edge",))),
    "smaller batches": (TWO, lambda p: p.batch == 4, Plan(("big",), ("edge",), 4)),
    "three boxes": (TWO, lambda p: p.edge >= 3, Plan(("big",), ("edge",), 0, 3)),
    "a cloud machine": (TWO, lambda p: p.uses_cloud, Plan(("big",), ("overflow",), 0, 1, 1)),
    "all in the cloud": (TWO, lambda p: p.where == ("cloud",), Plan(("big",), ("cloud",), 0, 1, 1)),
    "boxes before clouds": (TWO, lambda p: p.edge >= 4 or p.uses_cloud, Plan(("big",), ("edge",), 0, 4)),
    "two clouds and two boxes": (
        TWO, lambda p: p.cloud >= 2 and p.edge >= 2, Plan(("big",), ("overflow",), 0, 2, 2),
    ),
    "nothing": (TWO, lambda p: False, None),
    "one of two routes": (
        Space((("a",), ("b", "c")), ("edge",), (0,)),
        lambda p: p.models == ("a", "c"),
        Plan(("a", "c"), ("edge", "edge")),
    ),
    "only one route away": (
        Space((("a",), ("b",)), ("edge", "cloud"), (0,), cloud=1),
        lambda p: p.where == ("edge", "cloud"),
        Plan(("a", "b"), ("edge", "cloud"), 0, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_the_cheapest_plan_that_meets_is_found(case: str) -> None:
    space, meets, expected = GOLDEN[case]
    plan, _, complete = look(space, meets)
    assert plan == expected
    assert complete


def test_two_routes_of_one_model_go_on_sharing_it() -> None:
    space = Space((("a", "b"), ("a", "b"), ("c",)))
    assert {plan.models for plan in space.shapes()} == {("a", "a", "c"), ("b", "b", "c")}


def test_what_the_most_boxes_do_not_meet_is_not_tried_with_fewer() -> None:
    space = Space((("a",),), ("edge",), (0,), edge=50)
    plan, tried, _ = look(space, lambda p: False)
    assert plan is None
    assert [p.edge for p in tried] == [1, 2, 50]


def test_plans_are_tried_in_the_order_of_their_least_cost() -> None:
    _, tried, _ = look(TWO, lambda p: p.edge >= 3 and not p.uses_cloud)
    costs = [money(plan) for plan in tried if plan.edge < 4]
    assert costs == sorted(costs)


def test_a_search_that_had_to_end_says_so() -> None:
    plan, tried, complete = look(Space((("a",),), ("edge",), (0,), edge=50), lambda p: p.edge > 40, most=5)
    assert len(tried) == 5
    assert not complete
    assert plan is not None, "the ceiling meets, and is better than nothing"


def test_a_plan_that_costs_more_than_it_had_to_yields_to_a_cheaper_one() -> None:
    """Offloading is charged by requests: what that costs is known after the simulation."""
    space = Space((("a",),), ("overflow", "edge"), (0,), edge=3, cloud=1)
    least = {"overflow": 2.0, "edge": 0.0}
    real = {"overflow": 9.0, "edge": 0.0}

    def cost(table: dict[str, float]) -> Callable[[Plan], float]:
        return lambda plan: plan.edge + table[plan.where[0]]

    evaluate = evaluator(lambda p: p.uses_cloud or p.edge == 3, cost(real), [])
    found = search(space, evaluate, cost(least), 100)
    assert found.chosen is not None
    assert found.chosen.plan == Plan(("a",), ("edge",), 0, 3)


def test_too_many_combinations_are_refused() -> None:
    space = Space((("a",),) * 9, ("edge", "overflow", "cloud"), (0,))
    with pytest.raises(UsageError, match="expected at most 2000 combinations"):
        space.shapes()


@given(
    edge=st.integers(1, 5),
    cloud=st.integers(1, 3),
    need=st.tuples(st.integers(1, 6), st.integers(0, 4)),
)
def test_it_agrees_with_trying_everything(edge: int, cloud: int, need: tuple[int, int]) -> None:
    """Where more is never worse, leaving out what is hopeless loses nothing."""
    space = Space((("a",),), ("edge", "overflow"), (0,), edge, cloud)

    def meets(plan: Plan) -> bool:
        return plan.edge >= need[0] and plan.cloud >= need[1]

    every = [Plan(("a",), ("edge",), 0, e) for e in range(1, edge + 1)]
    every += [Plan(("a",), ("overflow",), 0, e, c) for e in range(1, edge + 1) for c in range(1, cloud + 1)]
    cheapest = min((money(plan) for plan in every if meets(plan)), default=None)
    plan, _, complete = look(space, meets, most=1000)
    assert complete
    assert (money(plan) if plan else None) == cheapest


def test_the_nearest_miss_is_by_the_worst_objective() -> None:
    from penstock_sim.measure.objectives import Objective

    objectives = [Objective.parse(text, [], ["p99_ms", "missed"]) for text in ("p99_ms < 100", "missed < 1%")]

    def candidate(p99: float | None, missed: float) -> Candidate:
        found = {"": {"p99_ms": p99, "missed": missed}}
        verdicts = tuple(objective.judge(found) for objective in objectives)
        return Candidate(Plan(("a",), ("edge",)), found, verdicts, "slots", 1.0)

    far, near, silent = candidate(110, 0.05), candidate(150, 0.0), candidate(None, 0.0)
    assert [round(miss(one, objectives), 3) for one in (far, near, silent)] == [4.0, 0.5, float("inf")]
    assert nearest([far, near, silent], objectives) is near
