"""Phases make one load, and a schedule bent along it keeps its nature: its number of arrivals, its order, its process."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from penstock_models.errors import UsageError
from penstock_sim.load.schedule import Periodic, Poisson
from penstock_sim.scenario.load import Bent, Load
from penstock_sim.scenario.phases import AnyPhase, Burst, Corner, Diurnal, Ramp, Replay, Steady, joined

HERE = Path()

RAMP = Load([0, 10, 10, 30], [0, 2, 1, 1])
"""Up to 2 within 10 s, a step down to 1, and on for 20 s: an area of 30."""


def slope(load: Load, t: float) -> float:
    """The load shortly after `t`, within its bounds."""
    begin = min(t, load.seconds - 1e-6)
    return (load.tau(begin + 1e-6) - load.tau(begin)) / 1e-6


@st.composite
def loads(draw: st.DrawFn) -> Load:
    lengths = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.7]), min_size=1, max_size=6))
    values = draw(
        st.lists(st.sampled_from([0.0, 0.1, 1.0, 4.0]), min_size=len(lengths), max_size=len(lengths))
    )
    times = [0.0, *np.cumsum([*lengths, 1.0]).tolist()]
    return Load(times, [*values, 1.0, draw(st.sampled_from([0.0, 2.0]))])


@pytest.mark.parametrize(
    ("phase", "corners"),
    [
        (Steady(seconds=5, load=2), [(0, 2), (5, 2)]),
        (Ramp(seconds=5, begin=1, end=3), [(0, 1), (5, 3)]),
        (
            Burst(seconds=9, peak=5, every_s=4, for_s=1),
            [(0, 1), (3, 1), (3, 5), (4, 5), (4, 1), (7, 1), (7, 5), (8, 5), (8, 1), (9, 1)],
        ),
        (Burst(seconds=8, peak=5, every_s=4, for_s=1), [(0, 1), (3, 1), (3, 5), (4, 5), (4, 1), (8, 1)]),
        (Burst(seconds=3, peak=5, every_s=4, for_s=1), [(0, 1), (3, 1)]),
    ],
)
def test_a_phase_has_its_corners(phase: AnyPhase, corners: list[Corner]) -> None:
    assert list(phase.corners(HERE)) == corners


def test_a_day_goes_from_midnight_over_noon_to_midnight() -> None:
    day = joined([Diurnal(seconds=240, low=0.5, high=2.5, days=2)], HERE)
    for at, value in ((0, 0.5), (30, 1.5), (60, 2.5), (120, 0.5), (180, 2.5), (240, 0.5)):
        assert slope(day, at) == pytest.approx(value, abs=0.02)
    assert day.tau(240) == pytest.approx(240 * 1.5)
    assert day.highest == 2.5


def test_a_trace_is_played_faster_and_louder_from_its_first_row(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(
        "\ufeffload,seconds,note\n1,100,a\n3,160,b\n3,220,\n", encoding="utf-8"
    )
    assert Replay(file="trace.csv", speed=20, load=2).corners(tmp_path) == [(0, 2), (3, 6), (6, 6)]


def test_phases_follow_one_another() -> None:
    load = joined([Ramp(seconds=10), Steady(seconds=5, load=0.5)], HERE)
    assert load.seconds == 15 and [load.tau(t) for t in (5, 10, 15)] == [1.25, 5, 7.5]


@pytest.mark.parametrize(
    ("times", "values", "said"),
    [
        ([0], [1], "two points"),
        ([1, 2], [1, 1], "the first at 0 s"),
        ([0, 2, 1], [1, 1, 1], "ascend"),
        ([0, float("inf")], [1, 1], "ascend"),
        ([0, 1], [1, -1], "below 0"),
        ([0, 1], [1, float("nan")], "below 0"),
        ([0, 1], [0, 0], "nothing would be sent"),
    ],
)
def test_a_load_that_cannot_be_is_refused(times: list[float], values: list[float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Load(times, values)


@pytest.mark.parametrize(
    ("t", "tau"), [(-1, 0), (0, 0), (5, 2.5), (9, 8.1), (10, 10), (12, 12), (30, 30), (99, 30)]
)
def test_operational_time_is_the_area_under_the_load(t: float, tau: float) -> None:
    assert RAMP.tau(t) == pytest.approx(tau)


@given(load=loads(), share=st.floats(0, 1))
def test_operational_time_and_time_are_each_other_s_inverse(load: Load, share: float) -> None:
    t = share * load.seconds
    back = float(load.times(np.array([load.tau(t)]))[0])
    assert load.tau(back) == pytest.approx(load.tau(t), abs=1e-9)
    assert 0 <= back <= load.seconds + 1e-9
    steps = np.linspace(0, load.seconds, 50)
    areas = [load.tau(float(at)) for at in steps]
    assert (np.diff(areas) >= 0).all() and load.tau(load.seconds + 1) == areas[-1]


def test_what_is_due_where_a_pause_begins_comes_at_its_end() -> None:
    load = Load([0, 5, 5, 10, 10, 20], [1, 1, 0, 0, 3, 3])
    assert load.times(np.array([4.9, 5.0, 5.3])) == pytest.approx([4.9, 10.0, 10.1])
    assert (load.tau(5), load.tau(7), load.tau(10), load.tau(20)) == (5, 5, 5, 35)


@given(load=loads(), rate=st.sampled_from([0.7, 3.0, 40.0]), streams=st.integers(1, 4))
def test_a_bent_periodic_stream_sends_exactly_load_times_rate(load: Load, rate: float, streams: int) -> None:
    phases = [(0.37 + n) / rate / streams for n in range(streams)]
    times, owners = Bent(Periodic(rate, *phases), load).until(load.seconds)
    for stream, phase in enumerate(phases):
        area = load.tau(load.seconds)
        expected = max(0, int(np.ceil((area - phase) * rate - 1e-9)))
        assert abs(int((owners == stream).sum()) - expected) <= (
            1 if ((area - phase) * rate) % 1 < 1e-6 else 0
        )
    assert (np.diff(times) >= 0).all() and (times <= load.seconds + 1e-9).all()


@given(load=loads(), cuts=st.lists(st.floats(0, 1), max_size=5).map(sorted), seed=st.integers(0, 99))
def test_the_pieces_of_a_bent_schedule_are_the_whole(load: Load, cuts: list[float], seed: int) -> None:
    def make() -> list[Bent]:
        return [
            Bent(Poisson(20.0, 3, seed), load),
            Bent(Periodic(20.0, 0.01, jitter_s=0.05, seed=seed), load),
        ]

    for pieces, whole in zip(make(), make()):
        found = [pieces.until(cut * load.seconds) for cut in [*cuts, 1.0]]
        times, owners = whole.until(load.seconds)
        assert np.array_equal(np.concatenate([t for t, _ in found]), times)
        assert np.array_equal(np.concatenate([o for _, o in found]), owners)


@pytest.mark.parametrize("load", [RAMP, Load([0, 5, 5, 10, 10, 20], [1, 1, 0, 0, 3, 0.2])])
def test_bent_poisson_arrivals_are_a_poisson_process_of_that_rate(load: Load) -> None:
    """Over 200 seeds the counts have mean and variance ∫ load·rate; rescaled gaps are exponential."""
    rate, area = 30.0, load.tau(load.seconds)
    runs = [Bent(Poisson(rate, seed=seed), load).until(load.seconds)[0] for seed in range(200)]
    counts = np.array([len(times) for times in runs])
    mean = rate * area
    assert abs(counts.mean() - mean) < 4 * np.sqrt(mean / len(runs))
    assert 0.7 < counts.var() / mean < 1.35  # three standard errors of a variance over 200 runs
    assert all(slope(load, float(t)) > 0 for times in runs[:20] for t in times)
    gaps = np.concatenate([np.diff([load.tau(float(t)) for t in times]) for times in runs[:20]])
    assert kolmogorov_smirnov(gaps * rate) < 1.95  # exceeded once in a thousand


def test_the_test_would_find_gaps_that_are_not_exponential() -> None:
    assert kolmogorov_smirnov(np.diff(Periodic(1.0, jitter_s=1.0, seed=1).until(500.0)[0])) > 1.95


def kolmogorov_smirnov(gaps: np.ndarray) -> float:
    """sqrt(n) times the largest distance of the distribution of `gaps` from the exponential one of mean 1."""
    n = len(gaps)
    expected = 1 - np.exp(-np.sort(gaps))
    above, below = np.arange(1, n + 1) / n - expected, expected - np.arange(n) / n
    return float(np.sqrt(n) * max(above.max(), below.max()))


def test_the_highest_rate_is_known_beforehand() -> None:
    bent = Bent(Poisson(10.0, 3), RAMP)
    assert (bent.rate_hz, bent.streams) == (20.0, 3)
