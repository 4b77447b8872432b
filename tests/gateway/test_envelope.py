"""Messages become headers and payloads: each format, each refusal, and any bytes whatever."""

from __future__ import annotations

import base64
import struct
import time
import tracemalloc
from typing import Any, Literal

import cbor2
import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_gateway.envelope import Header, Parsed, read_message
from penstock_gateway.formats import CONTENT_TYPES, NUMPY_NAMES, Profile
from penstock_gateway.header import MAX_INT
from penstock_models.items import EncodedImage, JsonValues, Named, Refusal, SenML, Tensor

JSON, CBOR, RAW = "application/json", "application/cbor", "application/x-tensor"
F32 = np.arange(6, dtype="<f4").tobytes()
HEADER: dict[str, Any] = {"ts": 1_700_000_000_000, "seq": 7, "boot": "b1", "dl": 200, "pr": 9}
USER = [(key, str(value)) for key, value in HEADER.items()]


def accepted(payload: bytes, **around: Any) -> Parsed:
    found = read_message(payload, **around)
    assert isinstance(found, Parsed), found
    return found


def refused(payload: bytes, **around: Any) -> str:
    found = read_message(payload, **around)
    assert isinstance(found, Refusal), found
    assert found.bucket == "rejected"
    assert len(found.detail) <= 200
    return found.reason


def envelope(kind: str, **keys: Any) -> bytes:
    return cbor2.dumps(keys) if kind == CBOR else msgspec.json.encode(keys)


# --- which format -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "media_type"),
    [
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\nrest", "image/png"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_pictures_go_by_type_or_signature(payload: bytes, media_type: str) -> None:
    picture = EncodedImage(payload, media_type)
    assert accepted(payload).payload == picture
    assert accepted(payload, content_type=media_type.upper() + "; q=1").payload == picture
    assert accepted(b"whatever", content_type=media_type).payload == EncodedImage(b"whatever", media_type)


def test_the_message_decides_before_the_route() -> None:
    route = Profile(RAW, "float32", (2, 3))
    assert accepted(F32, route=route).payload == Tensor(F32, "float32", (2, 3))
    assert accepted(b"[1]", content_type=JSON, route=route).payload == JsonValues(b"[1]", "float32", (2, 3))
    assert refused(F32, content_type="text/plain", route=route) == "content_type"


@pytest.mark.parametrize("payload", [b"", b"hello", b"\0\0\0\0", b"RIFF1234WAVE", b"\x80"])
def test_an_unknown_signature_is_refused(payload: bytes) -> None:
    assert refused(payload) == "content_type"


@pytest.mark.parametrize(
    ("content_type", "cbor"), [("application/senml+json", False), ("application/senml+cbor", True)]
)
def test_senml_goes_on_whole(content_type: str, cbor: bool) -> None:
    assert accepted(b"[...]", content_type=content_type, user=USER) == Parsed(
        Header(**HEADER), SenML(b"[...]", cbor)
    )


# --- header -------------------------------------------------------------------------------------


def test_user_properties_are_read_and_others_skipped() -> None:
    found = accepted(
        F32, content_type=RAW, user=[*USER, ("sh", "2x3"), ("dt", "f32"), ("traceparent", "00-x")]
    )
    assert found == Parsed(Header(**HEADER), Tensor(F32, "float32", (2, 3)))
    assert accepted(F32, content_type=RAW).header == Header(None, None, None, None, 5)


@pytest.mark.parametrize("kind", [JSON, CBOR])
def test_an_envelope_brings_the_same_keys_and_wins(kind: str) -> None:
    payload = envelope(kind, v=1, **HEADER, extra={"a": [1, {"b": None}]}, data=[1, 2])
    assert accepted(payload, content_type=kind, user=[("seq", "99")]).header == Header(**HEADER)
    bare = envelope(kind, data=[1, 2], boot=None)
    assert accepted(bare, content_type=kind, user=[("seq", "99")]).header == Header(seq=99)


BAD_KEYS = [
    ("ts", 1.5),
    ("ts", 2**64),
    ("seq", 2**64 - 1),
    ("seq", 1.5),
    ("seq", "7"),
    ("dl", -1),
    ("pr", 10),
    ("pr", True),
    ("boot", ""),
    ("boot", "x" * 65),
    ("boot", 7),
    ("v", 0),
    ("v", 2),
]


@pytest.mark.parametrize("kind", [JSON, CBOR])
@pytest.mark.parametrize(("key", "value"), BAD_KEYS)
def test_a_bad_key_in_an_envelope_is_a_schema_error(kind: str, key: str, value: Any) -> None:
    assert refused(envelope(kind, **{key: value}, data=[1]), content_type=kind) == "schema"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("ts", "-"),
        ("ts", ""),
        ("ts", "1e3"),
        ("seq", "٣"),
        ("seq", "1_0"),
        ("seq", str(2**53)),
        ("seq", "9" * 5000),
        ("dl", "-1"),
        ("pr", "10"),
        ("boot", ""),
        ("boot", "\ud800"),
        ("v", "2"),
    ],
)
def test_a_bad_user_property_is_a_schema_error(key: str, text: str) -> None:
    assert refused(b"\xff\xd8\xff", user=[(key, text)]) == "schema"


def test_a_newer_envelope_is_refused_by_name() -> None:
    found = read_message(b'{"v": 3, "data": [1]}')
    assert isinstance(found, Refusal)
    assert found.detail == "envelope version 3: this gateway understands up to 1"


# --- raw tensors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "tensor"),
    [
        ((), Tensor(F32)),
        ((("dt", "f32"),), Tensor(F32, "float32")),
        ((("dt", "u8"), ("sh", "24")), Tensor(F32, "uint8", (24,))),
        ((("sh", "1x2x3"),), Tensor(F32, "", (1, 2, 3))),
    ],
)
def test_raw_tensors(user: tuple[tuple[str, str], ...], tensor: Tensor) -> None:
    assert accepted(F32, content_type=RAW, user=user).payload == tensor


@pytest.mark.parametrize(
    ("user", "reason"),
    [
        ([("dt", "float32")], "dtype"),
        ([("dt", "")], "dtype"),
        ([("sh", "2x")], "shape"),
        ([("sh", "")], "shape"),
        ([("sh", "0x3")], "shape"),
        ([("sh", "[2,3]")], "shape"),
        ([("sh", "x".join("1" * 9))], "shape"),
        ([("sh", "99999999999")], "shape"),
        ([("dt", "f64"), ("sh", "4")], "shape"),
        ([("dt", "i16"), ("sh", "2147483647x2147483647x2147483647")], "shape"),
    ],
)
def test_bad_forms_of_a_tensor(user: list[tuple[str, str]], reason: str) -> None:
    assert refused(F32, content_type=RAW, user=user) == reason


def test_a_broken_value_is_a_shape_error() -> None:
    assert refused(F32[:-1], content_type=RAW, route=Profile(dtype="float32")) == "shape"


# --- JSON ---------------------------------------------------------------------------------------


def test_json_values_stay_text() -> None:
    text = b' {"data": [[1, 2.50], [3, 4]], "sh": [2, 2], "dt": "f32"} '
    assert accepted(text).payload == JsonValues(b"[[1, 2.50], [3, 4]]", "float32", (2, 2))
    encoded = base64.b64encode(F32)
    assert accepted(b'{"data": "%s"}' % encoded).payload == JsonValues(b'"%s"' % encoded)
    assert accepted(b"\n[1, 2]").payload == JsonValues(b"[1, 2]")


@pytest.mark.parametrize("kind", [JSON, CBOR])
def test_several_inputs(kind: str) -> None:
    found = accepted(envelope(kind, seq=1, inputs={"x:0": [1, 2], "y": [[3]]}), content_type=kind)
    assert found == Parsed(Header(seq=1), Named({"x:0": JsonValues(b"[1,2]"), "y": JsonValues(b"[[3]]")}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1,",
        b"{}",
        b'{"data": 1}',
        b'{"data": null}',
        b'{"data": {"a": 1}}',
        b'{"data": [1], "inputs": {"a": [1]}}',
        b'{"inputs": {}}',
        b'{"inputs": [1]}',
        b'{"inputs": {"a": [1]}, "dt": "f32"}',
        b'{"inputs": {"a": 1}}',
        b'{"data": [1]} x',
        b"\xff\xfe{}",
        b'{"boot": "\\ud800", "data": [1]}',
    ],
)
def test_json_that_is_no_envelope(text: bytes) -> None:
    assert refused(text, content_type=JSON) == "schema"


# --- CBOR ---------------------------------------------------------------------------------------

TAGS = {
    "uint8": (64, 64),
    "int8": (72, 72),
    "uint16": (69, 65),
    "int16": (77, 73),
    "int32": (78, 74),
    "int64": (79, 75),
    "float16": (84, 80),
    "float32": (85, 81),
    "float64": (86, 82),
}


@pytest.mark.parametrize("dtype", NUMPY_NAMES.values())
@pytest.mark.parametrize("order", ["<", ">"])
def test_typed_arrays_of_both_orders(dtype: str, order: Literal["<", ">"]) -> None:
    values = np.array([1, 2, 100, 7, 0, 5], dtype=dtype)
    tag = TAGS[dtype][order == ">"]
    flat = cbor2.CBORTag(tag, values.astype(values.dtype.newbyteorder(order)).tobytes())
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    assert accepted(cbor2.dumps({"data": flat})).payload == Tensor(raw, dtype)
    assert accepted(cbor2.dumps(flat), content_type=CBOR).payload == Tensor(raw, dtype)
    shaped = cbor2.CBORTag(40, [[2, 3], flat])
    assert accepted(b"\xd9\xd9\xf7" + cbor2.dumps(shaped)).payload == Tensor(raw, dtype, (2, 3))
    named = cbor2.dumps({"inputs": {"a": shaped}})
    assert accepted(named).payload == Named({"a": Tensor(raw, dtype, (2, 3))})


def test_bytes_and_plain_numbers_in_cbor() -> None:
    assert accepted(cbor2.dumps({"data": F32, "dt": "f32", "sh": [2, 3]})).payload == Tensor(
        F32, "float32", (2, 3)
    )
    nested = cbor2.dumps({"data": [[1, -2], [0.5, 2**40]]})
    assert accepted(nested).payload == JsonValues(b"[[1,-2],[0.5,1099511627776]]")
    indefinite = b"\xbf\x64data\x9f\x01\x9f\x02\xff\xff\xff"
    assert accepted(indefinite).payload == JsonValues(b"[1,[2]]")
    assert accepted(b"\xa2\x01\x5f\x41a\xff\x64data\x81\x01").payload == JsonValues(b"[1]"), (
        "foreign keys are skipped"
    )


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30),
    st.sampled_from("efd"),
)
def test_plain_floats_of_every_width(numbers: list[float], code: str) -> None:
    first = {"e": b"\xf9", "f": b"\xfa", "d": b"\xfb"}[code]
    limit = {"e": 65_504.0, "f": 3.0e38, "d": 1.0e308}[code]
    packed = [struct.pack(">" + code, max(-limit, min(limit, number))) for number in numbers]
    head = bytes([0x80 + len(packed)]) if len(packed) < 24 else bytes([0x98, len(packed)])
    found = accepted(head + b"".join(first + p for p in packed), content_type=CBOR).payload
    assert isinstance(found, JsonValues)
    assert msgspec.json.decode(found.text, type=list[float]) == [
        struct.unpack(">" + code, p)[0] for p in packed
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (cbor2.dumps({"data": [1.0, float("nan")]}), "not_finite"),
        (cbor2.dumps({"data": [1, [float("inf")]]}), "not_finite"),
        (cbor2.dumps({"data": cbor2.CBORTag(66, b"1234")}), "dtype"),
        (cbor2.dumps({"data": cbor2.CBORTag(87, b"1" * 16)}), "dtype"),
        (cbor2.dumps({"data": cbor2.CBORTag(85, F32), "dt": "u8"}), "dtype"),
        (cbor2.dumps({"data": F32, "dt": "f128"}), "dtype"),
        (cbor2.dumps({"data": cbor2.CBORTag(85, b"12345")}), "shape"),
        (cbor2.dumps({"data": cbor2.CBORTag(81, b"12345")}), "shape"),
        (cbor2.dumps({"data": cbor2.CBORTag(40, [[2, 2], cbor2.CBORTag(85, F32)])}), "shape"),
        (cbor2.dumps({"data": cbor2.CBORTag(40, [[0, 2], cbor2.CBORTag(85, F32)])}), "shape"),
        (cbor2.dumps({"data": cbor2.CBORTag(85, F32), "sh": [5]}), "shape"),
        (cbor2.dumps({"data": cbor2.CBORTag(40, [[2, 3], cbor2.CBORTag(85, F32)]), "sh": [7]}), "shape"),
        (cbor2.dumps({"data": cbor2.CBORTag(40, [[2, 3]])}), "schema"),
        (cbor2.dumps({"data": cbor2.CBORTag(40, [["2", 3], cbor2.CBORTag(85, F32)])}), "schema"),
        (cbor2.dumps({"data": cbor2.CBORTag(1, 5)}), "schema"),
        (cbor2.dumps({"data": [None]}), "schema"),
        (cbor2.dumps({"data": [True]}), "schema"),
        (cbor2.dumps({"data": [-(2**64)]}), "schema"),
        (cbor2.dumps({"data": {}}), "schema"),
        (cbor2.dumps({"data": "text"}), "schema"),
        (cbor2.dumps({"ts": [1], "data": [1]}), "schema"),
        (cbor2.dumps({"inputs": [1]}), "schema"),
        (cbor2.dumps({"inputs": {1: [1]}}), "schema"),
        (cbor2.dumps({}), "schema"),
        (cbor2.dumps({"data": [1]}) + b"\0", "schema"),
        (cbor2.dumps({"data": F32})[:-1], "schema"),
        (b"\xa1\x64data\x9a\xff\xff\xff\xff\x01", "schema"),
        (b"\xa1\x64data\xfb", "schema"),
        (b"\xa1\x64data\x82\xfb\0\0", "schema"),
        (b"\xa1\x64data\x5f\x41a\xff", "schema"),
        (b"\xa1\x64data\xff", "schema"),
        (b"\xa1\x62\xff\xff\x01", "schema"),
        (b"\xd9\xd9\xf7", "schema"),
        (b"\xbb" + b"\xff" * 8, "schema"),
    ],
)
def test_cbor_that_is_refused(payload: bytes, reason: str) -> None:
    assert refused(payload, content_type=CBOR) == reason


# --- bombs --------------------------------------------------------------------------------------

MIB8 = 8 << 20
BOMBS = {
    "json: deep lists": b'{"data":' + b"[" * (MIB8 // 2) + b"]" * (MIB8 // 2) + b"}",
    "json: bare deep lists": b"[" * MIB8,
    "json: deep maps": b'{"a":' * (MIB8 // 6),
    "json: a million keys": b"{" + b",".join(b'"k%d":0' % n for n in range(600_000)) + b"}",
    "json: a million inputs": b'{"inputs":{' + b",".join(b'"k%d":[]' % n for n in range(600_000)) + b"}}",
    "json: a huge seq": b'{"seq":' + b"9" * MIB8 + b',"data":[1]}',
    "json: a huge boot": b'{"boot":"' + b"a" * MIB8 + b'","data":[1]}',
    "cbor: deep lists": b"\xa1\x64data" + b"\x81" * MIB8,
    "cbor: deep foreign": b"\xa1\x61a" + b"\x81" * MIB8,
    "cbor: deep tags": b"\xa1\x61a" + b"\xc1" * MIB8,
    "cbor: empty lists": b"\xa1\x64data\x9f" + b"\x80" * MIB8,
    "cbor: numbers": b"\xa1\x64data\x9f" + b"\x01" * MIB8,
    "cbor: floats": b"\xa1\x64data\x9a\x00\x0d\x00\x00" + b"\xfb\0\0\0\0\0\0\0\0" * 851_968,
    "cbor: a million keys": b"\xbf" + b"".join(b"\x1a%c%c%c%c\0" % tuple(n.to_bytes(4, "big")) for n in range(1_000_000)),
    "cbor: huge length": b"\xa1\x64data\x9b\x00\x00\x00\xff\xff\xff\xff\xff",
    "cbor: huge exponent": b"\xa1\x64data\xc5\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_quickly_and_with_flat_memory(name: str) -> None:
    payload = BOMBS[name]
    tracemalloc.start()
    try:
        began = time.perf_counter()
        reason = refused(payload, content_type=JSON if name.startswith("json") else CBOR)
        took = time.perf_counter() - began
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reason == "schema"
    assert took < 1.0, f"{took:.3f} s"
    assert peak < 2.5 * len(payload) + (1 << 20), f"{peak} bytes for {len(payload)}"


# --- anything -----------------------------------------------------------------------------------

TYPES = st.one_of(st.just(""), st.sampled_from(sorted(CONTENT_TYPES)), st.text(max_size=20))
USERS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["v", "ts", "seq", "boot", "dl", "pr", "sh", "dt"]), st.text(max_size=5)),
        st.one_of(
            st.text(max_size=10), st.integers(-5, 2**60).map(str), st.sampled_from(["1x2", "f32", "u8"])
        ),
    ),
    max_size=4,
)
ROUTES = st.sampled_from([Profile(), Profile(RAW, "float32", (1, 6)), Profile(CBOR), Profile(JSON, "int8")])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()
)
CBOR_LEAVES = st.one_of(
    LEAVES,
    st.builds(
        lambda tag, data: cbor2.CBORTag(tag, data), st.integers(30, 90), st.one_of(st.binary(), LEAVES)
    ),
)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.one_of(
        st.sampled_from(["v", "ts", "seq", "boot", "dl", "pr", "sh", "dt", "data", "inputs"]),
        st.text(max_size=3),
    )
    return st.recursive(
        leaves, lambda t: st.lists(t, max_size=4) | st.dictionaries(keys, t, max_size=6), max_leaves=12
    )


PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.builds(lambda head, tail: head + tail, st.sampled_from([b"{", b"[", b"\xd9\xd9\xf7", b"\xa1\x64data"]), st.binary()),
    trees(LEAVES).map(msgspec.json.encode),
    trees(CBOR_LEAVES).map(cbor2.dumps),
)  # fmt: skip


@given(PAYLOADS, TYPES, USERS, ROUTES)
@example(b'{"data":[1],"sh":[' + b"1," * 50 + b"1]}", JSON, [], Profile())
@example(b'{"data":[1],"sh":[]}', JSON, [], Profile())
def test_any_message_is_parsed_or_refused(
    payload: bytes, content_type: str, user: list[tuple[str, str]], route: Profile
) -> None:
    found = read_message(payload, content_type=content_type, user=user, route=route)
    if isinstance(found, Refusal):
        assert found.reason in {"content_type", "schema", "dtype", "shape", "not_finite"}
        return
    header = found.header
    assert header.seq is None or 0 <= header.seq <= MAX_INT
    assert header.ts is None or 0 <= header.ts <= MAX_INT
    assert header.dl is None or header.dl > 0
    assert header.boot is None or 1 <= len(header.boot) <= 64
    assert 0 <= header.pr <= 9
    msgspec.json.encode(header)
