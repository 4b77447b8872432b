"""What a message that is refused still says of itself: who sent it, and which number it has.

A refused frame has a number like any other. Without it the receipt would ask for the frame again, the same one would
be refused again, and its number would at last be counted missing. So each of `boot`, `seq` and `ts` is read by itself,
from whatever else is wrong around it, in the envelope first and then in the user properties. Never an exception.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from penstock_gateway import cbor
from penstock_gateway.formats import bare_type, sniff
from penstock_gateway.header import Fields, Header, UserProperties, is_clock, property_value

_NAMES = ("boot", "seq", "ts")


class _Envelope(Struct):
    boot: Raw | UnsetType = UNSET
    seq: Raw | UnsetType = UNSET
    ts: Raw | UnsetType = UNSET


_json = msgspec.json.Decoder(_Envelope)


def salvage(payload: bytes, content_type: str, user: UserProperties) -> Header:
    """The numbers of a message that `read_message` refused.

    Args:
        content_type: the message's, else its route's, "" where neither says it.
    """
    kind = bare_type(content_type) or sniff(payload)
    found: dict[str, Any] = {}
    for name, value in [*_properties(user), *_READERS.get(kind, _nothing)(payload)]:
        if value is None:
            continue
        try:
            found[name] = getattr(msgspec.convert({name: value}, Fields), name)
        except msgspec.ValidationError:
            continue
    if not is_clock(found.get("ts")):
        del found["ts"]
    return Header(**found)


def _properties(user: UserProperties) -> Iterable[tuple[str, Any]]:
    return [(key, property_value(key, text)) for key, text in user if key in _NAMES]


def _nothing(payload: bytes) -> Iterable[tuple[str, Any]]:
    return ()


def _in_json(payload: bytes) -> Iterable[tuple[str, Any]]:
    try:
        envelope = _json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    raws = [(name, getattr(envelope, name)) for name in _NAMES]
    return [(name, _value(raw)) for name, raw in raws if isinstance(raw, Raw)]


def _value(raw: Raw) -> Any:
    """What a text says, None where it says nothing: numbers and strings were not looked into until now."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _in_cbor(payload: bytes) -> Iterable[tuple[str, Any]]:
    reader = cbor.Reader(payload)
    found: list[tuple[str, Any]] = []
    try:
        if reader.peek() != cbor.MAP:
            return ()
        for key in reader.names():
            if key in _NAMES:
                found.append((key, reader.scalar()))
            else:
                reader.skip()
    except (cbor.CborError, UnicodeDecodeError):
        pass  # what stands before the damage counts
    return found


_READERS = {"application/json": _in_json, "application/cbor": _in_cbor}
