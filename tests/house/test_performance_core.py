"""What the benchmarks of the serving core reckon: which slices are compared, what counts, whose time it was."""

from __future__ import annotations

import pytest

from tests.bench.core import by_module
from tests.bench.loading import Slice, matched
from tests.bench.traffic import Tally, p99, poisson


def slice_of(kind: str, rate: float = 100.0, after: float = 0.0, stolen: float = 0.0) -> Slice:
    return Slice(kind, (rate, after or rate), stolen, [])


@pytest.mark.parametrize(
    ("slices", "count"),
    [
        ([slice_of("quiet"), slice_of("process")], 1),
        ([slice_of("process"), slice_of("quiet")], 1),
        ([slice_of("quiet"), slice_of("thread"), slice_of("process")], 0),
        ([slice_of("quiet", 100), slice_of("process", 109)], 1),
        ([slice_of("quiet", 100), slice_of("process", 111)], 0),
        ([slice_of("quiet", 100), slice_of("process", 111), slice_of("quiet", 112)], 1),
        ([slice_of("quiet", 100, 112), slice_of("process", 106)], 0),  # changed within the slice
        ([slice_of("quiet"), slice_of("process", stolen=0.011)], 0),
        ([slice_of("quiet"), slice_of("process"), slice_of("quiet"), slice_of("process")], 2),
        ([slice_of("process"), slice_of("quiet"), slice_of("process")], 1),  # a quiet one counts once
    ],
)
def test_only_neighbours_that_met_the_same_machine_are_compared(slices: list[Slice], count: int) -> None:
    quiet, beside = matched(slices, "process")
    assert len(quiet) == len(beside) == count
    assert {one.kind for one in quiet} <= {"quiet"} and {one.kind for one in beside} <= {"process"}


@pytest.mark.parametrize(("number", "pairs"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_quiet_slices_are_compared_with_each_other_in_pairs(number: int, pairs: int) -> None:
    slices = [slice_of("quiet", 100.0 + n) for n in range(number)]
    first, second = matched(slices, "quiet")
    assert len(first) == len(second) == pairs
    assert len({one.rates for one in first + second}) == 2 * pairs


def test_only_what_is_settled_between_the_ends_counts() -> None:
    tally = Tally(since=10.0, until=14.0)
    assert [tally.counts(now) for now in (9.9, 10.0, 13.9, 14.0)] == [False, True, True, False]
    tally.in_time += [0.01] * 6
    tally.late += [0.2] * 2
    assert tally.settled == 4 and tally.goodput == 1.5


def test_arrivals_of_several_loads_come_in_order_at_their_rates() -> None:
    plan = poisson((100.0, 900.0), 10.0, seed=1)
    assert plan == sorted(plan) and plan == poisson((100.0, 900.0), 10.0, seed=1)
    assert plan[0][0] > 0 and plan[-1][0] < 10.0
    few = sum(1 for _, load in plan if load == 0)
    assert few == pytest.approx(1000, rel=0.15) and len(plan) - few == pytest.approx(9000, rel=0.05)


def test_a_percentile_of_too_few_is_no_number_to_be_met() -> None:
    assert p99([0.001] * 49) == float("inf")
    assert p99([0.001] * 99 + [1.0]) == pytest.approx(0.011, abs=0.001)


def test_time_in_built_in_functions_belongs_to_the_module_that_calls_them() -> None:
    ours = "/x/models/penstock_models/scheduling/queue.py", 1, "take"
    loop = "/lib/asyncio/events.py", 2, "_run"
    built_in = "~", 0, "<built-in method builtins.len>"
    stats = {
        ours: (1, 1, 2.0, 3.0, {}),
        loop: (1, 1, 1.0, 4.0, {}),
        built_in: (3, 3, 1.0, 1.0, {ours: (2, 2, 0.75, 0.75), loop: (1, 1, 0.25, 0.25)}),
    }
    assert by_module(stats) == pytest.approx({"queue": 2.75 / 4, "asyncio": 1.25 / 4})
