"""Sensor windows as message bodies, read back with libraries that the code under test does not use for it."""

import json
from typing import Any

import cbor2
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from penstock_models.errors import UsageError
from penstock_sim.sources.encodings import encode_window, stamp

WINDOW = np.array([[1.5, -2.0], [0.25, 3.0], [7.0, 8.0]], dtype=np.float32)


def test_a_tensor_is_its_little_endian_bytes_with_shape_and_dtype_beside_it() -> None:
    body, user = encode_window(WINDOW.astype(">f4"), "tensor")
    assert np.array_equal(np.frombuffer(body, "<f4").reshape(3, 2), WINDOW)
    assert user == (("sh", "3x2"), ("dt", "f32"))


@pytest.mark.parametrize(
    ("dtype", "name", "tag"),
    [
        ("int8", "i8", 72),
        ("uint8", "u8", 64),
        ("int16", "i16", 77),
        ("float16", "f16", 84),
        ("float32", "f32", 85),
    ],
)
def test_a_cbor_envelope_holds_an_rfc_8746_array(dtype: str, name: str, tag: int) -> None:
    body, user = encode_window(WINDOW.astype(dtype), "cbor")
    envelope = cbor2.loads(body)
    assert (envelope["v"], envelope["sh"], envelope["dt"], user) == (1, [3, 2], name, ())
    assert envelope["data"].tag == tag
    assert np.array_equal(np.frombuffer(envelope["data"].value, dtype).reshape(3, 2), WINDOW.astype(dtype))


def test_a_json_envelope_holds_nested_lists() -> None:
    body, user = encode_window(WINDOW, "json")
    assert (json.loads(body), user) == ({"v": 1, "data": WINDOW.tolist()}, ())


def test_a_senml_pack_has_one_record_a_value_that_ends_now() -> None:
    body, _ = encode_window(WINDOW, "senml", ("ax", "ay"), sample_rate_hz=10.0)
    pack = json.loads(body)
    assert [record["n"] for record in pack] == ["ax", "ay"] * 3
    assert [record["v"] for record in pack] == WINDOW.ravel().tolist()
    assert [record["t"] for record in pack] == [-0.2, -0.2, -0.1, -0.1, 0.0, 0.0]


@pytest.mark.parametrize(
    ("samples", "names", "words"),
    [
        (np.zeros(3, dtype=np.complex64), (), "complex64"),
        (WINDOW, ("only_one",), "2 column names"),
    ],
)
def test_what_has_no_encoding_is_refused(samples: Any, names: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        encode_window(samples, "senml", names)


@given(boot=st.text(min_size=1, max_size=64), seq=st.integers(0, 2**53 - 1), ts=st.integers(0, 2**53 - 1))
def test_a_stamp_adds_its_keys_and_leaves_the_others(boot: str, seq: int, ts: int) -> None:
    for media_type, decode in (("application/json", json.loads), ("application/cbor", cbor2.loads)):
        body, _ = encode_window(WINDOW, "json" if media_type.endswith("json") else "cbor")
        stamped = decode(stamp(media_type, body, boot, seq, ts))
        assert {key: stamped.pop(key) for key in ("boot", "seq", "ts")} == {
            "boot": boot,
            "seq": seq,
            "ts": ts,
        }
        assert stamped == decode(body)


def test_a_stamp_may_say_more() -> None:
    for media_type, decode in (("application/json", json.loads), ("application/cbor", cbor2.loads)):
        body, _ = encode_window(WINDOW, "json" if media_type.endswith("json") else "cbor")
        stamped = decode(stamp(media_type, body, "b", 0, 0, dl=200, pr=7))
        assert (stamped["dl"], stamped["pr"]) == (200, 7)


def test_only_a_small_cbor_map_can_be_stamped() -> None:
    with pytest.raises(UsageError, match="83"):
        stamp("application/cbor", cbor2.dumps([1, 2, 3]), "b", 0, 0)
