"""What a payload may be: the content types and dtypes of contracts 2, as one table each."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

ContentType = Literal[
    "image/jpeg",
    "image/png",
    "image/webp",
    "application/x-tensor",
    "application/cbor",
    "application/json",
    "application/senml+json",
    "application/senml+cbor",
]
CONTENT_TYPES: frozenset[str] = frozenset(get_args(ContentType))

Dtype = Literal["u8", "i8", "u16", "i16", "i32", "i64", "f16", "f32", "f64"]
NUMPY_NAMES: dict[str, str] = {
    "u8": "uint8",
    "i8": "int8",
    "u16": "uint16",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
}
"""The short dtype names of the wire, and NumPy's."""

ITEM_BYTES: dict[str, int] = {name: int(short[1:]) // 8 for short, name in NUMPY_NAMES.items()}
"""Bytes a value, by NumPy name."""

MAX_DIMS = 8
"""The most dimensions that a tensor may have."""

MAX_DIM = 2**31 - 1
"""The largest extent of one dimension."""


class Profile(msgspec.Struct, frozen=True):
    """What a route says of messages that do not say it: "" and () where it says nothing. `dtype` is NumPy's name."""

    content_type: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
