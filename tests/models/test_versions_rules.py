"""The rules of the life of a version, as tables and properties: policies, retries, labels, splits, memory."""

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.errors import (
    BundleError,
    GoldenError,
    ModelRefused,
    PlacementError,
    TemporaryError,
    UsageError,
)
from penstock_models.runtimes.session import RunError
from penstock_models.store import parse_reference
from penstock_models.versions import labels, memory, policy
from penstock_models.versions.aspiring import aspired
from penstock_models.versions.life import Life
from penstock_models.versions.memory import Admit, Evict, Need, Refuse, Room
from penstock_models.versions.policy import All, Latest, Specific, parse_policy
from penstock_models.versions.record import Moved
from penstock_models.versions.residency import SETTLED_S, Resident, evictable, victims
from penstock_models.versions.retry import LONGEST_S, RETRIES, Failure, classify, retry_at
from penstock_models.versions.split import Choice, Routing, check_split, choose, drawn

MB = 10**6


def life(version: int, **facts: Any) -> Life:
    return Life("m", version, 0.0, **facts)


# --- policies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("latest:1", Latest(1)),
        ("latest:20", Latest(20)),
        ("all", All()),
        ([3], Specific((3,))),
        ([3, 2**63 - 1], Specific((3, 2**63 - 1))),
    ],
)
def test_policies_are_read(words: str | list[int], expected: policy.Policy) -> None:
    assert parse_policy(words) == expected


@pytest.mark.parametrize(
    "words", ["", "latest", "latest:0", "latest:-1", "latest:x", "every", [], [0], [2**63], [1, 1], [True]]
)
def test_other_words_are_no_policy(words: str | list[int]) -> None:
    with pytest.raises(UsageError, match="expected `latest:N`"):
        parse_policy(words)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Latest(1), {9}),
        (Latest(2), {9, 5}),
        (Latest(99), {2, 5, 9}),
        (All(), {2, 5, 9}),
        (Specific((5, 7)), {5}),
    ],
)
def test_what_a_policy_wants(rule: policy.Policy, expected: set[int]) -> None:
    assert policy.aspired(rule, [5, 9, 2]) == expected
    assert policy.aspired(rule, []) == set()


@pytest.mark.parametrize(
    ("offered", "named", "expected"),
    [
        ([life(1), life(2)], (), {2}),
        ([life(1), life(2, attempts=1)], (), {1, 2}),  # a bad newest does not leave a model with nothing
        ([life(1, attempts=1), life(2, attempts=1)], (), {2}),
        ([life(1), life(2)], (1, 7), {1, 2}),  # a label or a route names 1; 7 does not exist
        ([life(1, kept=True), life(2)], (), {1, 2}),  # until 2 is there, what served before does
        ([life(1, kept=True), life(2, state="available")], (), {2}),
        # What a label keeps does not stand in for it.
        ([life(1, state="available"), life(2, kept=True), life(3)], (1,), {1, 2, 3}),
    ],
)
def test_what_is_aspired(offered: list[Life], named: tuple[int, ...], expected: set[int]) -> None:
    assert aspired(Latest(1), offered, named) == expected


# --- retries -----------------------------------------------------------------------------------------------------------


def from_disk() -> BundleError:
    error = BundleError("cannot open")
    error.__cause__ = PermissionError(13, "no")
    return error


@pytest.mark.parametrize(
    ("error", "reason", "final"),
    [
        (BundleError("model.onnx has sha256 a, manifest says b"), "bundle", True),
        (ModelRefused("truncated", "ends early"), "truncated", True),
        (ModelRefused("drift", "labels"), "drift", True),
        (ModelRefused("memory", "beyond its limit"), "memory", False),
        (PlacementError("no device"), "placement", False),
        (ModelRefused("starved", "no processor"), "starved", False),
        (ModelRefused("internal", "the child left"), "internal", False),
        (GoldenError("wrong", ["sample 0"]), "golden", True),
        (UsageError("model.toml:2: unknown key"), "usage", True),
        (TemporaryError("changed", "it did"), "changed", False),
        (TimeoutError(), "timeout", False),
        (OSError(5, "input/output error"), "io", False),
        (from_disk(), "io", False),
        (MemoryError(), "memory", False),
        (RunError("Failed to allocate memory for requested buffer of size 64000000"), "memory", False),
        (ValueError("ours"), "internal", False),
    ],
)
def test_which_failures_are_final(error: Exception, reason: str, final: bool) -> None:
    failure = classify(error)
    assert (failure.reason, failure.final) == (reason, final)
    assert failure.text and "\n" not in failure.text


@given(st.text(), st.floats(0, 1e9))
def test_retries_are_bounded_back_off_and_repeat_for_the_same_files(seed: str, now: float) -> None:
    failure = Failure("io", "", False)
    times = [retry_at(failure, attempt, now, seed) for attempt in range(1, RETRIES + 1)]
    assert times == [retry_at(failure, attempt, now, seed) for attempt in range(1, RETRIES + 1)]
    waits = [time - now for time in times]
    assert all(0.74 < waits[0] <= 1.01 and wait <= LONGEST_S + 0.01 for wait in waits)
    assert all(later > earlier for earlier, later in pairwise(waits))
    assert retry_at(failure, RETRIES + 1, now, seed) == math.inf
    assert retry_at(Failure("bundle", "", True), 1, now, seed) == math.inf


def test_boxes_do_not_try_together() -> None:
    failure = Failure("io", "", False)
    assert len({retry_at(failure, 1, 0.0, f"box {i}") for i in range(50)}) > 45


# --- labels ------------------------------------------------------------------------------------------------------------


def test_a_label_moves_only_to_an_available_version() -> None:
    before = {"stable": 3}
    assert labels.move(before, "stable", 4, {3, 4}, "person") == {"stable": 4}
    assert labels.move(before, "canary", 4, {3, 4}, "person") == {"stable": 3, "canary": 4}
    with pytest.raises(UsageError, match=r"person@stable: version 5 is not available \(available: 3, 4\)"):
        labels.move(before, "stable", 5, {4, 3}, "person")
    with pytest.raises(UsageError, match="it stays at 3"):
        labels.move(before, "stable", 5, {4, 3}, "person")
    assert before == {"stable": 3}


@pytest.mark.parametrize("label", ["", "Stable", "a b", "12", "x" * 65])
def test_what_is_no_label(label: str) -> None:
    with pytest.raises(UsageError, match="label"):
        labels.move({}, label, 1, {1}, "person")


def test_labels_are_bounded() -> None:
    many = {f"l{i}": 1 for i in range(labels.MAX_LABELS)}
    with pytest.raises(UsageError, match="at most 64 labels"):
        labels.move(many, "more", 1, {1}, "person")
    assert labels.move(many, "l0", 2, {1, 2}, "person")["l0"] == 2


def test_what_was_moved_holds_until_the_configuration_says_otherwise() -> None:
    assert labels.wanted({"stable": 1}, {}) == {"stable": 1}
    assert labels.wanted({"stable": 1}, {"stable": Moved(2, over=1), "canary": Moved(3)}) == {
        "stable": 2,
        "canary": 3,
    }
    assert labels.wanted({"stable": 4}, {"stable": Moved(2, over=1)}) == {"stable": 4}
    assert labels.wanted({"stable": 1}, {"stable": Moved(0, over=1)}) == {}  # removed
    assert labels.wanted({"canary": 1}, {"canary": Moved(3)}) == {"canary": 1}


def test_a_wanted_label_waits_where_it_is() -> None:
    assert labels.settle({"stable": 3}, {"stable": 4}, {3}) == {"stable": 3}
    assert labels.settle({"stable": 3}, {"stable": 4}, {3, 4}) == {"stable": 4}
    assert labels.settle({"stable": 3, "old": 1}, {"stable": 3}, {3, 1}) == {"stable": 3}
    assert labels.settle({}, {"new": 9}, {3}) == {}


# --- splits ------------------------------------------------------------------------------------------------------------

STREAMS = [f"camera-{i}/front" for i in range(10_000)]


def shares(weights: dict[str, float]) -> dict[str, float]:
    counted = Counter(drawn(weights, "person", stream) for stream in STREAMS)
    return {target: counted[target] / len(STREAMS) for target in weights}


@pytest.mark.parametrize(
    "weights",
    [
        {"stable": 90, "canary": 10},
        {"a": 1, "b": 1},
        {"3": 50, "4": 25, "5": 25},
        {"x": 0.7, "y": 0.2, "z": 0.1},
    ],
)
def test_shares_are_as_asked_within_one_percent(weights: dict[str, float]) -> None:
    for target, share in shares(weights).items():
        assert abs(share - weights[target] / sum(weights.values())) <= 0.01


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 100), min_size=2, max_size=6),
    st.data(),
    st.lists(st.text(max_size=12), min_size=1, max_size=200),
)
def test_raising_a_share_moves_streams_to_it_only(
    weights: dict[str, float], data: st.DataObject, streams: list[str]
) -> None:
    raised = data.draw(st.sampled_from(sorted(weights)))
    more = {**weights, raised: weights[raised] * data.draw(st.floats(1.0, 10.0))}
    for stream in streams:
        before, after = drawn(weights, "m", stream), drawn(more, "m", stream)
        assert after in (before, raised)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 100), min_size=2, max_size=6),
    st.lists(st.text(max_size=12), min_size=1, max_size=200),
)
def test_a_target_that_goes_moves_only_its_own_streams(weights: dict[str, float], streams: list[str]) -> None:
    gone = min(weights)
    left = {target: weight for target, weight in weights.items() if target != gone}
    for stream in streams:
        before = drawn(weights, "m", stream)
        assert before == gone or drawn(left, "m", stream) == before


def test_models_are_split_independently() -> None:
    weights = {"a": 50.0, "b": 50.0}
    same = sum(drawn(weights, "m1", s) == drawn(weights, "m2", s) for s in STREAMS)
    assert abs(same / len(STREAMS) - 0.5) < 0.02


ROUTING = Routing(frozenset({3, 4}), {"stable": 3, "canary": 4}, {}, "")


@pytest.mark.parametrize(
    ("reference", "routing", "expected"),
    [
        ("m", ROUTING, Choice(4)),
        ("m:3", ROUTING, Choice(3)),
        ("m:5", ROUTING, None),
        ("m@stable", ROUTING, Choice(3)),
        ("m@none", ROUTING, None),
        ("m", Routing(), None),
        ("m", Routing(frozenset({3}), split={"4": 99, "3": 1}), Choice(3)),  # 4 is not there: 3 has its share
        ("m", Routing(frozenset({3}), split={"4": 1}), Choice(3)),
        ("m:3", Routing(frozenset({3, 4}), shadow="4"), Choice(3, 4)),
        ("m@stable", Routing(frozenset({3, 4}), {"stable": 3}, shadow="stable"), Choice(3)),
        ("m", Routing(frozenset({3}), shadow="9"), Choice(3)),
    ],
)
def test_which_version_answers(reference: str, routing: Routing, expected: Choice | None) -> None:
    assert choose(routing, parse_reference(reference), "cam/front") == expected


def test_moving_a_label_keeps_its_streams() -> None:
    weights = {"stable": 90.0, "canary": 10.0}
    before = Routing(frozenset({3, 4, 5}), {"stable": 3, "canary": 4}, weights)
    after = Routing(frozenset({3, 4, 5}), {"stable": 3, "canary": 5}, weights)
    moved = {3: 3, 4: 5}
    for stream in STREAMS[:500]:
        first, second = (choose(r, parse_reference("m"), stream) for r in (before, after))
        assert first and second and moved[first.version] == second.version


@pytest.mark.parametrize(
    "bad", [{"a": 0.0}, {"a": -1.0}, {"a": math.nan}, {"a": math.inf}, {"0": 1.0}, {"A": 1.0}]
)
def test_bad_splits(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        check_split(bad)


def test_a_split_is_bounded() -> None:
    assert check_split({"stable": 1, "7": 2.5}) == {"stable": 1, "7": 2.5}
    with pytest.raises(UsageError, match="at most 16"):
        check_split({str(i): 1.0 for i in range(1, 18)})


# --- memory ------------------------------------------------------------------------------------------------------------

NOW = 1000.0


def resident(name: str, size: int, last_used: float, **more: bool) -> Resident:
    return Resident(name, 1, size * MB, 0.0, last_used, **more)


def room(available: int, budget: int | None = None) -> Room:
    return Room(1000 * MB, available * MB + memory.RESERVE_BYTES, None if budget is None else budget * MB)


def test_room_is_for_the_peak_of_a_load() -> None:
    need = Need(100 * MB, 150 * MB)
    assert memory.admit(need, room(150), [], NOW, NOW) == Admit()
    verdict = memory.admit(need, room(149), [], NOW, NOW)
    assert isinstance(verdict, Refuse)
    assert "takes 150 MB (measured), 149 MB are free of 966 MB with 0 versions loaded" in verdict.text


def test_what_the_whole_box_could_not_hold_is_hopeless() -> None:
    need = Need(200 * MB, 967 * MB)
    refused = memory.admit(need, room(1000), [], NOW, NOW)
    assert refused == Refuse(
        "memory: loading takes 967 MB (measured), models may take 966 MB on this box in all", hopeless=True
    )
    refused = memory.admit(Need(101 * MB, 0), room(900, budget=100), [], NOW, NOW)
    assert isinstance(refused, Refuse) and refused.hopeless


def test_a_budget_counts_what_is_loaded() -> None:
    loaded = [resident("a", 60, -math.inf, pinned=True)]
    need = Need(40 * MB, 40 * MB)
    assert memory.admit(need, room(900, budget=100), loaded, NOW, NOW) == Admit()
    refused = memory.admit(need, room(900, budget=99), loaded, NOW, NOW)
    assert isinstance(refused, Refuse) and "39 MB are free of 99 MB" in refused.text


@pytest.mark.parametrize(
    ("others", "wanted_at", "expected"),
    [
        ([resident("old", 60, 10), resident("new", 60, 500)], NOW, ["old"]),
        ([resident("old", 60, 10, running=True), resident("new", 60, 500)], NOW, ["new"]),
        ([resident("old", 60, 10, pinned=True), resident("new", 60, 500)], NOW, ["new"]),
        ([resident("a", 20, 10), resident("b", 20, 20), resident("c", 20, 30)], NOW, ["a", "b", "c"]),
        ([resident("small", 5, 10), resident("large", 60, 20)], NOW, ["large"]),
        ([resident("old", 60, 10), resident("new", 60, 500)], 10.0, None),  # nobody asked since
        ([resident("old", 60, 10)], -math.inf, None),
    ],
)
def test_who_makes_room(others: list[Resident], wanted_at: float, expected: list[str] | None) -> None:
    verdict = memory.admit(Need(60 * MB, 60 * MB), room(0), others, wanted_at, NOW)
    if expected is None:
        assert isinstance(verdict, Refuse)
    else:
        assert isinstance(verdict, Evict) and [v.name for v in verdict.victims] == expected


def test_what_came_just_now_stays() -> None:
    fresh = Resident("fresh", 1, 60 * MB, NOW - SETTLED_S + 0.1, 0.0)
    assert evictable([fresh], NOW, NOW) == []
    assert evictable([fresh], NOW, NOW + 0.2) == [fresh]


@given(
    st.lists(st.builds(resident, st.sampled_from("abc"), st.integers(1, 100), st.integers(0, 900))),
    st.integers(1, 400),
)
def test_victims_are_enough_and_none_too_many(others: list[Resident], missing: int) -> None:
    able = evictable(others, NOW, NOW)
    chosen = victims(able, missing * MB)
    if chosen is None:
        assert sum(r.bytes for r in able) < missing * MB
    else:
        total = sum(r.bytes for r in chosen)
        assert total >= missing * MB
        assert all(total - r.bytes < missing * MB for r in chosen)


def test_memory_that_does_not_come_back_is_an_alarm() -> None:
    good = memory.returned("m:1", 100 * MB, 500 * MB, 415 * MB)
    assert (good.fraction, good.alarm) == (0.85, "")
    bad = memory.returned("m:1", 100 * MB, 500 * MB, 450 * MB)
    assert "m:1: 50 MB of 100 MB came back" in bad.alarm and "50%" in bad.alarm
    assert memory.returned("m:1", 2 * MB, 500 * MB, 501 * MB).alarm == ""
