"""What a payload may be: the content types and dtypes of contracts 2 as one table each, and how a type is told."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from penstock_gateway import cbor

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


def bare_type(content_type: str) -> str:
    """A content type without its parameters: those and case do not matter (RFC 9110 8.3.1)."""
    return content_type.partition(";")[0].strip().lower()


def sniff(payload: bytes) -> str:
    """Tell the content type by its signature, "" where there is none."""
    if payload.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if payload.startswith(b"\x89PNG"):
        return "image/png"
    if payload.startswith(b"RIFF") and payload[8:12] == b"WEBP":
        return "image/webp"
    if payload.startswith(cbor.SELF_DESCRIBED) or (payload[:1] and payload[0] >> 5 == cbor.MAP):
        return "application/cbor"
    if payload[:64].lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        return "application/json"
    return ""
