"""The statistics of a comparison, each against what is known of it."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_sim.report.bootstrap import (
    RESAMPLES,
    Estimate,
    block_length,
    drawn,
    estimate,
    holm,
    t_below,
    t_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "p", "expected"),
    [
        (1, 0.975, 12.706), (2, 0.975, 4.303), (3, 0.995, 5.841), (4, 0.975, 2.776), (5, 0.9, 1.476),
        (10, 0.995, 3.169), (30, 0.975, 2.042), (120, 0.975, 1.980), (10_000, 0.975, 1.960), (7, 0.5, 0.0),
    ],
)  # fmt: skip
def test_students_table(freedom: int, p: float, expected: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(expected, abs=5e-4)


@given(st.integers(1, 200), st.floats(0.5, 0.9999))
def test_quantile_and_distribution_are_inverse(freedom: int, p: float) -> None:
    assert t_below(t_quantile(p, freedom), freedom) == pytest.approx(p, abs=1e-9)


@pytest.mark.parametrize(
    ("steps", "length"), [(9, 5), (10, 5), (25, 8), (60, 16), (100, 20), (180, 27), (400, 40), (3600, 120)]
)
def test_blocks_are_long_and_at_least_five_where_there_is_room(steps: int, length: int) -> None:
    assert block_length(steps) == length


@given(st.integers(2, 80))
def test_each_resample_is_as_long_as_the_run(steps: int) -> None:
    weights = drawn(np.random.default_rng(1), steps, block_length(steps))
    assert weights.shape == (RESAMPLES, steps)
    assert (weights.sum(axis=1) == steps).all()


def test_no_second_counts_more_than_another() -> None:
    """On a circle the first and the last are drawn as often as those between."""
    weights = drawn(np.random.default_rng(1), 60, 12)
    assert weights.mean(axis=0) == pytest.approx(np.ones(60), abs=0.12)


def test_what_is_drawn_are_blocks() -> None:
    weights = drawn(np.random.default_rng(1), 1000, 50)
    edges = np.count_nonzero(np.diff(weights, axis=1), axis=1)
    assert edges.max() <= 2 * 20


def test_the_error_of_a_mean_of_independent_seconds_is_the_textbooks() -> None:
    values = np.random.default_rng(2).normal(0, 1, 400)
    resampled = drawn(np.random.default_rng(3), 400, block_length(400)) @ values / 400
    assert estimate(values.mean(), resampled, 400, 40).error == pytest.approx(1 / 20, rel=0.35)


def test_the_error_of_a_mean_of_dependent_seconds_is_larger() -> None:
    """AR(1) with 0.8: the true standard error is three times that of independent seconds."""
    random, values = np.random.default_rng(4), np.zeros(2000)
    for n in range(1, 2000):
        values[n] = 0.8 * values[n - 1] + random.normal(0, 0.6)
    resampled = drawn(random, 2000, block_length(2000)) @ values / 2000
    assert estimate(values.mean(), resampled, 2000, block_length(2000)).error == pytest.approx(
        3 * values.std() / math.sqrt(2000), rel=0.35
    )


def test_resamples_without_a_value_are_left_out() -> None:
    found = estimate(1.0, np.array([1.0, np.nan, 3.0, np.inf]), 100, 20)
    assert found.error == pytest.approx(math.sqrt(2) * math.sqrt(5 / 4)) and found.freedom == 7
    assert estimate(1.0, np.array([np.nan, 1.0]), 100, 20).p == pytest.approx(1.0)


@pytest.mark.parametrize(("difference", "error", "p"), [(0.0, 0.0, 1.0), (0.1, 0.0, 0.0), (2.228, 1.0, 0.05)])
def test_p(difference: float, error: float, p: float) -> None:
    assert Estimate(difference, error, 10).p == pytest.approx(p, abs=2e-4)
    assert Estimate(-difference, error, 10).p == pytest.approx(p, abs=2e-4)


def test_the_interval_holds_zero_exactly_where_p_is_large() -> None:
    for difference in np.linspace(-0.5, 0.5, 41):
        found = Estimate(float(difference), 0.1, 8)
        low, high = found.interval
        assert (low <= 0 <= high) is (found.p >= 0.05)


def test_more_comparisons_need_a_larger_difference() -> None:
    found = Estimate(0.0, 1.0, 1000)
    assert found.seen(1) == pytest.approx(2.80, abs=0.01)
    """Bloom's 2.8 standard errors for four in five (Evaluation Review 19, 1995)."""
    assert found.seen(1) < found.seen(5) < found.seen(50)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_only_raises(ps: list[float]) -> None:
    came = holm(ps)
    assert all(p <= corrected <= 1 for p, corrected in zip(ps, came))
    ordered = [corrected for _, corrected in sorted(zip(ps, came))]
    assert ordered == sorted(ordered)
