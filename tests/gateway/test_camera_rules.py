"""The rules that keep a camera's pictures fresh: ages, silence, back-off, and which picture goes out when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.camera.freshness import MAX_AGE_S, Silence, SourceClock
from penstock_gateway.camera.pacer import Pacer, Send, Wait
from penstock_gateway.camera.pictures import Picture


def picture(number: int, captured: float) -> Picture:
    return Picture(captured, b"x", number=number)


class TestSourceClock:
    @pytest.mark.parametrize(
        ("arrivals", "lags"),
        [
            ([(10.0, 0.0), (10.2, 0.2), (10.4, 0.4)], [0.0, 0.0, 0.0]),
            ([(10.0, 0.0), (13.0, 0.2), (13.0, 0.4), (13.0, 2.9)], [0.0, 2.8, 2.6, 0.1]),
            ([(10.0, 0.0), (10.5, 1.0), (11.5, 2.0)], [0.0, 0.0, 0.0]),
            ([(10.0, 7.0), (10.2, 7.0), (10.4, 7.0)], [0.0, 0.0, 0.0]),
        ],
        ids=["steady", "a stall, then all at once", "the first was late", "stamps that stand still"],
    )
    def test_a_lag_is_what_the_stamp_says_beyond_the_fastest(
        self, arrivals: list[tuple[float, float]], lags: list[float]
    ) -> None:
        clock = SourceClock()
        found = [clock.lag_s(now, stamp) for now, stamp in arrivals]
        assert found == pytest.approx(lags, abs=0.01)

    def test_what_was_gathered_while_it_opened_is_not_dated(self) -> None:
        """Twenty pictures of a camera of 5 fps lie ready when FFmpeg has opened it: four seconds of them."""
        clock = SourceClock(buffered=True)
        burst = [clock.lag_s(100.0 + n / 1000, n / 5) for n in range(20)]
        assert burst == [None] * 20
        then = [clock.lag_s(100.0 + n / 5, 3.8 + n / 5) for n in range(1, 5)]
        assert then == pytest.approx([0.0] * 4, abs=0.01)

    def test_a_camera_whose_clock_is_slow_is_not_called_late(self) -> None:
        clock = SourceClock()
        hours = [clock.lag_s(n * 1.0, n * (1 - 100e-6)) for n in range(4 * 3600)]
        assert max(lag for lag in hours if lag is not None) < 0.01


class TestSilence:
    @pytest.mark.parametrize(
        ("fps", "limit_s"), [(25, 1.5), (5, 1.5), (1, 3.0), (0.5, 6.0), (0.1, 10.0), (None, 10.0)]
    )
    def test_the_limit_follows_the_usual_interval(self, fps: float | None, limit_s: float) -> None:
        silence = Silence(0.0)
        for n in range(20 if fps else 1):
            silence.heard(n / fps if fps else 0.0)
        assert silence.limit_s == pytest.approx(limit_s)
        assert silence.left_s(19 / fps + 1.0 if fps else 1.0) == pytest.approx(limit_s - 1.0)

    def test_a_fast_camera_is_given_up_before_two_seconds_have_gathered(self) -> None:
        assert Silence.LEAST_S < MAX_AGE_S


class TestPacer:
    def test_the_newest_goes_out_at_the_beat_and_the_others_are_counted(self) -> None:
        """A camera of 25 fps at 5 fps: every fifth picture, none waits."""
        pacer, sent = Pacer(5.0), []
        for number in range(100):
            step = pacer.decide(number / 25, picture(number, number / 25), ready=True)
            if isinstance(step, Send):
                sent.append(step.picture.number)
        pacer.close(picture(99, 0.0))
        assert sent == list(range(0, 100, 5))
        assert (pacer.sent, pacer.skipped, pacer.captured) == (20, 80, 100)

    def test_without_a_beat_every_picture_goes_out(self) -> None:
        pacer = Pacer(None)
        assert all(isinstance(pacer.decide(n / 25, picture(n, n / 25), ready=True), Send) for n in range(50))

    def test_a_picture_waits_for_its_beat_and_gives_way_to_a_newer_one(self) -> None:
        pacer = Pacer(5.0)
        assert isinstance(pacer.decide(0.0, picture(0, 0.0), ready=True), Send)
        wait = pacer.decide(0.15, picture(1, 0.15), ready=True)
        assert isinstance(wait, Wait) and wait.seconds == pytest.approx(0.05)
        step = pacer.decide(0.2, picture(2, 0.19), ready=True)
        assert isinstance(step, Send) and step.picture.number == 2
        assert pacer.skipped == 1

    def test_jitter_does_not_thin_out_a_camera_at_its_own_rate(self) -> None:
        pacer, sent = Pacer(5.0), 0
        for number in range(100):
            now = number / 5 + (0.06 if number % 2 else 0.0)
            step = pacer.decide(now, picture(number, now), ready=True)
            while isinstance(step, Wait) and step.seconds:
                now += step.seconds
                step = pacer.decide(now, picture(number, now), ready=True)
            sent += isinstance(step, Send)
        assert sent == 100

    @pytest.mark.parametrize("ready", [True, False])
    def test_an_old_picture_is_never_sent(self, ready: bool) -> None:
        pacer = Pacer(5.0)
        assert pacer.decide(10.0, picture(0, 10.0 - MAX_AGE_S - 0.001), ready) == Wait()
        assert (pacer.sent, pacer.stale) == (0, 1)
        assert pacer.decide(10.0, picture(0, 7.0), True) == Wait()
        assert pacer.stale == 1

    def test_a_busy_broker_gets_the_newest_when_it_is_free(self) -> None:
        pacer = Pacer(None)
        for n in range(10):
            assert isinstance(pacer.decide(n / 10, picture(n, n / 10), ready=False), Wait)
        step = pacer.decide(0.95, picture(9, 0.9), ready=True)
        assert isinstance(step, Send) and step.picture.number == 9
        assert pacer.skipped == 9

    def test_a_picture_that_was_not_sent_after_all_is_counted_as_what_it_is(self) -> None:
        pacer = Pacer(None)
        pacer.decide(0.0, picture(0, 0.0), ready=True)
        pacer.undo(stale=True)
        pacer.decide(0.1, picture(1, 0.1), ready=True)
        pacer.undo(stale=False)
        assert (pacer.sent, pacer.stale, pacer.failed, pacer.captured) == (0, 1, 1, 2)

    @given(
        steps=st.lists(
            st.tuples(st.floats(0.0, 1.5), st.integers(0, 3), st.booleans(), st.floats(0.0, 3.0)),
            max_size=60,
        ),
        fps=st.sampled_from([None, 0.5, 5.0, 30.0]),
    )
    def test_the_books_close_and_nothing_old_goes_out_whatever_happens(
        self, steps: list[tuple[float, int, bool, float]], fps: float | None
    ) -> None:
        pacer, now, number, newest = Pacer(fps), 0.0, -1, None
        sent: list[tuple[float, Picture]] = []
        for wait_s, pictures, ready, age_s in steps:
            now += wait_s
            number += pictures
            newest = picture(number, now - age_s) if number >= 0 and pictures else newest
            step = pacer.decide(now, newest, ready)
            if isinstance(step, Send):
                assert ready
                sent.append((now, step.picture))
        pacer.close(newest)
        assert pacer.captured == number + 1
        assert all(at - one.captured <= MAX_AGE_S for at, one in sent)
        assert [one.number for _, one in sent] == sorted({one.number for _, one in sent})
        if fps and len(sent) > 1:
            assert len(sent) - 1 <= (sent[-1][0] - sent[0][0]) * fps + 1
