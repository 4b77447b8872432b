"""Numbers out of tensors, JSON and SenML."""

import base64
import json
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_models.items import EncodedImage, JsonValues, Payload, SenML, Tensor
from penstock_models.payloads import DTYPES, numbers_of, require_finite
from penstock_models.rejection import Rejection


def read(payload: Payload, default: str = "float32", real: str = "float32") -> np.ndarray:
    numbers = numbers_of(payload, default, real=real)
    return numbers.values.reshape(numbers.shape or -1)


def reason(payload: Payload, **options: Any) -> str:
    with pytest.raises(Rejection) as refused:
        require_finite(read(payload, **options))
    return refused.value.reason


@pytest.mark.parametrize("short", DTYPES)
def test_tensor_of_every_dtype_by_both_names(short: str) -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]], DTYPES[short])
    for name in (short, DTYPES[short]):
        found = read(Tensor(memoryview(values.tobytes()), name, (2, 3)))
        assert found.dtype == values.dtype and np.array_equal(found, values)


def test_tensor_without_dtype_is_the_models() -> None:
    assert read(Tensor(b"\x01\xff"), default="int8").tolist() == [1, -1]


JSON = [
    ("[[1, 2], [3, 4]]", [[1.0, 2.0], [3.0, 4.0]]),
    ("[1.5]", [1.5]),
    (json.dumps(base64.b64encode(np.array([1.0, 2.0], "<f4").tobytes()).decode()), [1.0, 2.0]),
]


@pytest.mark.parametrize(("text", "values"), JSON)
def test_json(text: str, values: list[Any]) -> None:
    assert read(JsonValues(text.encode())).tolist() == values


def test_json_integers_are_exact() -> None:
    assert read(JsonValues(b"[9007199254740993]", "i64")).tolist() == [9007199254740993]


BAD = [
    (Tensor(b""), "empty"),
    (JsonValues(b""), "empty"),
    (SenML(b""), "empty"),
    (Tensor(b"abcde", "f32"), "shape"),
    (Tensor(bytes(4), "f32", (0,)), "shape"),
    (Tensor(bytes(4), "f32", (1,) * 9), "shape"),
    (Tensor(bytes(4), "complex64"), "dtype"),
    (Tensor(bytes(4), "object"), "dtype"),
    (Tensor(np.array([1, np.nan], "<f4").tobytes(), "f32"), "not_finite"),
    (Tensor(np.array([1, -np.inf], "<f2").tobytes(), "f16"), "not_finite"),
    (JsonValues(b"[" * 100_000), "schema"),
    (JsonValues(b"[" * 5_000 + b"]" * 5_000), "schema"),
    (JsonValues(b"[[1, 2], [3]]"), "schema"),
    (JsonValues(b'["a"]'), "schema"),
    (JsonValues(b"[null]"), "schema"),
    (JsonValues(b"[true]"), "schema"),
    (JsonValues(b"[]"), "schema"),
    (JsonValues(b"{}"), "schema"),
    (JsonValues(b"1"), "schema"),
    (JsonValues(b"[NaN]"), "schema"),
    (JsonValues(b'"not base64!"'), "schema"),
    (JsonValues(b"[1e39]"), "not_finite"),
    (JsonValues(b"[300]", "i8"), "dtype"),
    (JsonValues(b"[1.5]", "i8"), "dtype"),
    (EncodedImage(b"\xff\xd8\xff"), "content_type"),
]


@pytest.mark.parametrize(("payload", "expected"), BAD)
def test_bad_numbers(payload: Payload, expected: str) -> None:
    assert reason(payload) == expected


def test_finite_values_whose_sum_overflows_are_finite() -> None:
    require_finite(np.full(4, np.finfo(np.float64).max))


def test_senml_resolves_base_fields() -> None:
    pack = [
        {"bn": "dev:", "bt": 100, "bv": 10, "n": "x", "v": 1},
        {"n": "y", "v": 2, "t": 0},
        {"n": "y", "v": 4, "t": 1},
        {"n": "x", "v": 3, "t": 1},
        {"n": "x", "bt": 50, "v": 5},
        {"n": "y"},
    ]
    expected = [[15, 10], [11, 12], [13, 14]]  # rows in time order, columns x and y
    assert read(SenML(json.dumps(pack).encode())).tolist() == expected


def test_senml_cbor_is_the_same() -> None:
    named = [{"bn": "a", "v": 1.5, "t": 0}, {"v": 2.5, "t": 1}]
    labelled = [{-2: "a", 2: 1.5, 6: 0}, {2: 2.5, 6: 1}]
    as_json, as_cbor = read(SenML(json.dumps(named).encode())), read(SenML(cbor2.dumps(labelled), cbor=True))
    assert as_json.tolist() == as_cbor.tolist() == [[1.5], [2.5]]


BAD_SENML: list[Any] = [
    {},
    [],
    [1],
    [{"n": "a"}],
    [{"v": 1}],
    [{"n": "a", "vs": "text"}],
    [{"n": "a", "v": "1"}],
    [{"n": "a", "v": True}],
    [{"n": "a", "v": 1, "bver": 11}],
    [{"n": "a", "v": 1, "odd_": 1}],
    [{"n": "a", "v": 1}, {"n": "a", "v": 2}],
    [{"n": "a", "v": 1, "t": 0}, {"n": "b", "v": 1, "t": 1}],
    [{"n": "a", "v": 10**400}],
]


@pytest.mark.parametrize("pack", BAD_SENML)
def test_bad_senml(pack: Any) -> None:
    assert reason(SenML(json.dumps(pack).encode())) == "schema"


@given(st.binary(max_size=80), st.booleans())
def test_no_senml_bytes_raise_anything_but_a_rejection(data: bytes, cbor: bool) -> None:
    try:
        read(SenML(data, cbor))
    except Rejection as refused:
        assert refused.reason in ("schema", "empty")
