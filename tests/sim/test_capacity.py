"""The rules of a capacity search: which level comes next, what is unsteady, what was full."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from penstock_models.errors import UsageError
from penstock_sim.capacity import limit
from penstock_sim.capacity.probe import WARM_S, Wanted, at_level, measured
from penstock_sim.capacity.search import TRIES, Hold, Search
from penstock_sim.capacity.steady import unsteady
from penstock_sim.measure.window import MixSecond, new_histogram
from penstock_sim.run.records import Row
from penstock_sim.run.sampler import GatewaySample, ProcessSample
from penstock_sim.scenario.library import find

# --- which level comes next ----------------------------------------------------------------------------------------


def searched(carries: int, first: int = 1, most: int = 1000) -> tuple[Search, list[int]]:
    """A search on a gateway that carries exactly so many devices."""
    search, asked = Search(first, most), []
    while search.level is not None:
        asked.append(search.level)
        search.tell(search.level <= carries)
    return search, asked


def test_levels_double_and_then_halve_the_gap() -> None:
    search, asked = searched(11)
    assert asked == [1, 2, 4, 8, 16, 16, 12, 12, 10, 11]
    assert (search.passed, search.failed) == (11, 12)


@given(carries=st.integers(0, 1500), first=st.integers(1, 50), most=st.integers(1, 1000))
def test_the_found_level_is_within_the_tolerance(carries: int, first: int, most: int) -> None:
    search, asked = searched(carries, first, most)
    true = min(carries, most)
    assert search.passed <= true
    if search.failed is None:
        assert search.passed == most <= carries
    else:
        assert search.failed > true
        assert search.failed - search.passed <= max(1, 0.05 * search.failed)
    assert max(asked) <= most and len(asked) < 40


def test_one_failure_is_asked_again_before_it_counts() -> None:
    search = Search(4, 4)
    search.tell(False)
    assert search.level == 4 and TRIES == 2
    search.tell(True)
    assert search.passed == 4


@pytest.mark.parametrize(
    ("carries", "held", "asked"),
    [(100, 100, [100]), (95, 90, [100, 90]), (85, 81, [100, 90, 81]), (50, None, [100, 90, 81])],
)
def test_what_does_not_hold_is_tried_with_less(carries: int, held: int | None, asked: list[int]) -> None:
    hold, tried = Hold(100), []
    while hold.level is not None:
        tried.append(hold.level)
        hold.tell(hold.level <= carries)
    assert (hold.held, tried) == (held, asked)


def test_nothing_can_be_held_where_nothing_passed() -> None:
    hold = Hold(1)
    hold.tell(False)
    assert (hold.level, hold.held) == (None, None)
    with pytest.raises(ValueError, match="passed"):
        Hold(0)


# --- what is unsteady, and what was full ---------------------------------------------------------------------------


def second(
    number: int = 0,
    took_ms: float = 50.0,
    sent: int = 100,
    answered: int = 100,
    late: int = 0,
    gateway: GatewaySample | None = None,
    **cpu: float,
) -> Row:
    histogram = new_histogram()
    for _ in range(answered):
        histogram.record_value(int(took_ms * 1000))
    mix = MixSecond(sent, answered, late, {"ok": answered}, histogram.encode().decode())
    processes = {name: ProcessSample(cores, 100.0) for name, cores in cpu.items()}
    return Row(
        second=number, mixes={"cam": mix}, connected=1, held=0, unsent=0, lag_p99_ms=1.0, processes=processes,
        gateway=gateway,
    )  # fmt: skip


def sample(**keys: float | int) -> GatewaySample:
    return GatewaySample(**({"received": 0, "in_flight": 0, "waiting": 0, "cores": 2} | keys))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        ({}, {}, []),
        ({"took_ms": 50.0}, {"took_ms": 60.0}, []),
        ({"took_ms": 50.0}, {"took_ms": 70.0}, ["drift: p99 rose from 50.0 to 70"]),
        ({"took_ms": 5.0}, {"took_ms": 9.0}, []),
        (
            {"gateway": sample(rss_mb=150)},
            {"gateway": sample(rss_mb=180)},
            ["memory rose from 150 to 180 MB"],
        ),
        ({"gateway": sample(rss_mb=50)}, {"gateway": sample(rss_mb=60)}, []),
        (
            {"gateway": sample(in_flight=5)},
            {"gateway": sample(in_flight=90)},
            ["in flight rose from 5 to 90"],
        ),
        ({"gateway": sample(in_flight=5)}, {"gateway": sample(in_flight=40)}, []),
        (
            {"gateway": sample(frequency_ratio=1.0)},
            {"gateway": sample(frequency_ratio=0.6, celsius=85.0)},
            ["cores fell from 100% to 60% of their highest frequency, 85 °C at most"],
        ),
        ({}, {"gateway": sample(throttled=2)}, ["hot cores were slowed down 8 times"]),
    ],
)
def test_what_moves_while_a_load_is_held(first: dict, last: dict, words: list[str]) -> None:  # type: ignore[type-arg]
    rows = [*(second(n, **first) for n in range(8)), *(second(n, **last) for n in range(8, 12))]
    found = unsteady(rows, "cam")
    assert len(found) == len(words)
    assert all(expected in came for expected, came in zip(words, found))


def test_moments_say_nothing() -> None:
    assert unsteady([second(n, took_ms=10.0 * 2**n) for n in range(8)], "cam") == []


@pytest.mark.parametrize(
    ("row", "on_time", "part"),
    [
        (second(gateway=sample(), gateway_cpu=1.8), True, "gateway"),
        (second(gateway=sample(), gateway_cpu=1.2, broker=0.2, generator=0.4), False, "machine"),
        (second(gateway=sample(), gateway_cpu=0.4, broker=0.95, generator=0.3), True, "broker"),
        (second(gateway=sample(), gateway_cpu=0.4, broker=0.1, generator=0.9), False, "generator"),
        (second(gateway=sample(cpu=1.9)), True, "gateway"),
        (second(gateway=sample(cpu=1.0, waiting=40)), True, "model"),
        (second(gateway=sample(cpu=1.0)), True, "deadline"),
        (second(), False, "generator"),
    ],
)
def test_what_was_full(row: Row, on_time: bool, part: str) -> None:
    if "gateway_cpu" in row.processes:
        own = dict(row.processes)
        own["gateway"] = own.pop("gateway_cpu")
        row = Row(**{name: getattr(row, name) for name in row.__struct_fields__} | {"processes": own})
    found = limit.first([row] * 4, on_time)
    assert found.part == part


# --- a level -------------------------------------------------------------------------------------------------------


def test_a_level_has_so_many_devices_with_the_deadline_and_leaves_the_others() -> None:
    loaded = at_level(find("capacity"), Wanted("cam", 123, 0.01), devices=17, seconds=5)
    cam, vib = loaded.scenario.device
    assert (cam.count, cam.stream[0].deadline_ms) == (17, 123)
    assert (vib.count, vib.stream[0].deadline_ms) == (4, 1000)
    assert loaded.load.seconds == 5 + WARM_S


def test_a_route_that_no_devices_have_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"--route to name devices of the scenario \(cam, vib\), came 'door'"
    ):
        at_level(find("capacity"), Wanted("door", 123, 0.01), 1, 1)


def test_missed_is_what_has_no_answer_in_time() -> None:
    figures = measured([second(sent=100, answered=95, late=5), second(sent=100, answered=100)], "cam")
    assert figures["missed"] == pytest.approx(0.05)
    assert figures["sent"] == 200
    assert figures["p50_ms"] == pytest.approx(50.0, rel=0.002)
    assert measured([second(sent=0, answered=0)], "cam")["missed"] is None


def test_what_is_read_of_a_scenario_without_its_file_stays(tmp_path: Path) -> None:
    loaded = find("capacity")
    assert at_level(loaded, Wanted("vib", 50, 0.0), 2, 1).folder == loaded.folder
