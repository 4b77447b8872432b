"""Intended times: however they are asked for, they are the same, ascending and on their grid."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from penstock_models.errors import UsageError
from penstock_sim.load.schedule import Periodic, Poisson, Schedule, merge


def test_a_period_keeps_its_grid_and_phase() -> None:
    assert Periodic(4.0, 0.1).until(1.0)[0] == pytest.approx([0.1, 0.35, 0.6, 0.85])


@given(
    cuts=st.lists(st.floats(0.0, 3.0), max_size=6).map(sorted),
    rate=st.floats(0.5, 3000.0),
    jittered=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_pieces_of_a_schedule_are_the_whole(
    cuts: list[float], rate: float, jittered: bool, seed: int
) -> None:
    def make() -> list[Schedule]:
        jitter_s = 1.0 / rate if jittered else 0.0
        return [
            Periodic(rate, 0.01, jitter_s=jitter_s, seed=seed),
            Periodic(rate, 0.0, 0.5 / rate, 2.5 / rate, jitter_s=jitter_s, seed=seed),
            Poisson(rate, seed=seed),
            Poisson(rate, 5, seed=seed),
        ]

    for pieces, whole in zip(make(), make(), strict=True):
        due = [pieces.until(end) for end in [*cuts, 3.0]]
        times, owners = np.concatenate([t for t, _ in due]), np.concatenate([o for _, o in due])
        expected = whole.until(3.0)
        assert np.array_equal(times, expected[0]) and np.array_equal(owners, expected[1])
        assert np.all(np.diff(times) >= 0.0)
        assert np.all(times < 3.0)
        assert not len(owners) or 0 <= owners.min() <= owners.max() < whole.streams


def test_jitter_delays_by_less_than_a_period_and_does_not_add_up() -> None:
    times, _ = Periodic(10.0, jitter_s=0.05, seed=1).until(1000.0)
    delay = times - np.arange(len(times)) / 10.0
    assert len(times) == 10_000
    assert 0.0 <= delay.min() < 0.001
    assert 0.049 < delay.max() <= 0.05


def test_poisson_arrivals_have_their_rate_and_its_variance() -> None:
    gaps = np.diff(Poisson(100.0, seed=2).until(200.0)[0])
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(0.01, rel=0.05)


def test_many_streams_each_have_the_rate() -> None:
    for schedule in (Periodic(10.0, *np.linspace(0, 0.1, 50, endpoint=False)), Poisson(10.0, 50, seed=3)):
        times, owners = schedule.until(100.0)
        assert np.all(np.diff(times) >= 0.0)
        counts = np.bincount(owners, minlength=50)
        assert counts.mean() == pytest.approx(1000, rel=0.01) and counts.std() < 60


def test_merging_keeps_time_order_and_owners() -> None:
    times, owners = merge([Periodic(2.0), Periodic(4.0, 0.125)], 1.0)
    assert times == pytest.approx([0.0, 0.125, 0.375, 0.5, 0.625, 0.875])
    assert owners.tolist() == [0, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(rate: float) -> None:
    for make in (Periodic, Poisson):
        with pytest.raises(UsageError, match="above 0 Hz"):
            make(rate)


def test_a_jitter_longer_than_the_period_is_refused() -> None:
    with pytest.raises(UsageError, match="one period"):
        Periodic(10.0, jitter_s=0.2)
