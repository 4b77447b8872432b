"""The estimator against queueing theory, and what must hold of any simulation."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_models.errors import UsageError
from penstock_sim.plan.figures import figures
from penstock_sim.plan.overflow import Budget, to_cloud
from penstock_sim.plan.simulate import Plan, simulate
from penstock_sim.plan.slots import Delays
from tests.sim.plan_site import device, edge_only, exponential, poisson, report, settled, waits, work

S = 0.010
"""Seconds of service."""


def erlang_c(servers: int, offered: float) -> float:
    """The probability of waiting in M/M/c (Erlang's second formula)."""
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_server_with_constant_service_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    asked = work(poisson(load / S, 15_000))
    outcome = simulate(asked, edge_only(asked, batch=1), device(report("m", S)))
    expected = load * S / (2 * (1 - load))
    assert waits(outcome, S).mean() == pytest.approx(expected, rel=0.1)
    assert (waits(outcome, S) > 1e-9).mean() == pytest.approx(load, abs=0.02)
    assert outcome.tiers["edge"].slots == pytest.approx(load, rel=0.02)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (2, 0.7), (4, 0.8)])
def test_several_servers_with_exponential_service_wait_as_erlang_says(servers: int, load: float) -> None:
    asked = work(poisson(servers * load / S, 25_000, seed=3))
    profile = exponential(device(report("m", S), slots=servers), "m", S)
    outcome = simulate(asked, edge_only(asked, batch=1), profile)
    expected = erlang_c(servers, servers * load) * S / (servers * (1 - load))
    # The quantiles cut the far tail of the exponential off, which the second moment misses.
    assert waits(outcome).mean() - S == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_several_servers_with_constant_service_wait_as_cosmetatos_says(load: float) -> None:
    servers = 2
    asked = work(poisson(servers * load / S, 20_000, seed=4))
    outcome = simulate(asked, edge_only(asked, batch=1), device(report("m", S), slots=servers))
    exponential_wait = erlang_c(servers, servers * load) * S / (servers * (1 - load))
    factor = 1 + (1 - load) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
    assert waits(outcome, S).mean() == pytest.approx(exponential_wait / 2 * factor, rel=0.1)


def test_periodic_arrivals_below_capacity_never_wait() -> None:
    asked = work([n * S * 1.01 for n in range(5000)], streams=1)
    outcome = simulate(asked, edge_only(asked), device(report("m", S)))
    assert waits(outcome, S).max() < 1e-9


def test_batches_carry_what_single_requests_cannot() -> None:
    """Twice what single requests can do, but a batch of two takes little longer than one."""
    profile = device(report("m", S / 20, fixed_s=S * 19 / 20))
    asked = work(poisson(2 / S, 8000), mode="every")
    single = simulate(asked, edge_only(asked, batch=1), profile)
    batched = simulate(asked, edge_only(asked), profile)
    assert waits(single).max() > 10
    assert np.percentile(waits(batched), 99) < 0.1


def test_what_the_way_and_the_event_loop_take_is_added() -> None:
    profile = device(
        report("m", S), before_ms=1, after_ms=2, ingest_ms=3, publish_ms=4, journal_ms=5, cores=2
    )
    times = [float(n) for n in range(20)]
    for mode, expected in (("latest", S + 0.010), ("every", S + 0.015)):
        asked = work(times, mode=mode)
        outcome = simulate(asked, edge_only(asked), profile)
        assert waits(outcome) == pytest.approx([expected] * len(times))


def test_a_way_back_that_varies_delays_answers_and_nothing_else() -> None:
    profile = device(report("m", S), after_ms=1, after_p99_ms=30)
    asked = work([n * S * 1.01 for n in range(20_000)], streams=1)
    outcome = simulate(asked, edge_only(asked), profile)
    assert outcome.ended_s == pytest.approx(asked.times[-1] + S)
    assert np.percentile(waits(outcome, S), [50, 99]) == pytest.approx([0.001, 0.030], rel=0.15)


def test_a_slot_rests_after_each_batch_and_makes_the_next_one_wait() -> None:
    profile = device(report("m", S), hop_ms=5)
    asked = work([0.0, 0.0, 0.0])
    outcome = simulate(asked, edge_only(asked, batch=1), profile)
    assert waits(outcome) == pytest.approx([n * (S + 0.005) for n in (1, 2, 3)])


def test_the_event_loop_takes_longer_the_more_of_the_machine_is_idle() -> None:
    """A frame now and then takes `cold` times as long; where slots are never free, as long as the facts say."""
    profile = device(report("m", S), ingest_ms=1, cold=4, cores=2)
    frames = 5000
    for every_s, cold in ((100 * S, 4.0), (S / 2, 1.0)):
        asked = work([n * every_s for n in range(frames)])
        outcome = simulate(asked, edge_only(asked, batch=1), profile)
        loop_s = outcome.tiers["edge"].loop * max(asked.seconds, outcome.ended_s)
        assert loop_s / frames == pytest.approx(0.001 * cold, rel=0.05)


def test_work_beside_makes_batches_longer_where_no_core_is_free() -> None:
    """A frame that arrives in the middle of a run takes its time from the run, on one core; on two it takes none."""
    for cores, expected in ((1, S + 0.002), (2, S)):
        profile = device(report("m", S), cores=cores, beside_ms=2)
        asked = work([0.0, S / 2], mode="every", streams=2)
        outcome = simulate(asked, edge_only(asked), profile)
        assert waits(outcome)[0] == pytest.approx(expected)


def test_a_loop_that_is_slower_than_the_slots_is_the_bottleneck() -> None:
    profile = device(report("m", 1e-4), ingest_ms=1, slots=4, cores=8)
    asked = work(poisson(2000, 5000), mode="latest")
    outcome = simulate(asked, edge_only(asked), profile)
    assert outcome.tiers["edge"].loop > 0.99
    assert len(waits(outcome)) / outcome.ended_s < 1001


def test_the_newest_frame_of_a_stream_replaces_the_one_that_waits() -> None:
    asked = work([0.0, 0.001, 0.002, 0.003], mode="latest", streams=1)
    outcome = simulate(asked, edge_only(asked), device(report("m", S)))
    assert outcome.mixes["mix0"].fates == {("answered", ""): 2, ("superseded", "newer_frame"): 2}
    assert waits(outcome) == pytest.approx([S, 2 * S - 0.003])


def test_an_overload_with_a_deadline_answers_at_capacity_and_in_time() -> None:
    asked = work(poisson(1.5 / S, 6000), mode="every", deadline_s=0.1)
    outcome = simulate(asked, edge_only(asked), device(report("m", S)))
    mix = outcome.mixes["mix0"]
    assert mix.late == 0
    assert len(mix.latencies) / outcome.ended_s == pytest.approx(1 / S, rel=0.03)
    assert {bucket for bucket, _ in mix.fates} == {"answered", "expired"}


def test_a_full_route_waits_upstream_and_loses_nothing() -> None:
    times = [n * S / 4 for n in range(400)]
    asked = work(times, queue=10)
    outcome = simulate(asked, edge_only(asked), device(report("m", S), journal_ms=1))
    assert outcome.mixes["mix0"].fates == {("answered", ""): 400}


@pytest.mark.parametrize("on_full", ["drop_oldest", "drop_newest"])
def test_a_full_route_that_drops_counts_what_it_dropped(on_full: str) -> None:
    asked = work([n * S / 4 for n in range(400)], queue=10, on_full=on_full)
    outcome = simulate(asked, edge_only(asked), device(report("m", S), journal_ms=1))
    fates = outcome.mixes["mix0"].fates
    assert fates["dropped", "full"] == pytest.approx(300, abs=15)
    assert settled(outcome) == 400


def test_boxes_share_the_devices() -> None:
    asked = work(poisson(1.8 / S, 4000))
    one, two = (simulate(asked, edge_only(asked, boxes=boxes), device(report("m", S))) for boxes in (1, 2))
    assert waits(one).max() > 1
    assert waits(two).mean() < 0.1


def test_a_full_route_holds_what_is_in_the_cloud_too() -> None:
    asked = work([n * 0.001 for n in range(100)], queue=10)
    cloud = device(report("m", S / 100), name="cloud", **CLOUD)
    outcome = simulate(asked, Plan(("m",), ("cloud",), 0, 1, 1), device(report("m", S)), cloud)
    assert settled(outcome) == outcome.mixes["mix0"].offloaded == 100
    assert outcome.ended_s > 9 * 0.040


CLOUD = {"before_ms": 20.0, "after_ms": 20.0, "slots": 4}


@pytest.mark.parametrize(("mode", "journal_s"), [("latest", 0.0), ("every", 0.005)])
def test_a_route_in_the_cloud_takes_the_way_there_and_back(mode: str, journal_s: float) -> None:
    asked = work([float(n) for n in range(10)], mode=mode)
    cloud = device(report("m", S / 10), name="cloud", **CLOUD)
    plan = Plan(("m",), ("cloud",), 0, 1, 1)
    outcome = simulate(asked, plan, device(report("other", S), journal_ms=5), cloud)
    assert waits(outcome) == pytest.approx([0.040 + S / 10 + journal_s] * 10)
    assert outcome.mixes["mix0"].offloaded == 10


def test_a_narrow_link_is_waited_for() -> None:
    asked = work([0.0, 0.0, 0.0], mode="latest")
    cloud = device(report("m", S / 10), name="cloud", **CLOUD, bytes_per_s=10_000)
    outcome = simulate(asked, Plan(("m",), ("cloud",), 0, 1, 1), device(report("m", S)), cloud)
    assert waits(outcome) == pytest.approx([0.141, 0.241, 0.341])


def test_what_the_edge_cannot_do_in_time_overflows() -> None:
    asked = work(poisson(2 / S, 3000), mode="every", deadline_s=0.1)
    edge, cloud = device(report("m", S)), device(report("m", S / 10), name="cloud", **CLOUD)
    alone = simulate(asked, edge_only(asked), edge)
    both = simulate(asked, Plan(("m",), ("overflow",), 0, 1, 1), edge, cloud)
    assert len(alone.mixes["mix0"].latencies) < 0.6 * 3000
    mix = both.mixes["mix0"]
    # A stream that is ahead of its share waits longer than a first-come-first-served queue would have it wait.
    assert len(mix.latencies) - mix.late > 0.88 * 3000
    assert 0.4 < mix.offloaded / 3000 < 0.7
    assert settled(both) == 3000


def test_a_budget_ends_the_overflow() -> None:
    asked = work(poisson(2 / S, 4000), mode="every", deadline_s=0.1)
    edge, cloud = device(report("m", S)), device(report("m", S / 10), name="cloud", **CLOUD)
    plan = Plan(("m",), ("overflow",), 0, 1, 1)
    outcome = simulate(asked, plan, edge, cloud, budget=Budget(100))
    assert outcome.mixes["mix0"].offloaded == 100
    assert settled(outcome) == 4000


@pytest.mark.parametrize(
    ("where", "edge_s", "cloud_s", "expected"),
    [
        ("edge", 9.0, 1.0, False),
        ("cloud", 1.0, 9.0, True),
        ("overflow", 4.0, 1.0, False),  # in time here
        ("overflow", 6.0, 4.0, True),
        ("overflow", 6.0, 5.5, True),  # late in both places, but earlier there
        ("overflow", 6.0, 7.0, False),
    ],
)
def test_where_a_frame_goes(where: str, edge_s: float, cloud_s: float, expected: bool) -> None:
    assert to_cloud(where, edge_s, cloud_s, deadline=5.0) is expected  # type: ignore[arg-type]


def test_a_budget_is_a_new_one_in_each_period() -> None:
    budget = Budget(2, period_s=10.0)
    assert [budget.take(now) for now in (0.0, 1.0, 2.0, 9.9, 10.0, 11.0, 12.0)] == [
        True, True, False, False, True, True, False,
    ]  # fmt: skip


def test_a_cloud_plan_needs_a_cloud() -> None:
    asked = work([0.0])
    with pytest.raises(UsageError, match="profile of the cloud tier"):
        simulate(asked, Plan(("m",), ("cloud",), 0, 1, 1), device(report("m", S)))
    with pytest.raises(UsageError, match="a machine in it"):
        simulate(asked, Plan(("m",), ("cloud",), 0, 1, 0), device(report("m", S)), device(report("m", S)))


def test_the_figures_of_a_simulation() -> None:
    asked = work([0.0, 0.001, 0.002, 1.0], mode="latest", streams=1, deadline_s=0.5)
    profile = device(report("m", S), per_hour=3.0, watts_idle=2.0, watts_busy=10.0)
    plan = edge_only(asked)
    found = figures(simulate(asked, plan, profile), plan, profile, None)[""]
    assert (found["sent"], found["answered"], found["superseded"], found["missed"]) == (4, 3, 1, 0)
    assert found["p50_ms"] == pytest.approx(10.0)
    assert found["max_ms"] == pytest.approx(18.0)
    assert found["cost_per_hour"] == 3.0
    assert found["watts"] == pytest.approx(2 + 8 * 0.03 / 1.01, rel=1e-3)


def test_a_simulation_leaves_no_event_loop_behind() -> None:
    simulate(work([0.0]), edge_only(work([0.0])), device(report("m", S)))
    assert asyncio._get_running_loop() is None


@settings(max_examples=40, deadline=None)
@given(
    gaps=st.lists(st.floats(0, 0.05), min_size=1, max_size=120),
    mode=st.sampled_from(["latest", "every"]),
    slots=st.integers(1, 3),
    streams=st.integers(1, 6),
    deadline_s=st.sampled_from([0.02, 0.05, 1.0]),
    routes=st.integers(1, 2),
    boxes=st.integers(1, 2),
    batch=st.sampled_from([0, 1, 3]),
    where=st.sampled_from(["edge", "overflow", "cloud"]),
    loop_ms=st.sampled_from([0.0, 1.0, 8.0]),
)
def test_every_frame_has_one_fate_and_no_answer_is_faster_than_its_parts(
    gaps: list[float],
    mode: str,
    slots: int,
    streams: int,
    deadline_s: float,
    routes: int,
    boxes: int,
    batch: int,
    where: str,
    loop_ms: float,
) -> None:
    models = ["m", "n"][:routes]
    asked = work(list(np.cumsum(gaps)), mode=mode, streams=streams, deadline_s=deadline_s, models=models)
    reports = [report("m", 0.012, fixed_s=0.003), report("n", 0.004)]
    edge = device(*reports, slots=slots, ingest_ms=loop_ms, publish_ms=loop_ms, journal_ms=2)
    cloud = device(*reports, name="cloud", slots=2, before_ms=5, after_ms=5)
    plan = Plan(tuple(models), (where,) * routes, batch, boxes, 0 if where == "edge" else 2)  # type: ignore[arg-type]
    outcome = simulate(asked, plan, edge, cloud)
    for mix in outcome.mixes.values():
        assert sum(mix.fates.values()) == mix.sent
        assert mix.fates["answered", ""] == len(mix.latencies)
    assert settled(outcome) == len(gaps)
    least = 0.004 + 2 * loop_ms / 1e3
    assert all(latency > least - 1e-9 for mix in outcome.mixes.values() for latency in mix.latencies)
    assert 0 <= outcome.tiers["edge"].slots <= 1 + 1e-9


@settings(max_examples=25, deadline=None)
@given(load=st.floats(0.2, 1.6), seed=st.integers(0, 1000), slots=st.integers(1, 3))
def test_more_slots_are_never_worse(load: float, seed: int, slots: int) -> None:
    asked = work(poisson(slots * load / S, 600, seed))
    few, more = (
        simulate(asked, edge_only(asked, batch=1), device(report("m", S), slots=count))
        for count in (slots, slots + 1)
    )
    assert waits(more).sum() <= waits(few).sum() + 1e-9
    assert more.ended_s <= few.ended_s + 1e-9


@settings(max_examples=25, deadline=None)
@given(load=st.floats(0.2, 2.0), seed=st.integers(0, 1000))
def test_a_server_with_work_is_never_idle(load: float, seed: int) -> None:
    """Work conservation: all is done as early as by any first-come-first-served server of this speed (Lindley)."""
    times = poisson(load / S, 400, seed)
    free = 0.0
    for moment in times:
        free = max(free, moment) + S
    asked = work(times)
    assert simulate(asked, edge_only(asked), device(report("m", S))).ended_s == pytest.approx(free)


def test_the_same_seed_gives_the_same_answers() -> None:
    asked = work(poisson(70, 500))
    profile = exponential(device(report("m", S)), "m", S)
    one, again, other = (simulate(asked, edge_only(asked, batch=1), profile, seed=seed) for seed in (1, 1, 2))
    assert list(waits(one)) == list(waits(again)) != list(waits(other))


def test_delays_have_the_median_and_the_tail_that_the_facts_say() -> None:
    delays = Delays(4.0, 20.0, seed="1")
    taken = [delays.take() for _ in range(20_000)]
    assert np.percentile(taken, 50) == pytest.approx(0.004, rel=0.05)
    assert np.percentile(taken, 99) == pytest.approx(0.020, rel=0.1)
    assert {Delays(4.0, 0.0, seed="1").take() for _ in range(5)} == {0.004}
    assert Delays(0.0, 0.0, seed="1").take() == 0.0
