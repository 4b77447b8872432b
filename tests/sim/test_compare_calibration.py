"""The statistics of a comparison on runs that are made up so that the truth is known: who is told apart, and who is not."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from penstock_sim.report.compare import judge
from penstock_sim.report.latencies import WIDTH, Latencies
from penstock_sim.report.measured import Draws
from penstock_sim.report.series import MixSeries, Series

RUNS = 200
MOST_FALSE = 0.08
"""Of comparisons in which nothing differs, those that may find something: 5 % and two standard errors of 200."""


def seconds(
    seed: int, count: int, factor: float = 1.0, memory: float = 0.0, level: float = 0.0, late: float = 0.01
) -> Series:
    """A run of one mix, 20 frames a second. The level of a second's latencies is AR(1) with `memory` and the standard
    deviation `level` (of the logarithm); `factor` makes all of them slower, and the late ones come with the level."""
    random = np.random.default_rng(seed)
    levels = np.zeros(count)
    for n, shock in enumerate(random.normal(0, 1, count)):
        levels[n] = memory * levels[n - 1] + (1 - memory**2) ** 0.5 * shock if n else shock
    answered = random.binomial(20, 0.98, count)
    values = (
        np.log(20_000 * factor) + np.repeat(level * levels, answered) + random.normal(0, 0.3, answered.sum())
    )
    bins = np.floor(values / WIDTH).astype(int)
    counts = np.zeros((count, np.ptp(bins) + 1), np.float32)
    np.add.at(counts, (np.repeat(np.arange(count), answered), bins - bins.min()), 1)
    lates = random.binomial(answered, np.minimum(1, late * np.exp(5 * level * levels)))
    mix = MixSeries(
        np.full(count, 20.0),
        answered.astype(float),
        lates.astype(float),
        {},
        Latencies(int(bins.min()), counts),
    )
    return Series(1, np.arange(count, dtype=np.float64) + 0.5, np.ones(count), {"cam": mix}, {})


def told_apart(count: int, runs: int, make: Callable[[int], tuple[Series, Series]], same: bool) -> float:
    """The part of `runs` pairs of runs in which any figure was called better or worse."""
    draw = Draws(count, count, same)
    found = [judge(*make(number), draw) for number in range(runs)]
    return sum(any(one.verdict in ("better", "worse") for one in figures) for figures in found) / runs


@pytest.mark.parametrize(("same", "runs"), [(True, RUNS), (False, RUNS // 2)])
def test_equal_runs_are_rarely_told_apart(same: bool, runs: int) -> None:
    false = told_apart(60, runs, lambda n: (seconds(2 * n, 60), seconds(2 * n + 1, 60)), same)
    assert false <= MOST_FALSE


@pytest.mark.parametrize(("count", "memory", "runs"), [(27, 0.7, 100), (120, 0.7, 100), (300, 0.85, 60)])
def test_seconds_that_depend_on_each_other_do_not_fool_it(count: int, memory: float, runs: int) -> None:
    def make(number: int) -> tuple[Series, Series]:
        return tuple(seconds(2 * number + n, count, memory=memory, level=0.2) for n in (0, 1))  # type: ignore[return-value]

    assert told_apart(count, runs, make, True) <= MOST_FALSE


def test_a_fifth_slower_is_found() -> None:
    draw = Draws(60, 60, True)
    found = [judge(seconds(n, 60), seconds(1000 + n, 60, factor=1.2), draw) for n in range(40)]
    p50 = [next(one for one in figures if one.figure == "p50_ms") for figures in found]
    assert sum(one.verdict == "worse" for one in p50) == 40
    inside = [
        one for one in p50 if one.low is not None and one.high is not None and one.low <= 0.2 <= one.high
    ]
    assert len(inside) >= 34, "a 95 % interval holds the truth"
    faster = judge(seconds(1, 60, factor=1.2), seconds(2, 60), draw)
    assert [one.verdict for one in faster[:2]] == ["better", "better"]


def test_what_was_not_seen_would_have_been_if_it_were_as_large_as_said() -> None:
    """`seen` keeps its word: a difference of that size is found in about four runs of five."""
    draw = Draws(120, 120, True)
    plain = [judge(seconds(n, 120), seconds(500 + n, 120), draw)[0] for n in range(20)]
    size = 1 + float(np.median([one.seen for one in plain if one.seen is not None]))
    found = [judge(seconds(n, 120), seconds(500 + n, 120, factor=size), draw)[0] for n in range(40)]
    assert 0.65 <= sum(one.verdict == "worse" for one in found) / 40 <= 1.0


def test_more_late_frames_are_found() -> None:
    draw = Draws(120, 120, True)
    figures = {one.figure: one for one in judge(seconds(1, 120), seconds(2, 120, late=0.08), draw)}
    assert figures["late_share"].verdict == "worse" and figures["late_share"].kind == "share"
    assert figures["answered_share"].verdict == "no difference seen"


def test_what_never_happens_is_no_comparison_and_says_what_would_have_been_seen() -> None:
    draw = Draws(60, 60, True)
    figures = judge(seconds(1, 60, late=0.0), seconds(2, 60, late=0.0), draw)
    late = figures[-1]
    assert (late.figure, late.verdict, late.p) == ("late_share", "no difference seen", None)
    assert late.seen == pytest.approx(3 / (60 * 20 * 0.98), rel=0.02)


def test_the_same_faults_on_both_sides_do_not_hide_a_difference() -> None:
    """Half of the time is ten times slower, in both runs at the same seconds: drawn together they are equal in it."""

    def with_outage(series: Series) -> Series:
        mix = series.mixes["cam"]
        steps = round(np.log(10) / WIDTH)
        wide = np.pad(mix.latencies.counts, ((0, 0), (0, steps)))
        wide[40:80] = np.roll(wide[40:80], steps, axis=1)
        return msgspec.structs.replace(
            series,
            mixes={"cam": msgspec.structs.replace(mix, latencies=Latencies(mix.latencies.first, wide))},
        )

    a, b = with_outage(seconds(1, 120)), with_outage(seconds(2, 120, factor=1.2))
    together, apart = (judge(a, b, Draws(120, 120, same))[2] for same in (True, False))
    assert (together.figure, together.verdict) == ("p99_ms", "worse")
    assert together.seen is not None and apart.seen is not None and together.seen < apart.seen
