"""Whatever a device sends, the doctor neither fails nor grows, and its report can be printed and encoded."""

import io

import hypothesis.strategies as st
import msgspec
from hypothesis import given
from rich.console import Console

from penstock_gateway.mqtt import Message
from penstock_sim.doctor import view
from tests.sim.patient import EPOCH_MS, JPEG, Patient

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
levels = st.one_of(st.sampled_from(["penstock", "v1", "home", "dev", "door", "cam", "frame", "data", "receipt", "result", "status"]), texts)  # fmt: skip
topics = st.one_of(
    st.sampled_from(["cam/frame", "cam/data", "cam/receipt", "cam/result", "status"]).map(
        lambda end: f"penstock/v1/home/dev/door/{end}"
    ),
    st.lists(levels, min_size=1, max_size=8).map("/".join),
)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.sampled_from([0, 2**53 - 1, EPOCH_MS, EPOCH_MS + 10**6]))
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "boot": st.one_of(texts, numbers), "seq": numbers, "ts": numbers, "data": st.lists(st.integers(0, 9)),
        "through": numbers, "missing": st.lists(st.tuples(numbers, numbers), max_size=3), "window": numbers,
        "status": texts, "reason": texts, "v": st.sampled_from([1, 2]),
    },
)  # fmt: skip


def encoded(envelope: object) -> bytes:
    try:
        return msgspec.json.encode(envelope)
    except (msgspec.MsgspecError, OverflowError):
        return repr(envelope).encode()


messages = st.builds(
    Message,
    topic=topics,
    payload=st.one_of(st.binary(max_size=40), st.just(JPEG), envelopes.map(encoded)),
    retain=st.booleans(),
    content_type=st.one_of(
        st.sampled_from(["", "image/jpeg", "application/json", "application/cbor"]), texts
    ),
    expiry_s=st.none() | st.integers(0, 2**32 - 1),
    user=st.lists(
        st.tuples(
            st.sampled_from(["boot", "seq", "ts", "sh", "dt", "x"]), st.one_of(texts, numbers.map(str))
        ),
        max_size=5,
    ).map(tuple),
)


@given(st.lists(st.tuples(messages, st.floats(0, 20)), max_size=30))
def test_anything_may_come(heard: list[tuple[Message, float]]) -> None:
    patient = Patient()
    for message, wait in heard:
        patient.hear(message)
        patient.wait(wait)
    report = patient.report()
    assert msgspec.json.encode(report)
    paper = io.StringIO()
    view.show(Console(file=paper, width=100), report)
    printed = paper.getvalue()
    assert printed.splitlines()[-1].startswith("door: ")
    assert all(sign.isprintable() or sign == "\n" for sign in printed)
