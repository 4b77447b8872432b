"""The page about speed prints the very script that is measured, and a figure is what its slices can carry."""

from typing import Any

import pytest

from tests.bench.latency import Slices, take
from tests.bench.publish import PAGE, script_block
from tests.bench.report import figure, lateness
from tests.bench.site import TRIES, timely, unexplained


def test_the_page_prints_the_script_that_is_measured() -> None:
    assert script_block() in PAGE.read_text(), "run `python -m tests.bench.publish`"


@pytest.mark.parametrize(
    ("values", "met", "spread"),
    [([3.0, 1.0, 2.0], True, (1.0, 3.0)), ([3.0], False, None), ([], None, None)],
)
def test_a_figure_is_the_median_and_its_spread_that_of_repeats(
    values: list[float], met: bool | None, spread: tuple[float, float] | None
) -> None:
    found = figure("x", values, "ms", most=2.0)
    assert (found.met, found.spread) == (met, spread)


@pytest.mark.parametrize(("late", "met"), [(0, True), (1, None)])
def test_a_figure_of_a_late_generator_has_no_verdict(late: int, met: bool | None) -> None:
    found = figure("x", [1.0], "ms", most=2.0, note="eight cameras", doubt=lateness(late))
    assert (found.met, found.value) == (met, 1.0)
    assert ("the generator was late in 1 of" in found.note) == bool(late)


@pytest.mark.parametrize(("punctual", "tries"), [(1, 1), (3, 3), (9, TRIES)])
def test_a_slice_is_taken_again_while_its_generator_is_late(punctual: int, tries: int) -> None:
    taken = 0

    def again() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return {"on_time": taken == punctual}

    assert timely(again) == {"on_time": punctual <= TRIES}
    assert taken == tries


def test_only_answers_and_expired_frames_are_explained_by_load() -> None:
    fates = {
        "ok": 5,
        "expired: in_queue": 2,
        "degraded: stale": 1,
        "rejected: shape": 1,
        "failed: not_ready": 3,
    }
    assert set(unexplained(fates)) == {"degraded: stale", "rejected: shape", "failed: not_ready"}


@pytest.mark.parametrize(("lost", "met"), [(0, True), (2, None)])
def test_a_latency_without_the_lost_frames_has_no_verdict(lost: int, met: bool | None) -> None:
    frames = [[second, second + 0.01] for second in range(5)] + [[9, None]] * lost
    slices = Slices()
    bare = {"ms": 9.0, "frames": frames[:5]}
    take(slices, {"frames": frames, "late_p99_ms": 1.0}, (bare, bare), 9.0)
    assert [found.met for found in slices.figures("eight cameras")[:2]] == [met, met]
