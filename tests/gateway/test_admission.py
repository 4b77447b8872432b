"""Which messages become frames: the order of the checks, times, identity, where an answer goes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.admission import RECENT_DIGESTS, Admission
from penstock_gateway.frames import Frame, Lane, Stream
from penstock_gateway.identity import StreamIdentity
from penstock_gateway.ledger import Ledger
from penstock_gateway.mqtt import Message
from penstock_gateway.salvage import salvage
from penstock_gateway.streams import Streams
from penstock_models.items import Refusal
from penstock_models.scheduling.request import HISTORICAL_RANK, NO_DEADLINE
from penstock_models.scheduling.runs import VersionRun
from tests.fakes.executor import servable
from tests.fakes.gateway_core import configure, route

NOW_MS = 1_790_000_000_000
LIMITS = "[limits]\nmax_frame_bytes = 100"


class Desk:
    """An admission with one stream on one route."""

    def __init__(self, folder: Path, mode: str = "every", gap_s: float = 30.0) -> None:
        config = configure(folder, route(mode, gap_s=gap_s), more=LIMITS)
        lanes = [Lane(r, VersionRun(servable())) for r in config.route]
        self.streams = Streams(lanes, Ledger(), "penstock", "home", 100)
        self.admission = Admission(config.limits, ("penstock/v1/home/reply/",), {}, [])
        self.stream = self.find("a")

    def find(self, device: str) -> Stream:
        found = self.streams.find(f"penstock/v1/home/dev/{device}/s/data")
        assert isinstance(found, Stream)
        return found

    def judge(self, payload: bytes = b"[1]", **options: Any) -> tuple[Frame, str]:
        stream = options.pop("stream", self.stream)
        frame = Frame(stream, "1", time.monotonic(), NOW_MS, len(payload))
        user = tuple((k, str(options.pop(k))) for k in ("boot", "seq", "ts", "dl", "pr") if k in options)
        topic = f"penstock/v1/home/dev/{stream.device}/s/data"
        refusal = self.admission.judge(frame, Message(topic, payload, user=user, **options))
        return frame, word(refusal)


def word(refusal: Refusal | None) -> str:
    return f"{refusal.bucket}:{refusal.reason}" if refusal else "new"


@pytest.mark.parametrize(
    ("payload", "options", "verdict"),
    [
        (b"[1]", {}, "new"),
        (b"", {}, "rejected:empty"),
        (b"", {"content_type": "no/such"}, "rejected:empty"),
        (b" " * 101, {}, "rejected:too_large"),
        (b" " * 101, {"content_type": "no/such"}, "rejected:too_large"),
        (b"[1]", {"content_type": "no/such"}, "rejected:content_type"),
        (b"[1]", {"seq": "x"}, "rejected:schema"),
        (b"[1]", {"dl": 1, "ts": NOW_MS - 90_000}, "expired:max_age"),
        (b"[1]", {"expiry_s": 0}, "expired:on_arrival"),
    ],
)
def test_the_first_reason_counts(
    tmp_path: Path, payload: bytes, options: dict[str, Any], verdict: str
) -> None:
    assert Desk(tmp_path, "latest").judge(payload, **options)[1] == verdict


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"[1]", b"[1]"),
        (b"[1]", b"[2]"),  # the number counts, not what it holds
        (b"", b""),
        (b"[1]", b""),
        (b"{", b"[1]"),
    ],
)
@pytest.mark.parametrize("mode", ["every", "latest"])
def test_a_number_comes_once_whatever_it_holds(
    tmp_path: Path, mode: str, first: bytes, second: bytes
) -> None:
    desk = Desk(tmp_path, mode)
    assert desk.judge(first, boot="b", seq=1)[1] != "duplicate:duplicate"
    assert desk.judge(second, boot="b", seq=1)[1] == "duplicate:duplicate"
    assert desk.judge(boot="c", seq=1)[1] == "new"


@pytest.mark.parametrize(
    ("mode", "dup", "verdict"),
    [("every", True, "duplicate:duplicate"), ("every", False, "new"), ("latest", True, "new")],
)
def test_without_a_number_only_the_broker_s_redelivery_is_a_duplicate(
    tmp_path: Path, mode: str, dup: bool, verdict: str
) -> None:
    desk = Desk(tmp_path, mode)
    desk.judge()
    assert desk.judge(dup=dup)[1] == verdict
    assert desk.judge(b"[2]", dup=dup)[1] == "new"


def test_a_route_s_flood_does_not_forget_another_route_s_redeliveries(tmp_path: Path) -> None:
    topics = [f"{place}/{{device}}/{{stream}}" for place in ("one", "two")]
    config = configure(tmp_path, *(route(topic=topic) for topic in topics))
    lanes = [Lane(r, VersionRun(servable())) for r in config.route]
    streams = Streams(lanes, Ledger(), "penstock", "home", 100)
    admission = Admission(config.limits, (), {}, [])

    def judge(topic: str, payload: bytes, dup: bool = False) -> str:
        stream = streams.find(topic)
        assert isinstance(stream, Stream)
        frame = Frame(stream, "1", 0.0, NOW_MS, 1)
        return word(admission.judge(frame, Message(topic, payload, dup=dup)))

    judge("one/a/s", b"[1]")
    for n in range(RECENT_DIGESTS + 1):
        judge("two/a/s", b"[%d]" % n)
    assert judge("one/a/s", b"[1]", dup=True) == "duplicate:duplicate"


@pytest.mark.parametrize(
    ("payload", "properties", "verdict", "who"),
    [
        (b"", {"boot": "b", "seq": 7}, "rejected:empty", ("b", 7)),
        (b"", {"boot": "b", "seq": "x"}, "rejected:empty", ("b", None)),
        (b'{"boot":"b","seq":7,"pr":99,"data":[1]}', {"seq": 3}, "rejected:schema", ("b", 7)),
        (b'{"boot":"b","seq":7.5,"data":[1]}', {"seq": 3}, "rejected:schema", ("b", 3)),
        (b'{"boot":"b","seq":7', {"seq": 3}, "rejected:schema", (None, 3)),
        (b'{"boot":"b","seq":1e999}', {"seq": 3}, "rejected:schema", ("b", 3)),
        (b'{"boot":"\xff","seq":7}', {}, "rejected:schema", (None, 7)),
        (b'{"boot":null,"seq":7,"ts":' + b"1" * 70 + b".5}", {"boot": "b"}, "rejected:schema", ("b", 7)),
        (cbor2.dumps({"data": [math.nan], "boot": "b", "seq": 7}), {}, "rejected:not_finite", ("b", 7)),
        (cbor2.dumps({"boot": "b", "seq": 7, "data": [1]})[:-1], {}, "rejected:schema", ("b", 7)),
        (cbor2.dumps({"boot": "b", "seq": 7, "ts": 1 << 65}), {}, "rejected:schema", ("b", 7)),
    ],
)
def test_a_refused_frame_still_says_who_it_is(
    tmp_path: Path, payload: bytes, properties: dict[str, Any], verdict: str, who: tuple[str | None, int]
) -> None:
    frame, found = Desk(tmp_path).judge(payload, **properties, content_type=_kind(payload))
    assert found == verdict and (frame.boot, frame.seq) == who


def _kind(payload: bytes) -> str:
    return "application/json" if payload[:1] == b"{" else "application/cbor"


@given(
    start=st.sampled_from([b'{"boot":', b'{"ts":', b'{"seq":', b"\xa1cseq", b"\xa1dboot", b"\xa2btsa"]),
    rest=st.binary(max_size=40) | st.text('0123456789eE.-+"\\u{}[],:ntrf ', max_size=40).map(str.encode),
)
def test_no_message_makes_the_salvage_raise(start: bytes, rest: bytes) -> None:
    for kind in ("application/json", "application/cbor", ""):
        msgspec.json.encode(salvage(start + rest, kind, (("seq", "-"), ("ts", "9" * 20))))


def test_another_delivery_of_the_same_payload_is_no_redelivery(tmp_path: Path) -> None:
    """It was on its way when the gateway died, so it comes with DUP too; its packet id is its own."""
    desk = Desk(tmp_path)
    desk.judge(packet_id=1)
    assert desk.judge(dup=True, packet_id=2)[1] == "new"
    assert (
        desk.judge(dup=True, packet_id=1)[1] == desk.judge(dup=True, packet_id=2)[1] == "duplicate:duplicate"
    )


@pytest.mark.parametrize("ts", [-5, 0, 1_790_000_000_000_000_000, 1 << 63])
@pytest.mark.parametrize("mode", ["every", "latest"])
def test_a_clock_that_cannot_be_true_tells_no_age(tmp_path: Path, mode: str, ts: int) -> None:
    for options in ({"ts": ts}, {"payload": b'{"ts":%d,"data":[1]}' % ts}):
        frame, verdict = Desk(tmp_path, mode).judge(**options)
        assert (verdict, frame.ts, frame.ts_suspect, frame.historical) == ("new", ts, True, False)


def test_old_frames_are_historical_on_an_every_route_and_behind_the_live_ones(tmp_path: Path) -> None:
    frame, verdict = Desk(tmp_path).judge(ts=NOW_MS - 90_000, pr=9)
    assert verdict == "new" and frame.historical
    assert (frame.rank, frame.deadline) == (HISTORICAL_RANK, NO_DEADLINE)


@pytest.mark.parametrize(("pr", "rank"), [(9, 0), (5, 4), (0, 9)])
def test_priority_nine_goes_first(tmp_path: Path, pr: int, rank: int) -> None:
    assert Desk(tmp_path).judge(pr=pr)[0].rank == rank


@pytest.mark.parametrize(
    ("topic", "kept"),
    [
        ("penstock/v1/home/reply/x", "penstock/v1/home/reply/x"),
        ("penstock/v1/home/dev/b/s/data", ""),
        ("", ""),
    ],
)
def test_an_answer_goes_only_under_the_prefixes(tmp_path: Path, topic: str, kept: str) -> None:
    frame, _ = Desk(tmp_path).judge(response_topic=topic, correlation=b"c")
    assert (frame.response_topic, frame.correlation) == (kept, b"c" if kept else b"")


def test_a_remembered_stream_takes_its_own_route_s_gap(tmp_path: Path) -> None:
    desk = Desk(tmp_path, gap_s=7.0)
    known = StreamIdentity("b/s", 30.0)
    admission = Admission(configure(tmp_path, route()).limits, (), {"b/s": known}, [])
    assert admission.number(desk.find("b")) is known and known.gap_s == 7.0
    assert admission.number(desk.find("c")).gap_s == 7.0
