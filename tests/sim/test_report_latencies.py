"""Matrices of latencies against the histograms that they were made of."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.errors import UsageError
from penstock_sim.report.latencies import WIDTH, Latencies, collect
from tests.fakes.recorded import histogram

latencies_ms = st.lists(st.floats(0.05, 3_000_000), min_size=1, max_size=60)


@given(latencies_ms, st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_a_value_within_a_bin(values: list[float], percent: int) -> None:
    came = collect([[histogram(values)]]).percentiles(percent)[0]
    expected = sorted(values)[-(-len(values) * percent // 100) - 1]
    # What is written is whole microseconds, and within 0.1 %.
    assert abs(math.log(came / expected)) <= WIDTH + 0.001 + 0.001 / expected


@given(st.lists(latencies_ms, min_size=1, max_size=5))
def test_steps_add_up_to_the_histogram_of_all(steps: list[list[float]]) -> None:
    apart = collect([[histogram(values)] for values in steps])
    together = collect([[histogram(values) for values in steps]])
    assert apart.total().percentiles(95) == pytest.approx(together.percentiles(95))
    assert apart.counts.sum(axis=1).tolist() == [len(values) for values in steps]


def test_a_weight_counts_a_step_so_often() -> None:
    steps = collect([[histogram([10.0] * 9)], [histogram([80.0])]])
    once, never = steps.weighted(np.array([[1, 1], [1, 0]], np.float32)).percentiles(99)
    assert once == pytest.approx(80.0, rel=0.01)
    assert never == pytest.approx(10.0, rel=0.01)


def test_a_step_without_answers_has_no_percentile() -> None:
    came = collect([[""], [histogram([5.0])]]).percentiles(50)
    assert np.isnan(came[0]) and came[1] == pytest.approx(5.0, rel=0.01)
    assert np.isnan(collect([[], [""]]).percentiles(50)).all()
    assert np.isnan(Latencies(0, np.zeros((2, 0), np.float32)).total().percentiles(99)).all()


@pytest.mark.parametrize(
    "text", ["nonsense", "HISTFAAAABt42pNpmSzMwMDAxAABzFCaEUoz2X+AMQA8vgKe", "====", "ö"]
)
def test_what_is_no_histogram_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a histogram"):
        collect([[text]])
