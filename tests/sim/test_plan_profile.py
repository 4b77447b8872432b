"""Profiles: what is read from a bench, what lies between its rows, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.errors import UsageError
from penstock_models.measure import QUANTILES, BenchReport, Row
from penstock_sim.plan.curve import at, mean, middle
from penstock_sim.plan.profile import Facts, ModelProfile, read
from tests.sim.plan_site import report


def spread(batch: int, ms: float, busy: int = 1, idle: bool = False) -> Row:
    """A row whose times are uniform between half and one and a half of the mean."""
    times = tuple(ms * (0.5 + share) for share in QUANTILES)
    return Row(batch, 100, ms, ms, 1.0, busy, idle, times)


def profiled(*rows: Row) -> ModelProfile:
    return ModelProfile(BenchReport("m", 1, "sha256:m", "cpu", 1.0, 1.0, rows), "edge.json")


ROWS = (spread(1, 10), spread(4, 22), spread(1, 16, busy=3), spread(4, 40, busy=3), spread(1, 13, idle=True))


@pytest.mark.parametrize(
    ("batch", "busy", "idle", "expected_ms"),
    [
        (1, 1, False, 10.0),
        (4, 1, False, 22.0),
        (2, 1, False, 14.0),  # between two sizes
        (8, 1, False, 38.0),  # beyond the largest: 4 ms for each further one
        (1, 3, False, 16.0),
        (1, 2, False, 13.0),  # between two numbers of threads
        (1, 9, False, 16.0),  # more threads than were measured
        (2, 3, False, 24.0),
        (1, 1, True, 13.0),
        (4, 1, True, 25.0),  # a batch begins as cold as one
        (1, 3, True, 19.0),
    ],
)
def test_between_the_rows_it_is_interpolated(batch: int, busy: int, idle: bool, expected_ms: float) -> None:
    assert profiled(*ROWS).mean(batch, busy, idle) * 1e3 == pytest.approx(expected_ms)


def test_one_size_alone_goes_on_in_proportion() -> None:
    assert profiled(spread(1, 10)).mean(5) == pytest.approx(0.05)


def test_the_warm_up_tries_what_a_gateway_tries() -> None:
    rows = (spread(1, 10), spread(2, 20), spread(4, 40), spread(1, 12, busy=2))
    assert profiled(*rows).warm_ms() == pytest.approx({1: 10.0, 2: 20.0})
    assert profiled(spread(1, 80)).warm_ms() == pytest.approx({1: 80.0})


def test_an_old_report_has_two_percentiles() -> None:
    model = profiled(Row(1, 100, 10.0, 19.0, 100.0))
    assert middle(model.curve(1)) == pytest.approx(0.010)
    assert at(model.curve(1), 0.95) == pytest.approx(0.019)
    assert at(model.curve(1), 0.05) == pytest.approx(0.010)


@given(st.lists(st.floats(1e-4, 10), min_size=len(QUANTILES), max_size=len(QUANTILES)), st.floats(0, 1))
def test_draws_have_the_mean_that_the_curve_has(values: list[float], share: float) -> None:
    curve = tuple(sorted(values))
    assert curve[0] - 1e-12 <= at(curve, share) <= curve[-1] + 1e-12
    assert at(curve, share) == pytest.approx(float(np.interp(share, QUANTILES, curve)), rel=1e-9)
    assert mean(curve) == pytest.approx(float(np.trapezoid(curve, QUANTILES)), rel=1e-9)


def text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def test_a_file_has_reports_and_facts_one_after_another(tmp_path: Path) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(
        text(report("a", 0.01)) + "\n" + json.dumps({"ingest_ms": 0.2, "cores": 4}, indent=2) + "\n"
    )
    two.write_text(text(report("b", 0.02, busy=(1, 2))) + '{"cores": 8}')
    found = read("edge", [one, two])
    assert list(found.models) == ["a", "b"]
    assert found.facts == Facts(ingest_ms=0.2, cores=8)
    assert (found.slots, found.cores) == (2, 8)
    assert found.model("b").mean(1) == pytest.approx(0.02)


GOOD = text(report("a", 0.01))
BAD = {
    "nothing": ("", "expected reports of `penstock model bench --json`, came none"),
    "no JSON": (GOOD + "\n{", "edge.json:2: expected JSON"),
    "no object": ("[1, 2]", "edge.json:1: expected an object, came [1, 2]"),
    "unknown fact": (GOOD + '{"ingest": 1}', "unknown field `ingest`"),
    "negative fact": (GOOD + '{"slots": -1}', "expected facts of a device: Expected `int` >= 0"),
    "newer": (
        GOOD + '{"v": 2, "slots": 1}',
        "edge.json:1: expected a profile of version 1 or older, came version 2",
    ),
    "no report": ('{"rows": []}', "expected a report of `penstock model bench --json`"),
    "no rows": (
        GOOD[: GOOD.index('"rows"')] + '"rows": []}',
        "expected a row of batch 1 with 1 busy threads for the model a, came rows of batch none",
    ),
    "no single items": (
        text(report("a", 0.01, sizes=(4, 8))),
        "expected a row of batch 1 with 1 busy threads for the model a, came rows of batch 4, 8",
    ),
    "no single items of many threads": (
        text(BenchReport("a", 1, "d", "cpu", 1, 1, (spread(1, 10), spread(4, 40, busy=2)))),
        "expected a row of batch 1 with 2 busy threads",
    ),
    "times that fall": (
        text(BenchReport("a", 1, "d", "cpu", 1, 1, (Row(1, 9, 1, 1, 1, 1, False, (2.0,) * 12 + (1.0,)),))),
        "ascending times in ms above 0",
    ),
    "too few quantiles": (
        text(BenchReport("a", 1, "d", "cpu", 1, 1, (Row(1, 9, 1, 1, 1, 1, False, (1.0, 2.0)),))),
        f"expected {len(QUANTILES)} ascending times",
    ),
    "no time": (text(BenchReport("a", 1, "d", "cpu", 1, 1, (Row(1, 9, 0, 0, 1),))), "above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    content, expected = BAD[case]
    file = tmp_path / "edge.json"
    file.write_text(content)
    with pytest.raises(UsageError) as error:
        read("edge", [file])
    assert expected in str(error.value)
    assert "edge.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a readable profile at .*none\.json"):
        read("edge", [tmp_path / "none.json"])


def test_a_model_that_is_not_there() -> None:
    from tests.sim.plan_site import device

    with pytest.raises(UsageError, match="the profile edge has no model 'b'; it has a"):
        device(report("a", 0.01)).model("b")
