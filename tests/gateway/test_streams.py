"""Which stream a topic belongs to, and what its lane says of its room."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.frames import Frame, Lane, Stream
from penstock_gateway.ledger import Ledger
from penstock_gateway.streams import BAD_TOPIC, Streams
from penstock_models.scheduling.runs import VersionRun
from tests.fakes.executor import servable
from tests.fakes.gateway_core import configure, route

ANY = "penstock/v1/home/dev/{device}/{stream}/+"


def streams(folder: Path, *routes: str, limit: int = 10) -> Streams:
    config = configure(folder, *routes)
    lanes = [Lane(r, VersionRun(servable())) for r in config.route]
    return Streams(lanes, Ledger(), "penstock", "home", limit)


def stream(found: object) -> Stream:
    assert isinstance(found, Stream)
    return found


def test_a_topic_s_stream_is_made_once_and_two_topics_of_one_name_are_one_stream(tmp_path: Path) -> None:
    known = streams(tmp_path, route(topic="site/+/{device}/{stream}"))
    one = stream(known.find("site/1/a/s"))
    assert known.find("site/1/a/s") is one and known.find("site/2/a/s") is one
    assert one.lane.streams == {one} and list(known) == [one]
    assert one.result_topic == "penstock/v1/home/dev/a/s/result"


@pytest.mark.parametrize(
    ("topic", "found"),
    [
        ("elsewhere", None),
        ("x/bad name/s", BAD_TOPIC),
        ("x/a/", BAD_TOPIC),
        ("x/" + "a" * 65 + "/s", BAD_TOPIC),
    ],
)
def test_strange_topics(tmp_path: Path, topic: str, found: object) -> None:
    assert streams(tmp_path, route(topic="x/{device}/{stream}")).find(topic) == found


def test_names_that_the_topic_does_not_give_come_from_the_route(tmp_path: Path) -> None:
    known = streams(tmp_path, route(topic="cams/{device}"), route(topic="door", device="d", stream="s"))
    assert stream(known.find("cams/a")).key == "a/0"
    assert stream(known.find("door")).key == "d/s"


def test_a_stream_beyond_the_limit_is_a_stranger_and_nothing_grows(tmp_path: Path) -> None:
    known = streams(tmp_path, route(topic="x/{device}/{stream}"), limit=2)
    for n in range(100):
        assert known.is_stranger(stream(known.find(f"x/d{n}/s"))) == (n >= 2)
    assert len(list(known)) == 2


def test_the_limit_counts_streams_not_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock_gateway.streams.TOPICS", 3)
    known = streams(tmp_path, route(topic="x/#", device="d", stream="s"), limit=1)
    found = {stream(known.find(f"x/{n}")) for n in range(10)}
    assert len(found) == 1 and not known.is_stranger(found.pop())
    assert len(known._by_topic) == 3


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ((route(),), True),
        ((route("latest"),), False),
        ((route(), route(topic="other/{device}/{stream}")), True),  # either may have brought it
        ((route(topic="one", device="a", stream="s"),), True),
        ((route(topic="one", device="b", stream="s"),), False),
    ],
)
def test_a_stream_of_an_earlier_start_is_recalled_where_a_route_can_have_brought_it(
    tmp_path: Path, routes: tuple[str, ...], found: bool
) -> None:
    known = streams(tmp_path, *routes)
    recalled = known.recall("a/s")
    assert (recalled is not None) == found
    assert all(not lane.streams for lane in known._lanes)  # it has sent nothing yet


def test_a_recalled_stream_is_the_one_that_its_topic_finds(tmp_path: Path) -> None:
    known = streams(tmp_path, route())
    recalled = known.recall("a/s")
    assert known.find("penstock/v1/home/dev/a/s/data") is recalled


@pytest.mark.parametrize(
    ("frames", "senders", "paused", "window"),
    [
        (0, 1, False, 8),
        (4, 1, False, 4),
        (4, 2, False, 2),
        (0, 20, False, 1),  # more streams than room: one frame each
        (7, 4, False, 1),
        (8, 1, False, 0),
        (2, 1, True, 0),
    ],
)
def test_the_window_is_a_share_of_the_room_and_zero_only_where_nothing_is_taken(
    tmp_path: Path, frames: int, senders: int, paused: bool, window: int
) -> None:
    known = streams(tmp_path, route(topic="x/{device}/{stream}", queue=8), limit=100)
    found = [stream(known.find(f"x/d{n}/s")) for n in range(senders)]
    lane = found[0].lane
    for n in range(frames):
        lane.hold(Frame(found[0], str(n), 0.0, 0, 10))
    lane.paused = paused
    assert lane.window == window
