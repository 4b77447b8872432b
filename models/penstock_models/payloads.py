"""Numbers out of payloads: raw tensors, JSON and SenML to flat arrays with the shape that the sender stated.

What a model makes of the numbers is the steps' business; pictures are `images`'.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, NamedTuple

import msgspec
import numpy as np

from penstock_models.items import JsonValues, Payload, SenML, Tensor
from penstock_models.rejection import Rejection
from penstock_models.runtimes.session import Array
from penstock_models.senml import senml_table

_KINDS = {"u": "uint", "i": "int", "f": "float"}
_SHORT = ("u8", "i8", "u16", "i16", "i32", "i64", "f16", "f32", "f64")
DTYPES = {short: _KINDS[short[0]] + short[1:] for short in _SHORT}
_NAMES = {**DTYPES, **{name: name for name in DTYPES.values()}}

MAX_AXES = 8


class Numbers(NamedTuple):
    """Flat values; `shape` is () where none was stated."""

    values: Array
    shape: tuple[int, ...] = ()


def dtype_of(name: str, default: str) -> np.dtype[Any]:
    """The little-endian dtype of a short or NumPy name, or of `default` for "".

    Raises:
        Rejection: `dtype`, for any other name.
    """
    known = _NAMES.get(name or default)
    if known is None:
        raise Rejection("dtype", f"dtype {name or default!r} is not one of {', '.join(DTYPES)}")
    return np.dtype(known)


def numbers_of(payload: Payload, default: str, *, real: str) -> Numbers:
    """The numbers of a tensor, JSON or SenML payload.

    Args:
        default: dtype of raw bytes that state none.
        real: dtype of JSON numbers that state none.

    Raises:
        Rejection: `empty`, `dtype`, `shape`, `schema` or `content_type`.
    """
    match payload:
        case Tensor(data=data, dtype=dtype, shape=shape):
            return Numbers(_from_bytes(data, dtype_of(dtype, default)), _shape(shape))
        case JsonValues():
            return _from_json(payload, default, real)
        case SenML(data=data, cbor=cbor):
            if not len(data):
                raise Rejection("empty", "the payload has no bytes")
            table = senml_table(data, cbor)
            return Numbers(table.reshape(-1), table.shape)
        case _:
            kind = type(payload).__name__
            raise Rejection(
                "content_type", f"this model takes numbers (a tensor, JSON, CBOR or SenML), got {kind}"
            )


def require_finite(values: Array) -> None:
    """Raise `Rejection` `not_finite` where a float array holds NaN or infinity."""
    if values.dtype.kind != "f" or not values.size:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)) or np.isfinite(values).all():
            return
    at = int(np.flatnonzero(~np.isfinite(values.reshape(-1)))[0])
    raise Rejection("not_finite", f"value {at} is {values.reshape(-1)[at]}")


def _from_bytes(data: bytes | memoryview, dtype: np.dtype[Any]) -> Array:
    if not len(data):
        raise Rejection("empty", "the payload has no bytes")
    view = memoryview(data)
    if view.nbytes % dtype.itemsize:
        raise Rejection("shape", f"{view.nbytes} bytes are not a whole number of {dtype.name} values")
    return np.frombuffer(view, dtype)


def _from_json(payload: JsonValues, default: str, real: str) -> Numbers:
    if not len(payload.text):
        raise Rejection("empty", "the payload has no bytes")
    try:
        parsed = msgspec.json.decode(payload.text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Rejection("schema", f"not JSON: {' '.join(str(error).split())[:120]}") from error
    if isinstance(parsed, str):
        return Numbers(_from_bytes(_base64(parsed), dtype_of(payload.dtype, default)), _shape(payload.shape))
    values = _nested(parsed)
    # A flat list states no shape, as raw values do not: they are the item's in row-major order.
    stated = _shape(payload.shape) or (values.shape if values.ndim > 1 else ())
    return Numbers(_converted(values.reshape(-1), dtype_of(payload.dtype, real)), stated)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejection("schema", f"the JSON string is not base64: {error}") from error


def _nested(parsed: Any) -> Array:
    """Nested lists of numbers as an array; ragged lists, texts and nulls are refused."""
    if not isinstance(parsed, list):
        raise Rejection(
            "schema", f"expected nested lists of numbers or one base64 string, got {type(parsed).__name__}"
        )
    try:
        values = np.array(parsed)
    except (ValueError, OverflowError, RecursionError) as error:
        raise Rejection("schema", "the JSON lists are ragged or hold what is no number") from error
    if values.dtype.kind not in "iuf" or not values.size or values.ndim > MAX_AXES:
        raise Rejection("schema", "expected non-empty nested lists of numbers")
    return values


def _converted(values: Array, dtype: np.dtype[Any]) -> Array:
    """Numbers of a text to `dtype`, exactly where it is an integer type."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(dtype)
    limits = np.iinfo(dtype)
    whole = values.dtype.kind in "iu" or bool((values == np.trunc(values)).all())
    if not whole or values.min() < limits.min or values.max() > limits.max:
        raise Rejection("dtype", f"the JSON numbers do not fit {dtype.name}")
    return values.astype(dtype)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) > MAX_AXES or any(axis < 1 for axis in shape):
        raise Rejection("shape", f"shape {shape} has an axis below 1 or more than {MAX_AXES} axes")
    return shape
