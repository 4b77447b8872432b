"""The committed schemas: fresh, true of what the encoders write, and able to say no."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError

from penstock_gateway import schemas, wire
from penstock_gateway.envelope import Parsed, read_message
from penstock_gateway.ledger import FATES, Counts
from penstock_gateway.wire import LatencyMs, LedgerView, ModelView, Offload, Result
from penstock_models.items import Anomaly, Class, Detection, OutputTensor
from tests.fakes.schemas import FOLDER, validate

KINDS = [*schemas.OUTGOING, *schemas.INCOMING]
ANSWERS: list[dict[str, Any]] = [
    {"detections": (Detection((0.0, 0.0, 1.0, 1.0), 0.5, "person"),)},
    {"detections": ()},
    {"classes": (Class("cat", 3, 0.9),)},
    {"anomaly": Anomaly(1.0)},
    {"outputs": {"y": OutputTensor("float32", (1,), b"1234")}},
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_fresh_and_valid(kind: str) -> None:
    Draft202012Validator.check_schema(schemas.schema(kind))
    committed = (FOLDER / f"{kind}.json").read_text(encoding="utf-8")
    assert committed == schemas.text(kind), "run: python -m penstock_gateway.schemas docs/schemas"


def test_there_is_no_stray_schema() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(KINDS)


def a_result(bucket: str, reason: str, more: dict[str, Any]) -> Result:
    answered = bucket == "answered"
    return Result(
        id="a-1",
        device="door",
        stream="cam",
        seq=1,
        boot="b",
        ts=1,
        arrived=2,
        status=("degraded" if reason else "ok") if answered else bucket,
        reason=reason or None,
        answered_by="edge" if answered else None,
        model=ModelView("person", 1, "sha256:00") if answered else None,
        placement="onnxruntime:cpu" if answered else None,
        latency_ms=LatencyMs(total=1.0),
        offload=Offload("edge", "policy") if answered else None,
        **more,
    )


@pytest.mark.parametrize("more", ANSWERS)
def test_answers_of_every_task_are_valid(more: dict[str, Any]) -> None:
    validate("result", wire.encode_result(a_result("answered", "", more)))
    validate("result", wire.encode_result(a_result("answered", "stale", more)))


@pytest.mark.parametrize(("bucket", "reason"), sorted(f for f in FATES if f[0] in wire.STATUSES))
def test_refusals_of_every_reason_are_valid(bucket: str, reason: str) -> None:
    validate("result", wire.encode_result(a_result(bucket, reason, {"ts_suspect": True, "historical": True})))


@pytest.mark.parametrize(
    "change",
    [
        {"status": "fine"},
        {"status": "rejected"},
        {"reason": "decode"},
        {"model": None},
        {"answered_by": "me"},
        {"classes": []},
        {"detections": None},
        {"v": 2},
        {"ts": 1.5},
        {"latency_ms": {"total": 1.0}},
        {"offload": {"decision": "edge", "reason": "mood", "score": None}},
    ],
)
def test_a_wrong_result_is_named(change: dict[str, Any]) -> None:
    good = validate("result", wire.encode_result(a_result("answered", "", ANSWERS[0])))
    with pytest.raises(ValidationError):
        validate("result", msgspec.json.encode(good | change))


@pytest.mark.parametrize("missing", ["v", "seq", "reason", "answered_by", "offload", "detections"])
def test_a_field_that_is_always_written_is_required(missing: str) -> None:
    good = validate("result", wire.encode_result(a_result("answered", "", ANSWERS[0])))
    del good[missing]
    with pytest.raises(ValidationError):
        validate("result", msgspec.json.encode(good))


def test_the_other_messages_are_valid() -> None:
    counts = Counts()
    counts.received = 3
    counts.settle(("rejected", "decode"))
    ledger = LedgerView.of(counts)
    validate("receipt", wire.encode_receipt(wire.Receipt("b", -1, ((1, 2),), 0)))
    validate(
        "stats",
        wire.encode_stats(wire.Stats(start="s", uptime_s=1.0, ledger=ledger, streams={"a/b": ledger})),
    )
    for state in ("online", "degraded", "stopped", "offline"):
        validate("gateway-status", wire.encode_status(wire.GatewayStatus(state=state, start="s", since=1)))
    page = wire.StatusPage(
        start="s",
        uptime_s=0.5,
        state="online",
        ledger=ledger,
        starts=(wire.StartView(start="r", began=1, ended=2, how="killed", ledger=ledger, unknown=1),),
        streams={"a/b": ledger},
        models=(
            wire.ModelStatus(
                name="m",
                version=1,
                digest="sha256:0",
                state="available",
                placement="x",
                builds=(wire.BuildStatus(device="x", phase="failed", retry_s=1.5, reason="y"),),
            ),
        ),
        routes=(wire.RouteStatus(index=0, topic="a/+", model="m", mode="every"),),
        links=(wire.LinkStatus(name="control", connected=True, since=1, protocol=5),),
    )
    validate("status-page", wire.encode_status(page))
    with pytest.raises(ValueError, match="NaN"):
        validate("receipt", b'{"v": NaN}')


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "v": st.sampled_from([0, 1, 2]),
            "seq": st.integers(-1, 2**54),
            "ts": st.one_of(st.none(), st.integers(-1, 10)),
            "boot": st.sampled_from([None, "", "b", "x" * 65, 5]),
            "pr": st.integers(-1, 10),
            "dl": st.integers(0, 2),
            "sh": st.sampled_from([None, [], [1, 640], [0], [1] * 9]),
            "dt": st.sampled_from([None, "f32", "float32"]),
            "data": st.sampled_from([[1], "AAAA", 1, None]),
            "inputs": st.sampled_from([{"a": [1]}, {}, {"a": 1}, [1]]),
        },
    )
)
def test_the_schema_of_the_envelope_and_its_reader_agree(message: dict[str, Any]) -> None:
    payload = msgspec.json.encode(message)
    taken = isinstance(read_message(payload), Parsed)
    if "inputs" in message and (message.get("sh") is not None or message.get("dt") is not None):
        assert not taken  # a rule between fields that the schema does not state
        return
    try:
        validate("envelope", payload)
    except ValidationError:
        assert not taken
    else:
        assert taken
