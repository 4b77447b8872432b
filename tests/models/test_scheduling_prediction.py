"""What a version's runs teach about the next one, and how large batches become with that."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.scheduling.forming import EFFICIENT, batch_limit, least_efficient
from penstock_models.scheduling.prediction import TRY_S, BatchTime


def taught(alpha: float, beta: float, noise: float = 0.05, runs: int = 300, seed: int = 1) -> BatchTime:
    chance = random.Random(seed)
    times = BatchTime({1: alpha + beta})
    for now in range(runs):
        n = chance.choice([1, 2, 3, 4, 6, 8])
        times.ran(n, (alpha * n + beta) * chance.lognormvariate(0, noise), now / 100)
    return times


def test_the_warm_up_is_the_first_prediction() -> None:
    times = BatchTime({1: 0.003, 2: 0.005, 4: 0.009})
    assert times.mean(1) == pytest.approx(0.003) and times.mean(8) == pytest.approx(0.017)
    assert times.upper(1) == pytest.approx(1.5 * 0.003)
    assert BatchTime({1: 0.0}).mean(1) > 0


@given(alpha=st.floats(1e-4, 0.1), ratio=st.floats(0.0, 20.0), seed=st.integers(0, 1000))
def test_alpha_and_beta_are_found(alpha: float, ratio: float, seed: int) -> None:
    beta = alpha * ratio
    times = taught(alpha, beta, seed=seed)
    for n in (1, 4, 8):
        true = alpha * n + beta
        assert times.mean(n) == pytest.approx(true, rel=0.4)
        assert times.upper(n) > 0.95 * true
    assert times.item_s >= 0 and times.mean(0) >= 0


def test_the_upper_quantile_is_rarely_exceeded_and_not_far_off() -> None:
    times, chance, over, runs = taught(0.002, 0.001, noise=0.2), random.Random(2), 0, 4000
    for now in range(runs):
        n = chance.choice([1, 2, 4])
        took = (0.002 * n + 0.001) * chance.lognormvariate(0, 0.2)
        over += took > times.upper(n)
        times.ran(n, took, 3 + now / 100)
    assert over / runs < 0.04
    assert times.upper(2) < 2 * times.mean(2)


def test_small_batches_have_a_quantile_of_their_own() -> None:
    times = BatchTime({1: 0.001, 8: 0.008})
    for now in range(100):
        times.ran(1, 0.001 * (1.9 if now % 10 == 0 else 1.0), now / 100)
        times.ran(8, 0.008, now / 100)
    assert times.upper(1) / times.mean(1) > 1.5 > 1.2 > times.upper(8) / times.mean(8)


def test_one_hiccup_teaches_nothing_and_three_a_new_speed() -> None:
    times = taught(0.002, 0.0)
    before = times.mean(1)
    times.ran(1, 0.5, 301.0)
    assert times.mean(1) == before
    times.ran(1, 0.5, 302.0)
    times.ran(1, 0.5, 303.0)
    assert times.mean(1) == pytest.approx(0.5, rel=0.1)
    for now in range(3):
        times.ran(1, 0.002, 304.0 + now)
    assert times.mean(1) == pytest.approx(0.002, rel=0.1) and times.upper(1) < 0.004


def test_a_run_that_was_ended_makes_no_later_request_late() -> None:
    """A request that hangs its version for a second would make 100 ms the prediction of a model of 1 ms."""
    times = BatchTime({1: 0.001})
    for now in range(10):
        times.ran(1, 1.0, now + 0.0, ended=True)
        times.ran(1, 0.001, now + 0.5)
    assert times.mean(1) < 0.0011 and times.upper(1) < 0.002


def test_a_version_that_became_slow_is_given_the_time_that_it_needs() -> None:
    times = BatchTime({1: 0.001})
    runs = 0
    while (limit := times.timeout_s(1)) < 3.0:
        runs += 1
        times.ran(1, limit, float(runs), ended=True)
        assert runs < 20


@pytest.mark.parametrize(("item_s", "n", "last_try", "limit"), [
    (0.5, 1, True, 2.5), (0.001, 1, True, 1.0), (0.001, 4, False, 0.25), (99, 9, True, 60.0), (0.2, 1, False, 1.0),
])  # fmt: skip
def test_when_a_run_hangs(item_s: float, n: int, last_try: bool, limit: float) -> None:
    assert BatchTime({1: item_s}).timeout_s(n, last_try) == pytest.approx(limit)


def test_what_did_not_run_for_a_while_is_to_be_tried() -> None:
    times = BatchTime({1: 0.1})
    assert times.untried(0.0)
    times.ran(1, 0.1, 5.0)
    assert not times.untried(5.0 + TRY_S / 2) and times.untried(5.0 + TRY_S)


def test_what_was_slow_is_not_held_against_what_is_quick_for_long() -> None:
    """Requests that cost a hundred times what the others do, on the same model: an upper quantile of what they took, and no
    multiple of it, however the fit moves between the two kinds."""
    times, chance = BatchTime({1: 0.001}), random.Random(5)
    for now in range(2000):
        times.ran(1, chance.choice([0.001, 0.1, 0.1, 0.05]), now / 20)
        assert times.upper(1) < 0.2
    for now in range(10):
        times.ran(1, 0.001, 110.0 + now)
    assert times.upper(1) < 0.002


def test_after_a_slowdown_a_few_trials_bring_answers_back() -> None:
    """A deadline of 20 ms, a model of 5 ms that takes 100 ms for a while: how many trials until it is believed again."""
    times = taught(0.005, 0.0)
    for now in range(10):
        times.ran(1, 0.1, 300.0 + now)
    trials = 0
    while times.upper(1) > 0.02:
        times.ran(1, 0.005, 400.0 + trials)
        trials += 1
    assert trials * TRY_S <= 2.0


def test_solo_p95_is_what_95_of_100_take() -> None:
    times, chance = BatchTime({1: 0.1}), random.Random(3)
    for now in range(200):
        times.ran(1, 0.1 * chance.uniform(0.9, 1.1), now / 100)
    assert 0.105 < times.solo_p95() < 0.125


@pytest.mark.parametrize(
    ("warm", "waiting", "slots", "limit"),
    [
        ({1: 0.001}, 100, 1, 25),
        ({1: 0.02}, 100, 1, 1),
        ({1: 0.01}, 4, 2, 2),  # shared among the free slots
        ({1: 0.0001}, 4, 2, 10),  # too little work to share
        ({1: 0.0}, 10_000, 1, 64),
        ({1: 5.0}, 1, 1, 1),
        ({1: 0.1, 8: 0.107}, 100, 1, 64),  # what no batch saves is most of it
    ],
)
def test_a_batch_is_bounded_in_time_and_items_and_shared_among_the_slots(
    warm: dict[int, float], waiting: int, slots: int, limit: int
) -> None:
    times = BatchTime(warm)
    times.largest = 64
    assert batch_limit(times, waiting, slots) == limit


def test_batches_grow_by_doubling_after_a_run_that_took_far_longer() -> None:
    times = BatchTime({1: 0.001, 8: 0.008})
    assert batch_limit(times, 100, 1) == 8
    times.ran(8, 0.008, 0.0)
    assert batch_limit(times, 100, 1) == 16
    times.ran(16, 0.5, 0.1)
    sizes = []
    for now in range(4):
        sizes.append(batch_limit(times, 100, 1))
        times.ran(sizes[-1], 0.001 * sizes[-1], 1.0 + now)
    assert sizes == [1, 2, 4, 8]


@given(alpha=st.floats(1e-4, 1.0), ratio=st.floats(0.0, 50.0), limit=st.integers(1, 64))
def test_the_least_efficient_batch_is_the_smallest_that_is_nearly_as_efficient(
    alpha: float, ratio: float, limit: int
) -> None:
    times = BatchTime({1: alpha * (1 + ratio), 11: alpha * (11 + ratio)})
    least = least_efficient(times, limit)
    assert 1 <= least <= limit

    def efficiency(n: int) -> float:
        return n / times.mean(n)

    assert efficiency(least) >= EFFICIENT * efficiency(limit) * (1 - 1e-9)
    assert least == 1 or efficiency(least - 1) < EFFICIENT * efficiency(limit) * (1 + 1e-9)
