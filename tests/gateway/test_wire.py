"""Outgoing messages: what is null, what is left out, what is bounded."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway import wire
from penstock_gateway.ledger import BUCKETS, FATES, Counts
from penstock_gateway.wire import LatencyMs, LedgerView, ModelView, Offload, Receipt, Result, Stats
from penstock_models.items import Anomaly, Detection, OutputTensor


def a_result(**more: Any) -> Result:
    base: dict[str, Any] = {
        "id": "s1-1",
        "device": "door",
        "stream": "cam",
        "seq": None,
        "boot": None,
        "ts": None,
        "arrived": 1_700_000_000_000,
        "status": "rejected",
        "reason": "decode",
        "latency_ms": LatencyMs(total=1.5),
    }
    return Result(**(base | more))


def test_a_refusal_says_null_where_an_answer_would_be() -> None:
    assert json.loads(wire.encode_result(a_result())) == {
        "v": 1,
        "id": "s1-1",
        "device": "door",
        "stream": "cam",
        "seq": None,
        "boot": None,
        "ts": None,
        "arrived": 1_700_000_000_000,
        "status": "rejected",
        "reason": "decode",
        "answered_by": None,
        "model": None,
        "placement": None,
        "latency_ms": {"queue": 0.0, "decode": 0.0, "infer": 0.0, "offload": 0.0, "total": 1.5},
        "offload": None,
    }


@pytest.mark.parametrize(
    ("field", "value", "written"),
    [
        ("detections", (), []),
        (
            "detections",
            (Detection((0.0, 0.25, 0.5, 1.0), 0.75, "person"),),
            [{"box": [0.0, 0.25, 0.5, 1.0], "score": 0.75, "label": "person"}],
        ),
        ("anomaly", Anomaly(2.5), {"score": 2.5, "threshold": None}),
        (
            "outputs",
            {"y": OutputTensor("float32", (1, 1), b"\0\0\x80?")},
            {"y": {"dtype": "float32", "shape": [1, 1], "data": "AACAPw=="}},
        ),
        ("ts_suspect", True, True),
        ("historical", True, True),
        ("correction_of", "s1-0", "s1-0"),
    ],
)
def test_a_field_of_some_frames_is_written_only_where_it_says_something(
    field: str, value: Any, written: Any
) -> None:
    assert field not in json.loads(wire.encode_result(a_result()))
    assert json.loads(wire.encode_result(a_result(**{field: value})))[field] == written


def test_an_answer_comes_back_as_it_was() -> None:
    result = a_result(
        status="ok",
        reason=None,
        answered_by="edge",
        model=ModelView("person", 7, "sha256:00"),
        placement="onnxruntime:cpu",
        offload=Offload("edge", "policy"),
        detections=(),
    )
    assert wire.decode_result(wire.encode_result(result)) == result


def test_readers_skip_new_fields_and_refuse_a_newer_version() -> None:
    text = wire.encode_result(a_result())
    assert wire.decode_result(text[:-1] + b',"colour":"red"}') == a_result()
    with pytest.raises(msgspec.ValidationError, match=r"Invalid value 2 - at `\$.v`"):
        wire.decode_result(text.replace(b'"v":1', b'"v":2'))


def test_a_receipt() -> None:
    receipt = Receipt("b1", 41, ((3, 4), (9, 9)), 100)
    text = wire.encode_receipt(receipt)
    assert text == b'{"v":1,"boot":"b1","through":41,"missing":[[3,4],[9,9]],"window":100}'
    assert wire.decode_receipt(text) == receipt


@given(st.lists(st.sampled_from(sorted(FATES))), st.integers(0, 50))
def test_the_view_of_a_ledger_closes(fates: list[tuple[str, str]], in_flight: int) -> None:
    counts = Counts()
    counts.received = len(fates) + in_flight
    for fate in fates:
        counts.settle(fate)
    view = LedgerView.of(counts)
    assert view.in_flight == in_flight
    assert view.received == view.settled + view.in_flight
    for bucket, reasons in BUCKETS.items():
        plain = fates.count((bucket, ""))
        assert getattr(view, bucket) == sum(view.reasons.get(bucket, {}).values()) + plain
        assert set(view.reasons.get(bucket, {})) <= set(reasons)
    assert msgspec.json.decode(msgspec.json.encode(view), type=LedgerView) == view


@pytest.mark.parametrize("name_length", [8, 64])
def test_stats_are_bounded_and_keep_the_streams_that_changed_most(name_length: int) -> None:
    counts = Counts()
    counts.received = 10**12
    counts.fates = dict.fromkeys(FATES, 10**10)
    view = LedgerView.of(counts)
    streams = {f"{n:0{name_length}}/{n:0{name_length}}": view for n in range(150)}
    payload = wire.encode_stats(Stats(start="s", uptime_s=1.0, ledger=view, streams=streams))
    assert len(payload) <= wire.MAX_STATS_BYTES
    kept = list(json.loads(payload)["streams"])
    assert 40 <= len(kept) <= wire.MAX_STATS_STREAMS
    assert kept == list(streams)[: len(kept)]
