"""The figures of streams together, the histograms that they come from, and seconds of several workers made one."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings

from penstock_sim.load.track import StreamReport
from penstock_sim.measure import figures
from penstock_sim.measure.accuracy import Score
from penstock_sim.measure.closing import Heard
from penstock_sim.measure.window import MixSecond, Window, new_histogram
from penstock_sim.run import merge, wire

NONE: dict[str, float | None] = {"p50": None, "p95": None, "p99": None, "max": None}


def report(sent: int = 0, **keys: Any) -> StreamReport:
    values: dict[str, Any] = dict.fromkeys(("results", "answered", "unanswered", "repeated", "unmatched"), 0)
    return StreamReport(**{"sent": sent, "fates": {}, "latency_ms": NONE, **values, **keys})


def second(latencies_ms: Sequence[float], sent: int = 0, deadline_ms: float | None = None) -> MixSecond:
    window = Window()
    for value in latencies_ms:
        window.result("ok", True, value, deadline_ms)
    return window.cut(sent)


def test_figures_of_streams_are_sums_and_shares() -> None:
    streams = {
        "cam/a": report(100, answered=90, results=95, late=9, repeated=1, stale_ms=NONE | {"p99": 40.0}),
        "cam/b": report(
            20, answered=18, results=18, disordered=2, score=Score(9, right=3, false=1, missed=3)
        ),
        "cam/c": report(0, stale_ms=NONE, score=Score(1, right=3)),
    }
    book = dict(figures.EMPTY) | {"received": 100, "answered": 88, "dropped": 2, "duplicate": 4}
    found = figures.of_streams(streams, {"cam/a": book}, new_histogram(), 10.0)
    expected = {
        "sent": 120, "results": 113, "answered": 108, "answered_share": 0.9, "late": 9, "late_share": 9 / 108,
        "goodput_per_s": 9.9, "repeated": 1, "disordered": 2, "stale_p99_ms": 40.0, "precision": 6 / 7,
        "recall": 6 / 9, "received": 100, "dropped": 2, "duplicate": 4, "lost": 24, "p99_ms": None, "max_ms": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=False)
    assert set(found) == set(figures.NAMES) - set(figures.OF_RUN)


def test_what_cannot_be_measured_is_nothing_and_not_zero() -> None:
    found = figures.of_streams({"cam/a": report()}, None, new_histogram(), 0.0)
    for name in (
        "answered_share",
        "late_share",
        "goodput_per_s",
        "stale_p99_ms",
        "precision",
        "recall",
        "p50_ms",
    ):
        assert found[name] is None, name
    assert "lost" not in found and found["sent"] == 0


def test_a_ledger_alone_says_what_was_lost() -> None:
    found = figures.of_ledger(
        Heard(10, {}), dict(figures.EMPTY) | {"received": 9, "duplicate": 2, "carried": 1}
    )
    assert (found["lost"], found["received"], found["duplicate"]) == (4, 9, 2)


@settings(max_examples=30)
@example([1.0] * 10 + [2.0])
@given(values=st.lists(st.floats(0.001, 60_000.0), min_size=1, max_size=300))
def test_percentiles_are_within_a_thousandth(values: list[float]) -> None:
    found = figures.latencies(merge.histogram([second(values).latency]))
    for name, percent in figures.PERCENTILES.items():
        exact = float(np.percentile(values, percent, method="inverted_cdf"))
        assert found[name] == pytest.approx(exact, rel=0.0011, abs=0.0011), name
    assert found["max_ms"] == pytest.approx(max(values), rel=0.0011, abs=0.0011)


@settings(max_examples=15)
@given(parts=st.lists(st.lists(st.floats(0.0, 1e7), max_size=40), min_size=1, max_size=6))
def test_merged_histograms_equal_the_whole(parts: list[list[float]]) -> None:
    whole = merge.histogram([second([value for part in parts for value in part]).latency])
    seconds = merge.mix(second(part) for part in parts)
    merged = merge.histogram([merge.mix([seconds]).latency])
    assert seconds.answered == merged.get_total_count() == whole.get_total_count()
    assert figures.latencies(merged) == figures.latencies(whole)
    assert (merged.get_min_value(), merged.get_mean_value()) == (
        whole.get_min_value(),
        whole.get_mean_value(),
    )


def test_a_window_begins_anew_after_each_cut() -> None:
    window = Window()
    for latency_ms in (50.0, 150.0):
        window.result("ok", True, latency_ms, 100.0)
    window.result("degraded: stale", True, 1e9, None)
    window.result("expired: in_queue", False, 500.0, 100.0)
    first = window.cut(7)
    fates = {"ok": 2, "degraded: stale": 1, "expired: in_queue": 1}
    assert (first.sent, first.answered, first.late, first.fates) == (7, 3, 1, fates)
    histogram = merge.histogram([first.latency])
    assert histogram.get_total_count() == 3
    assert histogram.get_max_value() == pytest.approx(3_600_000_000, rel=0.001)  # an hour is the longest
    window.result("ok", True, 2.0, None)
    assert figures.latencies(merge.histogram([window.cut(0).latency]))["max_ms"] == pytest.approx(
        2.0, rel=0.001
    )
    assert window.cut(1) == MixSecond(1, 0, 0, {}, "")


WORKERS = (
    wire.Second(4, {"cam": second([10.0, 20.0], 3, 15.0), "vib": second([], 1)}, 5, 1, 0, 2.5, 250, 40),
    wire.Second(4, {"cam": second([30.0], 2, 15.0), "vib": second([], 0)}, 6, 0, 2, 1.5, 500, 60),
)


def test_the_same_second_of_all_workers_is_one() -> None:
    one = merge.seconds(WORKERS)
    assert (one.number, one.connected, one.held, one.unsent, one.lag_p99_ms) == (4, 11, 1, 2, 2.5)
    assert (one.bytes_received, one.bytes_sent) == (750, 100)
    assert (one.mixes["cam"].sent, one.mixes["cam"].answered, one.mixes["cam"].late) == (5, 3, 2)
    assert one.mixes["cam"].fates == {"ok": 3}
    assert one.mixes["vib"] == MixSecond(1, 0, 0, {}, "")
    assert merge.seconds(WORKERS[1:]) == WORKERS[1]


def done(**keys: Any) -> wire.Done:
    values: dict[str, Any] = {
        "streams": {}, "unsent": {}, "lag_ms": NONE, "sent_lag_ms": NONE, "lost_connections": {}, "refused": 0,
        "foreign": 0, "undecodable": 0, "stopped": False, "behind": 0,
    }  # fmt: skip
    return wire.Done(**values | keys)


def test_the_books_of_all_workers_are_one_and_the_worst_speaks_for_the_lag() -> None:
    one = done(
        streams={"cam": {"cam-0/a": report(3)}, "vib": {}}, unsent={"end": 2, "stale": 1},
        lag_ms=NONE | {"p99": 4.0}, sent_lag_ms=NONE | {"p99": 900.0}, refused=1, behind=4, offset_ms=(-5.0, 9.0),
        lost_connections={"reboot": 1},
    )  # fmt: skip
    other = done(
        streams={"cam": {"cam-1/a": report(4)}, "vib": {"vib-0/v": report(5)}}, unsent={"end": 1},
        lag_ms=NONE | {"p99": 12.0}, foreign=2, undecodable=3, stopped=True, behind=1, offset_ms=(-1.0, 20.0),
        lost_connections={"reboot": 2},
    )  # fmt: skip
    for found in (merge.done([one, other]), merge.done([other, one])):
        assert {mix: set(streams) for mix, streams in found.streams.items()} == {
            "cam": {"cam-0/a", "cam-1/a"}, "vib": {"vib-0/v"},
        }  # fmt: skip
        assert (found.unsent, found.lost_connections) == ({"end": 3, "stale": 1}, {"reboot": 3})
        assert (found.lag_ms["p99"], found.sent_lag_ms["p99"]) == (12.0, 900.0)
        assert (found.refused, found.foreign, found.undecodable, found.stopped) == (1, 2, 3, True)
        assert found.behind == 5
        assert found.offset_ms == (-1.0, 9.0)


@pytest.mark.parametrize(
    ("bounds", "together"),
    [([None, None], None), ([(1.0, 2.0), None], (1.0, 2.0)), ([(1.0, 2.0), (5.0, 6.0)], (5.0, 6.0))],
)
def test_clock_bounds_hold_together_as_far_as_they_do(bounds: list[Any], together: Any) -> None:
    assert merge.done([done(offset_ms=one) for one in bounds]).offset_ms == together


@settings(max_examples=10)
@given(numbers=st.permutations(range(6)))
def test_the_order_of_the_workers_does_not_matter(numbers: list[int]) -> None:
    workers = [
        msgspec.structs.replace(WORKERS[n % 2], held=n, mixes={"cam": second([float(n + 1)], n)})
        for n in numbers
    ]
    one = merge.seconds(workers)
    assert (one.held, one.mixes["cam"].sent) == (15, 15)
    assert figures.latencies(merge.histogram([one.mixes["cam"].latency]))["max_ms"] == pytest.approx(
        6, rel=0.001
    )
