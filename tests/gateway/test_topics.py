"""Topic filters against MQTT 4.7, checked with a slow, obvious matcher."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway import topics
from penstock_gateway.topics import TopicFilter, is_name, is_topic
from penstock_models.errors import UsageError

LEVEL = st.sampled_from(["", "a", "b", "$SYS", "dév"])
TOPIC = st.lists(LEVEL, min_size=1, max_size=5).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(st.one_of(LEVEL, st.just("+")), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def obvious_match(filter_: str, topic: str) -> bool:
    """MQTT 4.7 as one regular expression."""
    if topic.startswith("$") and filter_[0] in "+#":
        return False
    parts = [re.escape(level) if level != "+" else "[^/]*" for level in filter_.split("/")]
    if parts[-1] == re.escape("#"):
        head = "/".join(parts[:-1])
        return re.fullmatch(f"{head}(/.*)?" if head or len(parts) > 1 else ".*", topic) is not None
    return re.fullmatch("/".join(parts), topic) is not None


@given(FILTER, TOPIC)
def test_matches_as_the_standard_says(filter_: str, topic: str) -> None:
    assert (TopicFilter.parse(filter_).match(topic) is not None) == obvious_match(filter_, topic)


@given(FILTER, FILTER, TOPIC)
def test_filters_that_match_one_topic_overlap(one: str, two: str, topic: str) -> None:
    first, second = TopicFilter.parse(one), TopicFilter.parse(two)
    assert first.overlaps(second) == second.overlaps(first)
    if first.match(topic) is not None and second.match(topic) is not None:
        assert first.overlaps(second)


@given(FILTER, FILTER)
def test_an_overlap_has_a_topic_that_proves_it(one: str, two: str) -> None:
    first, second = TopicFilter.parse(one), TopicFilter.parse(two)
    assert first.overlaps(second) == any(
        first.match(topic) is not None and second.match(topic) is not None
        for topic in _witnesses(first.levels, second.levels)
    )


def _witnesses(one: tuple[str, ...], two: tuple[str, ...]) -> list[str]:
    """Topics of the length of either filter (and one less, for a final #) that take fixed levels from both."""
    found = []
    for size in range(1, max(len(one), len(two)) + 1):
        levels = []
        for number in range(size):
            fixed = [f[number] for f in (one, two) if number < len(f) and f[number] not in ("+", "#")]
            levels.append(fixed[0] if fixed else "x")
        found.append("/".join(levels))
    return found


def test_names_come_from_their_levels() -> None:
    route = TopicFilter.parse("penstock/v1/home/dev/{device}/{stream}/frame")
    assert route.subscription == "penstock/v1/home/dev/+/+/frame"
    assert route.match("penstock/v1/home/dev/door/cam/frame") == ("door", "cam")
    assert route.match("penstock/v1/home/dev/door/cam/result") is None
    assert route.match("penstock/v1/home/dev/../c m/frame") == ("..", "c m"), "names come unchecked"
    assert TopicFilter.parse("cameras/{device}/jpeg").match("cameras/door/jpeg") == ("door", None)
    assert TopicFilter.parse("cameras/+/jpeg").match("cameras/door/jpeg") == (None, None)
    assert TopicFilter.parse("{stream}/of/{device}").match("a/of/b") == ("b", "a")


@pytest.mark.parametrize("filter_", ["#", "+/x", "+/#", "{device}/x"])
def test_a_leading_wildcard_leaves_system_topics_alone(filter_: str) -> None:
    assert TopicFilter.parse(filter_).match("$SYS/x") is None
    assert not TopicFilter.parse(filter_).overlaps(TopicFilter.parse("$SYS/x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 to 65535 bytes"),
        ("a\0b", "1 to 65535 bytes"),
        ("a" * 70_000, "1 to 65535 bytes"),
        ("a/#/b", "# is allowed as the last level only"),
        ("a/b#", "a wildcard stands for a whole level"),
        ("cam+/x", "a wildcard stands for a whole level"),
        ("{site}/x", "expected {device} or {stream}"),
        ("a/x{device}", "expected {device} or {stream}"),
        ("{device}/{device}", "names {device} twice"),
        ("$share/g/a", "set `share` in [mqtt]"),
    ],
)
def test_a_wrong_filter_is_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        TopicFilter.parse(text)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("door", True),
        ("A-z_0" * 12, True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("a b", False),
        ("é", False),
        ("a\n", False),
        ("../x", False),
    ],
)
def test_names(text: str, good: bool) -> None:
    assert is_name(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [("a/b", True), ("é", True), ("", False), ("a/+", False), ("a#", False), ("\ud800", False)],
)
def test_topics_that_may_be_published_to(text: str, good: bool) -> None:
    assert is_topic(text) is good


def test_our_own_topics() -> None:
    assert topics.result_topic("penstock", "home", "door", "cam") == "penstock/v1/home/dev/door/cam/result"
    assert topics.receipt_topic("p", "home", "door", "cam") == "p/v1/home/dev/door/cam/receipt"
    assert topics.gateway_topic("p", "home", "gw1", "status") == "p/v1/home/gw/gw1/status"
    frame = TopicFilter.parse("penstock/v1/home/dev/{device}/{stream}/frame")
    assert not any(frame.overlaps(own) for own in topics.own_filters("penstock", "home"))
    assert any(
        TopicFilter.parse("penstock/#").overlaps(own) for own in topics.own_filters("penstock", "home")
    )
