"""Results find their frames, and every result is counted in exactly one place."""

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from penstock_sim.load.clock import ClockOffset
from penstock_sim.load.histogram import Histogram
from penstock_sim.load.track import StreamTrack
from penstock_sim.load.tracker import Tracker


def track(sent: int = 3, stamped: bool = True, rate_hz: float = 1.0) -> StreamTrack:
    """A stream that sent frame n at n seconds, and at epoch 1000·n ms."""
    books = StreamTrack("door", "cam", "b1", rate_hz, stamped)
    for number in range(sent):
        books.record(float(number), number * 1000)
    return books


def result(seq: int | None, status: str = "ok", boot: str | None = "b1", **more: object) -> bytes:
    keys = {"v": 1, "device": "door", "stream": "cam", "seq": seq, "boot": boot, "status": status, **more}
    return msgspec.json.encode(keys)


def test_latency_counts_from_the_intended_time() -> None:
    books = track()
    Tracker([books]).result(result(1), 1.25, 1250.0)
    report = books.report()
    assert (report.sent, report.results, report.unanswered) == (3, 1, 2)
    assert report.latency_ms["p50"] == pytest.approx(250.0, rel=0.01)
    assert books.last == (1, result(1))


def test_a_result_without_an_answer_is_a_fate_but_not_the_last_answer() -> None:
    books = track()
    tracker = Tracker([books])
    tracker.result(result(0, "expired", reason="in_queue"), 0.5, 500.0)
    assert (books.report().fates, books.last, tracker.outstanding) == ({"expired: in_queue": 1}, None, 2)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (result(0, boot="b0"), "foreign"),
        (result(0).replace(b"door", b"gate"), "foreign"),
        (b"{]", "undecodable"),
        (b'{"device": "door"}', "undecodable"),
        (result(3), "unmatched"),
        (result(None), "unmatched"),
        (result(-1), "unmatched"),
    ],
)
def test_what_matches_nothing_is_counted_by_its_kind(body: bytes, where: str) -> None:
    books = track()
    tracker = Tracker([books])
    tracker.result(body, 5.0, 5000.0)
    counts = {"foreign": tracker.foreign, "undecodable": tracker.undecodable, "unmatched": books.unmatched}
    assert counts == {name: int(name == where) for name in counts}
    assert tracker.outstanding == 3


def test_a_second_result_is_repeated() -> None:
    books = track()
    tracker = Tracker([books])
    for _ in range(3):
        tracker.result(result(2), 5.0, 5000.0)
    assert (books.matched, books.repeated) == (1, 2)


def test_a_frame_sent_too_long_ago_cannot_be_matched() -> None:
    books = track(sent=100)
    tracker = Tracker([books])
    tracker.result(result(35), 200.0, 200000.0)
    tracker.result(result(36), 200.0, 200000.0)
    assert (books.unmatched, books.matched) == (1, 1)


@pytest.mark.parametrize(("arrived", "seq"), [(1003, 1), (1000, 1), (999, 0), (9000, 2), (-5, None)])
def test_an_unstamped_frame_is_the_newest_before_the_arrival(arrived: int, seq: int | None) -> None:
    books = track(stamped=False)
    Tracker([books]).result(result(None, boot=None, arrived=arrived), 9.5, 9500.0)
    assert (books.last[0] if books.last else None) == seq


def test_two_frames_before_one_arrival_are_both_found() -> None:
    books = track(stamped=False)
    tracker = Tracker([books])
    for _ in range(3):
        tracker.result(result(None, boot=None, arrived=1500), 9.5, 9500.0)
    assert (books.matched, books.repeated, books.sent - books.matched) == (2, 1, 1)


def test_a_clock_that_is_ahead_is_known_from_stamped_results() -> None:
    stamped, other = track(), StreamTrack("gate", "cam", "b1", 1.0, stamped=False)
    for number in range(3):
        other.record(float(number), number * 1000)
    tracker = Tracker([stamped, other])
    tracker.result(result(0, arrived=60_020), 0.05, 50.0)
    tracker.result(result(None, boot=None, arrived=61_020).replace(b"door", b"gate"), 1.1, 1100.0)
    assert tracker.offset.bounds_ms == pytest.approx((59_970, 60_021))
    assert (other.matched, other.last and other.last[0]) == (1, 1)


def test_a_result_that_names_no_frame_is_of_the_oldest_frame_without_a_stamp() -> None:
    books = track(sent=2)
    for number in (2, 3):
        books.record(float(number), number * 1000, stamped=False)
    tracker = Tracker([books])
    for _ in range(3):
        tracker.result(result(None, "rejected", boot=None, reason="schema"), 4.0, 4000.0)
    tracker.result(result(1), 4.0, 4000.0)
    report = books.report()
    assert (report.fates, report.unmatched, report.unanswered) == ({"rejected: schema": 2, "ok": 1}, 1, 1)


def test_answers_after_the_deadline_or_after_a_newer_one_are_counted() -> None:
    books = StreamTrack("door", "cam", "b1", 1.0, deadline_ms=200)
    for number in range(4):
        books.record(float(number), number * 1000)
    tracker = Tracker([books])
    for seq, now_s in ((0, 0.1), (2, 2.3), (1, 2.4), (3, 4.0)):
        tracker.result(result(seq, arrived=seq * 1000), now_s, now_s * 1000)
    report = books.report()
    assert (report.late, report.surely_late, report.disordered) == (3, 2, 1)


def test_a_correction_is_no_second_result() -> None:
    books = track()
    tracker = Tracker([books])
    tracker.result(result(0), 0.5, 500.0)
    tracker.result(result(0, correction_of="r1"), 0.9, 900.0)
    report = books.report()
    assert (report.corrections, report.repeated, report.answered) == (1, 0, 1)


def test_staleness_is_the_age_of_what_was_known_when_the_next_came() -> None:
    books = track()
    tracker = Tracker([books])
    tracker.result(result(0), 0.1, 100.0)
    tracker.result(result(2), 2.1, 2100.0)
    assert books.report().stale_ms["max"] == pytest.approx(2100.0)


@given(
    ahead_ms=st.integers(-10_000, 10_000),
    ways=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=1),
)
def test_the_bounds_of_a_clock_hold_the_truth(ahead_ms: int, ways: list[tuple[int, int]]) -> None:
    offset = ClockOffset()
    for number, (there, back) in enumerate(ways):
        sent = number * 100
        offset.see(sent + there + ahead_ms, sent + there + back, sent)
    assert offset.bounds_ms is not None
    least, most = offset.bounds_ms
    assert least <= ahead_ms <= most
    assert most - least == min(there for there, _ in ways) + min(back for _, back in ways) + 1


def test_a_clock_that_moved_is_followed() -> None:
    offset = ClockOffset()
    offset.see(1010, 1020, 1000)
    offset.see(9010, 2020, 2000)
    assert offset.ms == pytest.approx(6990)


@given(seqs=st.lists(st.integers(-2, 12), max_size=40))
def test_every_result_is_counted_once(seqs: list[int]) -> None:
    books = track(sent=10)
    tracker = Tracker([books])
    for seq in seqs:
        tracker.result(result(seq), 20.0, 20000.0)
    report = books.report()
    assert report.results == len(seqs) == books.matched + report.repeated + report.unmatched
    assert report.unanswered == 10 - len({seq for seq in seqs if 0 <= seq < 10})


@given(values=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), percent=st.integers(1, 100))
def test_percentiles_are_within_one_percent(values: list[float], percent: int) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]
    assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0101)


def test_merged_histograms_equal_one() -> None:
    one, left, right = Histogram(), Histogram(), Histogram()
    for number in range(1, 100):
        one.add(number)
        (left if number % 3 else right).add(number)
    left.merge(right)
    assert left.summary() == one.summary()
    assert Histogram().summary() == {"p50": None, "p95": None, "p99": None, "max": None}
