"""Sensor windows as message bodies, and the stamp that an envelope gets when it is sent.

Owns the sending side of contracts 2 for sensor data. A body is encoded once, without `boot`, `seq` and `ts`; these are
spliced into a JSON or CBOR map at the moment of sending, so that a stamped message costs no new encoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cbor2
import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_models.errors import UsageError

Encoding = Literal["tensor", "cbor", "json", "senml"]

MEDIA_TYPES: Mapping[Encoding, str] = {
    "tensor": "application/x-tensor",
    "cbor": "application/cbor",
    "json": "application/json",
    "senml": "application/senml+json",
}

ENVELOPES = frozenset({"application/json", "application/cbor"})
"""The media types whose bodies can carry `boot`, `seq` and `ts` themselves."""

UserProperties = tuple[tuple[str, str], ...]

_DTYPES = {
    "uint8": ("u8", 64), "int8": ("i8", 72), "uint16": ("u16", 69), "int16": ("i16", 77), "int32": ("i32", 78),
    "int64": ("i64", 79), "float16": ("f16", 84), "float32": ("f32", 85), "float64": ("f64", 86),
}  # fmt: skip
"""NumPy name -> (name on the wire, RFC 8746 tag of the little-endian typed array)."""


def encode_window(
    samples: NDArray[np.generic], encoding: Encoding, names: Sequence[str] = (), sample_rate_hz: float = 1.0
) -> tuple[bytes, UserProperties]:
    """Encode one window, without stamp.

    Args:
        samples: rows in time order on axis 0; a second axis holds the columns.
        encoding: `tensor` needs the returned user properties (`sh`, `dt`); the others describe themselves.
        names: column names of a SenML pack; `x0, x1, …` when left out.
        sample_rate_hz: distance of the rows in a SenML pack.
    """
    samples = np.ascontiguousarray(samples)
    if samples.dtype.name not in _DTYPES:
        raise UsageError(f"expected samples of one of {', '.join(_DTYPES)}, got {samples.dtype.name}")
    name, tag = _DTYPES[samples.dtype.name]
    if encoding == "tensor":
        shape = "x".join(map(str, samples.shape))
        return _little(samples), (("sh", shape), ("dt", name))
    if encoding == "json":
        return msgspec.json.encode({"v": 1, "data": samples.tolist()}), ()
    if encoding == "cbor":
        data = cbor2.CBORTag(tag, _little(samples))
        return cbor2.dumps({"v": 1, "sh": list(samples.shape), "dt": name, "data": data}), ()
    return _senml(samples, names, sample_rate_hz), ()


def stamp(media_type: str, body: bytes, boot: str, seq: int, ts: int, **more: int) -> bytes:
    """Put `boot`, `seq`, `ts` and `more` keys into an encoded JSON object or CBOR map of at most 23 keys in all that has
    none of them."""
    keys = {"boot": boot, "seq": seq, "ts": ts, **more}
    if media_type == "application/json":
        return msgspec.json.encode(keys)[:-1] + b"," + body[1:]
    if not body or body[0] >> 5 != 5 or body[0] & 31 > 23 - len(keys):
        raise UsageError(
            f"expected a CBOR map of at most {23 - len(keys)} keys to stamp, got {body[:1].hex()!r}"
        )
    return bytes((body[0] + len(keys),)) + cbor2.dumps(keys)[1:] + body[1:]


def _little(samples: NDArray[np.generic]) -> bytes:
    return samples.astype(samples.dtype.newbyteorder("<"), copy=False).tobytes()


def _senml(samples: NDArray[np.generic], names: Sequence[str], sample_rate_hz: float) -> bytes:
    """One record a value (RFC 8428); times are seconds before the last row, so that they mean "until now"."""
    rows = samples.reshape(len(samples), -1)
    columns = list(names) or [f"x{i}" for i in range(rows.shape[1])]
    if len(columns) != rows.shape[1]:
        raise UsageError(f"expected {rows.shape[1]} column names for a SenML pack, got {len(columns)}")
    last = len(rows) - 1
    pack = [
        {"n": column, "t": round((index - last) / sample_rate_hz, 6), "v": value}
        for index, row in enumerate(rows.tolist())
        for column, value in zip(columns, row)
    ]
    return msgspec.json.encode(pack)
