"""Answers against the truth: matching by overlap and label, counts, precision and recall."""

import itertools
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from penstock_models.items import Anomaly, Detection
from penstock_sim.measure.accuracy import IOU, Score, iou, matched
from penstock_sim.sources import Box

Corners = tuple[float, float, float, float]
UNIT: Corners = (0.0, 0.0, 1.0, 1.0)
HALF: Corners = (0.0, 0.0, 0.5, 1.0)


@st.composite
def corners(draw: st.DrawFn) -> Corners:
    x, y, width, height = (draw(st.integers(0, 4)) for _ in range(4))
    return x / 8, y / 8, (x + width) / 8, (y + height) / 8


labels = st.sampled_from(["person", "car"])
truths = st.lists(st.builds(Box, labels, corners()), max_size=4)
answers = st.lists(st.builds(Detection, corners(), st.sampled_from([0.3, 0.5, 0.9]), labels), max_size=4)


def best(truth: Sequence[Box], found: Sequence[Detection]) -> int:
    """The most pairs that any matching has, by trying all."""
    some = max(len(truth), len(found))
    options = itertools.permutations(
        [*range(len(truth)), *[None] * (some - len(truth) + len(found))], len(found)
    )
    return max(
        sum(n is not None and fits(truth[n], one) for n, one in zip(order, found)) for order in options
    )


def fits(true: Box, found: Detection) -> bool:
    return true.label == found.label and iou(true.box, found.box) >= IOU


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (UNIT, UNIT, 1.0),
        (UNIT, HALF, 0.5),
        (HALF, (0.5, 0.0, 1.0, 1.0), 0.0),  # they touch
        (HALF, (0.25, 0.0, 0.75, 1.0), 1 / 3),
        ((0.0, 0.0, 0.2, 0.2), (0.1, 0.1, 0.3, 0.3), 1 / 7),
        ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), 0.0),  # of no size
        ((0.9, 0.9, 0.1, 0.1), UNIT, 0.0),  # turned inside out
    ],
)
def test_overlap(a: Corners, b: Corners, expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected) == iou(b, a)


@pytest.mark.parametrize(
    ("truth", "found", "count"),
    [
        ([], [], 0),
        ([("person", UNIT)], [], 0),
        ([], [(UNIT, 0.9, "person")], 0),
        ([("person", UNIT)], [(UNIT, 0.9, "person")], 1),
        ([("person", UNIT)], [(UNIT, 0.9, "car")], 0),
        ([("person", UNIT)], [(HALF, 0.9, "person")], 1),  # an overlap of exactly a half will do
        ([("person", UNIT)], [((0.0, 0.0, 0.49, 1.0), 0.9, "person")], 0),
        # A second detection of one thing is false
        ([("person", UNIT)], [(UNIT, 0.9, "person"), (UNIT, 0.8, "person")], 1),
        ([("person", UNIT), ("person", UNIT)], [(UNIT, 0.9, "person"), (UNIT, 0.8, "person")], 2),
        # The surest chooses first, and takes what it overlaps most; here that leaves the other one its own
        ([("person", UNIT), ("person", HALF)], [(HALF, 0.5, "person"), (UNIT, 0.9, "person")], 2),
        ([("person", (0.5, 0.0, 1.0, 1.0)), ("person", HALF)],
         [(HALF, 0.9, "person"), ((0.5, 0.0, 1.0, 1.0), 0.5, "person")], 2),
        # Greedy is not best: the surest takes the box that alone would have suited the other
        ([("person", HALF), ("person", (0.0, 0.0, 0.8, 1.0))],
         [((0.0, 0.0, 0.55, 1.0), 0.9, "person"), ((0.0, 0.0, 0.3, 1.0), 0.8, "person")], 1),
    ],
)  # fmt: skip
def test_detections_are_matched(
    truth: list[tuple[str, Corners]], found: list[tuple[Corners, float, str]], count: int
) -> None:
    assert matched([Box(*one) for one in truth], [Detection(*one) for one in found]) == count


@given(truth=truths, found=answers)
def test_greedy_matching_never_beats_the_best_and_equals_it_where_nothing_is_ambiguous(
    truth: list[Box], found: list[Detection]
) -> None:
    count, most = matched(truth, found), best(truth, found)
    assert count <= most
    assert count * 2 >= most  # a maximal matching has at least half of the largest
    if all(sum(fits(true, one) for true in truth) <= 1 for one in found):
        assert count == most


@given(truth=truths, found=answers)
def test_every_thing_and_every_detection_is_counted_once(truth: list[Box], found: list[Detection]) -> None:
    score = Score()
    score.judge(tuple(truth), found, None)
    assert (score.frames, score.right + score.missed, score.right + score.false) == (
        1,
        len(truth),
        len(found),
    )


@pytest.mark.parametrize(
    ("truth", "anomaly", "right", "false", "missed", "quiet"),
    [
        (True, Anomaly(0.9, 0.5), 1, 0, 0, 0),
        (True, Anomaly(0.5, 0.5), 0, 0, 1, 0),
        (True, Anomaly(0.9, None), 0, 0, 1, 0),
        (True, None, 0, 0, 1, 0),
        (False, Anomaly(0.9, 0.5), 0, 1, 0, 0),
        (False, Anomaly(0.1, 0.5), 0, 0, 0, 1),
        (False, None, 0, 0, 0, 1),
    ],
)
def test_anomalies_are_judged_by_the_model_s_own_threshold(
    truth: bool, anomaly: Anomaly | None, right: int, false: int, missed: int, quiet: int
) -> None:
    score = Score()
    score.judge(truth, None, anomaly)
    assert score == Score(1, right, false, missed, quiet)


def test_an_answer_without_what_the_truth_speaks_of_has_missed_it() -> None:
    score = Score()
    score.judge((Box("person", UNIT), Box("car", UNIT)), None, Anomaly(9.0, 1.0))
    assert score == Score(frames=1, missed=2)


@pytest.mark.parametrize(
    ("score", "precision", "recall"),
    [
        (Score(), None, None),
        (Score(right=3, false=1, missed=2), 0.75, 0.6),
        (Score(false=2), 0.0, None),
        (Score(missed=2), None, 0.0),
    ],
)
def test_precision_and_recall(score: Score, precision: float | None, recall: float | None) -> None:
    assert (score.precision, score.recall) == (precision, recall)


def test_scores_add_up() -> None:
    total = Score(1, 2, 3, 4, 5)
    total.add(Score(10, 20, 30, 40, 50))
    assert total == Score(11, 22, 33, 44, 55)
