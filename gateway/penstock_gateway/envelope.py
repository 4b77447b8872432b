"""From an MQTT message to a header and a payload (contracts 2), at admission, so cheap and never an exception.

It decides what kind of payload a message is and reads who, when and how urgent; images are not decoded, tensors not
converted and JSON numbers not parsed here (that is the executor's). Sizes (`empty`, `too_large`) are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from penstock_gateway import cbor
from penstock_gateway.formats import CONTENT_TYPES, ITEM_BYTES, Profile, bare_type, sniff
from penstock_gateway.header import (
    KEYS,
    NO_FIELDS,
    Fields,
    Header,
    Refused,
    Shape,
    UserProperties,
    fields_of,
    form_of,
    from_user,
    header_of,
)
from penstock_models.items import EncodedImage, JsonValues, Named, Payload, Refusal, SenML, Tensor

__all__ = ["MAX_INPUTS", "Header", "JsonEnvelope", "Parsed", "read_message"]

MAX_INPUTS = 64
"""How many named tensors one message may hold."""


class Parsed(Struct, frozen=True):
    """A message that may become a frame."""

    header: Header
    payload: Payload


_VALUES_SCHEMA = {"type": ["array", "string"]}
_INPUTS_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": MAX_INPUTS,
    "additionalProperties": _VALUES_SCHEMA,
}


class JsonEnvelope(Fields, frozen=True):
    """A JSON envelope. Its values stay text: `data` nested lists or base64, or `inputs` several of them by name."""

    data: Annotated[Raw, Meta(extra_json_schema=_VALUES_SCHEMA)] | UnsetType = UNSET
    inputs: Annotated[Raw, Meta(extra_json_schema=_INPUTS_SCHEMA)] | UnsetType = UNSET


class _Message(Struct, frozen=True):
    """What the readers need: the bytes, the fields of the user properties, and the route's word."""

    payload: bytes
    fields: Fields
    route: Profile


_NO_PROFILE = Profile()

_envelope = msgspec.json.Decoder(JsonEnvelope)
_raw = msgspec.json.Decoder(Raw)
_raws = msgspec.json.Decoder(dict[str, Raw])


def read_message(
    payload: bytes, *, content_type: str = "", user: UserProperties = (), route: Profile = _NO_PROFILE
) -> Parsed | Refusal:
    """Read one message.

    Args:
        payload: the message's own bytes, at most what the caller allows.
        content_type: the v5 property, "" without.
        user: the v5 user properties.
        route: what the route says where the message does not.

    Returns:
        The header and the payload not yet decoded, or `rejected` with `content_type`, `schema`, `dtype`, `shape` or
        `not_finite`.
    """
    try:
        read = _reader(content_type or route.content_type, payload)
        return read(_Message(payload, from_user(user) if user else NO_FIELDS, route))
    except Refused as refused:
        return refused.refusal


def _reader(content_type: str, payload: bytes) -> Callable[[_Message], Parsed]:
    read = _READERS.get(content_type)
    if read is not None:
        return read
    if not content_type:
        found = sniff(payload)
        if not found:
            raise Refused("content_type", "no content type given, and no known signature")
        return _READERS[found]
    read = _READERS.get(bare_type(content_type))
    if read is None:
        raise Refused("content_type", f"unknown content type {content_type!r}")
    return read


# --- readers, one a content type ----------------------------------------------------------------


def _image(media_type: str) -> Callable[[_Message], Parsed]:
    def read(message: _Message) -> Parsed:
        return Parsed(header_of(NO_FIELDS, message.fields), EncodedImage(message.payload, media_type))

    return read


def _senml(is_cbor: bool) -> Callable[[_Message], Parsed]:
    def read(message: _Message) -> Parsed:
        return Parsed(header_of(NO_FIELDS, message.fields), SenML(message.payload, is_cbor))

    return read


def _x_tensor(message: _Message) -> Parsed:
    header = header_of(NO_FIELDS, message.fields)
    dtype, shape = form_of(NO_FIELDS, message.fields, message.route)
    return Parsed(header, _tensor(message.payload, dtype, shape))


def _tensor(data: bytes, dtype: str, shape: Shape) -> Tensor:
    """A tensor whose size fits its dtype and shape, as far as they are known."""
    if dtype:
        count, rest = divmod(len(data), ITEM_BYTES[dtype])
        if rest:
            raise Refused("shape", f"{len(data)} bytes are no whole number of {dtype} values")
        if shape and prod(shape) != count:
            raise Refused("shape", f"shape {list(shape)} of {dtype} needs {prod(shape)} values, came {count}")
    return Tensor(data, dtype, shape)


def _json(message: _Message) -> Parsed:
    try:
        if message.payload[:64].lstrip(b" \t\r\n")[:1] == b"[":
            fields, payload = (
                NO_FIELDS,
                _json_values(
                    _raw.decode(message.payload), *form_of(NO_FIELDS, message.fields, message.route)
                ),
            )
            return Parsed(header_of(fields, message.fields), payload)
        envelope = _envelope.decode(message.payload)
        return Parsed(header_of(envelope, message.fields), _json_payload(envelope, message))
    except msgspec.ValidationError as error:
        raise Refused("schema", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("schema", f"no JSON: {error}") from None


def _json_payload(envelope: JsonEnvelope, message: _Message) -> Payload:
    if (envelope.data is UNSET) == (envelope.inputs is UNSET):
        raise Refused("schema", "expected either `data` or `inputs`")
    if not isinstance(envelope.inputs, Raw):
        assert isinstance(envelope.data, Raw)
        return _json_values(envelope.data, *form_of(envelope, message.fields, message.route))
    text = bytes(envelope.inputs)
    # Each input brings a colon and a name few more: counted before a map of a million keys is built.
    if text.count(b":") > 8 * MAX_INPUTS:
        raise Refused("schema", f"inputs: expected at most {MAX_INPUTS}")
    return _named({name: _json_values(raw, "", ()) for name, raw in _raws.decode(text).items()}, envelope)


def _json_values(raw: Raw, dtype: str, shape: Shape) -> JsonValues:
    text = bytes(raw)
    if text.lstrip(b" \t\r\n")[:1] not in (b"[", b'"'):
        raise Refused("schema", "expected values as nested lists or as base64")
    return JsonValues(text, dtype, shape)


def _named(values: dict[str, Tensor | JsonValues], fields: Fields) -> Named:
    if fields.sh is not None or fields.dt is not None:
        raise Refused("schema", "`sh` and `dt` describe `data`; they cannot describe `inputs`")
    if not 1 <= len(values) <= MAX_INPUTS:
        raise Refused("schema", f"inputs: expected 1 to {MAX_INPUTS}, came {len(values)}")
    return Named(values)


def _cbor(message: _Message) -> Parsed:
    reader = cbor.Reader(message.payload)
    try:
        if reader.peek() == cbor.MAP:
            parsed = _cbor_envelope(reader, message)
        else:
            payload = _cbor_values(reader.values(), *form_of(NO_FIELDS, message.fields, message.route))
            parsed = Parsed(header_of(NO_FIELDS, message.fields), payload)
        reader.finish()
        return parsed
    except cbor.UnsupportedDtype as error:
        raise Refused("dtype", str(error)) from None
    except cbor.BadShape as error:
        raise Refused("shape", str(error)) from None
    except cbor.NotFinite as error:
        raise Refused("not_finite", str(error)) from None
    except (cbor.CborError, UnicodeDecodeError) as error:
        raise Refused("schema", f"no envelope in CBOR: {error}") from None


def _cbor_envelope(reader: cbor.Reader, message: _Message) -> Parsed:
    found: dict[str, Any] = {}
    data: Any = None
    inputs: dict[str, Any] | None = None
    for key in reader.names():
        if key == "data":
            data = reader.values()
        elif key == "inputs":
            inputs = _cbor_inputs(reader)
        elif key == "sh":
            found["sh"] = reader.integers()
        elif key in KEYS:
            found[key] = reader.scalar()
        else:
            reader.skip()
    fields = fields_of(found) if found else NO_FIELDS
    header = header_of(fields, message.fields)
    if (data is None) == (inputs is None):
        raise Refused("schema", "expected either `data` or `inputs`")
    if inputs is None:
        return Parsed(header, _cbor_values(data, *form_of(fields, message.fields, message.route)))
    return Parsed(header, _named({name: _cbor_values(v, "", ()) for name, v in inputs.items()}, fields))


def _cbor_inputs(reader: cbor.Reader) -> dict[str, Any]:
    if reader.peek() != cbor.MAP:
        raise Refused("schema", "inputs: expected a map of names")
    inputs: dict[str, Any] = {}
    for name in reader.names():
        if name is None or len(inputs) == MAX_INPUTS:
            raise Refused("schema", f"inputs: expected at most {MAX_INPUTS} values, each with a name")
        inputs[name] = reader.values()
    return inputs


def _cbor_values(values: cbor.Typed | bytes | list[object], dtype: str, shape: Shape) -> Tensor | JsonValues:
    """Plain numbers go on as JSON text, since like those they have no dtype of their own."""
    if isinstance(values, bytes):
        return _tensor(values, dtype, shape)
    if isinstance(values, list):
        return JsonValues(msgspec.json.encode(values), dtype, shape)
    if dtype and dtype != values.dtype:
        raise Refused("dtype", f"expected {dtype}, came a typed array of {values.dtype}")
    if shape and values.shape and prod(shape) != prod(values.shape):
        raise Refused("shape", f"expected {list(shape)}, came an array of {list(values.shape)}")
    return _tensor(values.data, values.dtype, values.shape or shape)


_READERS: dict[str, Callable[[_Message], Parsed]] = {
    "image/jpeg": _image("image/jpeg"),
    "image/png": _image("image/png"),
    "image/webp": _image("image/webp"),
    "application/x-tensor": _x_tensor,
    "application/cbor": _cbor,
    "application/json": _json,
    "application/senml+json": _senml(False),
    "application/senml+cbor": _senml(True),
}
assert _READERS.keys() == CONTENT_TYPES
