"""Two runs compared: what is judged, what is said beside it, and who is refused."""

from pathlib import Path

import msgspec
import pytest

from penstock_models.errors import UsageError
from penstock_sim.measure.closing import Difference
from penstock_sim.report.compare import Compared, compare
from penstock_sim.report.compare_words import change, closing_lines, verdict
from penstock_sim.run.records import Machine, Recorded, Row, Summary
from tests.fakes.recorded import SCENARIO, mix_second, row, rows, summary


def run(
    made: list[Row], closing: Summary | None = None, scenario: str = SCENARIO, folder: str = "a"
) -> Recorded:
    return Recorded(Path(folder), scenario, tuple(made), (), closing)


def by_name(figures: tuple[Compared, ...]) -> dict[str, Compared]:
    return {f"{one.mix}.{one.figure}": one for one in figures}


def test_a_run_with_itself_is_equal() -> None:
    same = run(rows(60), summary())
    found = compare(same, same)
    assert not found.worse and not found.better and found.same_seconds
    assert {one.verdict for one in found.figures} == {"no difference seen"}
    assert "not seen to differ" in verdict(found)


def test_two_runs_of_one_scenario() -> None:
    found = compare(run(rows(100), summary()), run(rows(100, 2, median_ms=40.0), summary()))
    figures = by_name(found.figures)
    assert found.worse and figures["cam.p50_ms"].verdict == figures["vib.p50_ms"].verdict == "worse"
    assert figures["cam.p50_ms"].difference == pytest.approx(1.0, abs=0.2)
    assert found.a.seconds == 90 and found.block_s == 19 and found.notes == ()
    text = "\n".join(closing_lines(found))
    assert "B is worse" in text and "90 s of A" in text and "cam p50_ms" in text


def test_the_warm_up_is_left_out() -> None:
    slow = [row(n, {"cam": mix_second([500.0] * 20 if n < 10 else [10.0] * 20)}) for n in range(100)]
    fast = [row(n, {"cam": mix_second([10.0] * 20)}) for n in range(100)]
    p99 = by_name(compare(run(fast), run(slow)).figures)["cam.p99_ms"]
    assert p99.verdict == "no difference seen" and p99.b == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize(("count", "refused"), [(0, True), (9, True), (10, False)])
def test_too_short_is_refused(count: int, refused: bool) -> None:
    made = run([row(n, {"cam": mix_second([10.0] * 20)}) for n in range(count)])
    if refused:
        with pytest.raises(UsageError, match=r"a: expected a run of 10 s or more"):
            compare(made, made)
    else:
        assert not compare(made, made).worse


@pytest.mark.parametrize(
    "void",
    [
        run(rows(30), summary(ok=False, on_time=False)),
        run([row(n, {"cam": mix_second([1.0])}, lag_p99_ms=25.0) for n in range(30)]),
    ],
    ids=["by its summary", "cut off, by its rows"],
)
def test_a_void_run_is_refused(void: Recorded) -> None:
    fine = run(rows(30), summary())
    for pair in ((fine, void), (void, fine)):
        with pytest.raises(UsageError, match="came a void one"):
            compare(*pair)


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(UsageError, match="came cam, vib and door"):
        compare(run(rows(30)), run([row(n, {"door": mix_second([1.0])}) for n in range(30)]))


def test_what_makes_runs_unlike_is_said() -> None:
    other = summary(seed=8, machine=Machine("another", 4, 8.0, "3.11.2", "0.2.0"),
                    differences=(Difference("s", "frames lost", 0, 1),), ok=False)  # fmt: skip
    only = [row(n, {"cam": mix_second([1.0] * 5)}) for n in range(50)]
    notes = compare(run(rows(30), summary()), run(only, other, scenario="other")).notes
    assert notes == (
        "the books of B do not close: frames that are in no book are in no figure",
        "the scenarios differ: what differs below may be theirs",
        "seconds: A 30, B 50",
        "seed: A 7, B 8",
        "processor: A a processor, B another",
        "cores: A 2, B 4",
        "penstock: A 0.1.0, B 0.2.0",
        "in one run only, and not compared: vib",
    )
    assert compare(run(rows(30)), run(rows(30))).notes == (
        "A was cut off: what was written of it is compared",
        "B was cut off: what was written of it is compared",
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0, 0, "no difference seen"), (0, 3, "worse"), (3, 0, "better"), (3, 4, "not judged"), (4, 4, "no difference seen"),
        (None, 3, None),
    ],
)  # fmt: skip
def test_a_lost_frame_is_a_fact(a: float | None, b: float | None, expected: str | None) -> None:
    one, two = (summary(figures={"": {}, "cam": {"lost": lost}, "vib": {}}) for lost in (a, b))
    found = compare(run(rows(30), one), run(rows(30), two))
    lost = by_name(found.figures).get("cam.lost")
    assert (lost.verdict if lost is not None else None) == expected
    assert found.worse is (expected == "worse")


def test_answers_to_frames_of_the_warm_up_are_not_more_than_all() -> None:
    """The second after it has the answers of the one before, too."""
    made = [row(n, {"cam": mix_second([10.0] * (40 if n == 10 else 20), sent=20)}) for n in range(100)]
    share = by_name(compare(run(made), run(made)).figures)["cam.answered_share"]
    assert (share.a, share.b, share.verdict) == (1.0, 1.0, "no difference seen")


def test_a_mix_that_was_never_answered_is_not_judged_but_its_share_is() -> None:
    silent = [row(n, {"cam": mix_second([], sent=20)}) for n in range(30)]
    loud = [row(n, {"cam": mix_second([10.0] * 20)}) for n in range(30)]
    figures = by_name(compare(run(loud), run(silent)).figures)
    assert figures["cam.p99_ms"].verdict == "not judged" and figures["cam.p99_ms"].b is None
    assert figures["cam.answered_share"].verdict == "worse"
    assert figures["cam.late_share"].verdict == "not judged"


def test_a_comparison_is_json() -> None:
    found = compare(run(rows(30), summary()), run(rows(30, 2), summary()))
    plain = msgspec.json.decode(msgspec.json.encode(found))
    assert plain["v"] == 1 and plain["worse"] is False
    assert plain["figures"][0]["figure"] == "p50_ms" and isinstance(plain["figures"][0]["p"], float)


def test_words_for_what_cannot_be_seen() -> None:
    """Two answers in half a minute: there is a figure, and nothing to say of it."""
    few = [row(n, {"cam": mix_second([10.0 * (n + 1)] if n in (5, 25) else [], sent=1)}) for n in range(30)]
    other = [row(n, {"cam": mix_second([15.0 * (n + 1)] if n in (7, 20) else [], sent=1)}) for n in range(30)]
    found = compare(run(few), run(other))
    assert not found.worse and not found.better
    assert "too little was measured to see any" in "\n".join(closing_lines(found))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"difference": 0.1, "low": 0.05, "high": 0.15}, "(+10 %, +5 to +15)"),
        ({"difference": 123.4, "low": -0.5, "high": None}, "(+12340 %)"),
        (
            {"kind": "share", "difference": -0.0123, "low": -0.02, "high": -0.001},
            "(-1.23 points, -2 to -0.1)",
        ),
        ({"kind": "count", "difference": 3.0}, "(+3)"),
        ({"kind": "count", "difference": 0.0}, ""),
        ({}, ""),
    ],
)
def test_a_change_in_words(changes: dict[str, object], shown: str) -> None:
    plain = Compared(mix="m", figure="f", kind="ms", a=1.0, b=1.0, verdict="not judged")
    assert change(msgspec.structs.replace(plain, **changes)) == shown
