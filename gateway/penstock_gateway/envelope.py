"""From an MQTT message to a header and a payload (contracts 2), at admission, so cheap and never an exception.

It decides what kind of payload a message is and reads who, when and how urgent; images are not decoded, tensors not
converted and JSON numbers not parsed here (that is the executor's). Sizes (`empty`, `too_large`) are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from penstock_gateway import cbor
from penstock_gateway.formats import CONTENT_TYPES, ITEM_BYTES, MAX_DIM, MAX_DIMS, NUMPY_NAMES, Profile
from penstock_models.items import EncodedImage, JsonValues, Named, Payload, Refusal, SenML, Tensor

VERSION = 1
"""The newest envelope that is understood."""
MAX_INT = 2**53 - 1
DEFAULT_PRIORITY = 5
MAX_INPUTS = 64
MAX_DETAIL = 200

Shape = tuple[int, ...]
UserProperties = Sequence[tuple[str, str]]


class Header(Struct, frozen=True):
    """What a message says of itself. Times are milliseconds (`ts` since the epoch); None where it says nothing."""

    ts: int | None = None
    seq: int | None = None
    boot: str | None = None
    dl: int | None = None
    pr: int = DEFAULT_PRIORITY


class Parsed(Struct, frozen=True):
    """A message that may become a frame."""

    header: Header
    payload: Payload


Number = Annotated[int, Meta(ge=0, le=MAX_INT)]
Extent = Annotated[int, Meta(ge=1, le=MAX_DIM)]


# What is checked by hand, where a refusal has a reason of its own or the values stay text.
_SHAPE_SCHEMA = {
    "minItems": 1,
    "maxItems": MAX_DIMS,
    "items": {"type": "integer", "minimum": 1, "maximum": MAX_DIM},
}
_VALUES_SCHEMA = {"type": ["array", "string"]}
_INPUTS_SCHEMA = {
    "type": "object",
    "minProperties": 1,
    "maxProperties": MAX_INPUTS,
    "additionalProperties": _VALUES_SCHEMA,
}


class Fields(Struct, frozen=True):
    """The keys of contracts 2 wherever they stand. `sh` as a list, `dt` as the wire's short name."""

    v: Annotated[int, Meta(ge=1, extra_json_schema={"maximum": VERSION})] | None = None
    ts: Number | None = None
    seq: Number | None = None
    boot: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    dl: Annotated[int, Meta(ge=1, le=MAX_INT)] | None = None
    pr: Annotated[int, Meta(ge=0, le=9)] | None = None
    sh: Annotated[Shape, Meta(extra_json_schema=_SHAPE_SCHEMA)] | None = None
    dt: Annotated[str, Meta(extra_json_schema={"enum": list(NUMPY_NAMES)})] | None = None


class JsonEnvelope(Fields, frozen=True):
    """A JSON envelope. Its values stay text: `data` nested lists or base64, or `inputs` several of them by name."""

    data: Annotated[Raw, Meta(extra_json_schema=_VALUES_SCHEMA)] | UnsetType = UNSET
    inputs: Annotated[Raw, Meta(extra_json_schema=_INPUTS_SCHEMA)] | UnsetType = UNSET


class _Refused(Exception):
    """Leaves the reading with a reason of contracts 4."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal("rejected", reason, detail[:MAX_DETAIL])


class _Message(Struct, frozen=True):
    """What the readers need: the bytes, the fields of the user properties, and the route's word."""

    payload: bytes
    fields: Fields
    route: Profile


_NO_FIELDS = Fields()
_PLAIN = Header()
_NO_PROFILE = Profile()

_envelope = msgspec.json.Decoder(JsonEnvelope)
_raw = msgspec.json.Decoder(Raw)
_raws = msgspec.json.Decoder(dict[str, Raw])
_KEYS = frozenset(f.name for f in msgspec.structs.fields(Fields))
_INTEGERS = frozenset({"v", "ts", "seq", "dl", "pr"})


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
        return read(_Message(payload, _from_user(user) if user else _NO_FIELDS, route))
    except _Refused as refused:
        return refused.refusal


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


def _reader(content_type: str, payload: bytes) -> Callable[[_Message], Parsed]:
    read = _READERS.get(content_type)
    if read is not None:
        return read
    if not content_type:
        found = sniff(payload)
        if not found:
            raise _Refused("content_type", "no content type given, and no known signature")
        return _READERS[found]
    # parameters and case do not matter (RFC 9110 8.3.1)
    read = _READERS.get(content_type.partition(";")[0].strip().lower())
    if read is None:
        raise _Refused("content_type", f"unknown content type {content_type!r}")
    return read


# --- header -------------------------------------------------------------------------------------


def _from_user(user: UserProperties) -> Fields:
    """The known keys of the user properties; others are skipped."""
    found: dict[str, Any] = {}
    for key, text in user:
        if key in _INTEGERS:
            if not (text.isascii() and text.isdigit() and len(text) <= 16):
                raise _Refused("schema", f"user property {key}: expected an integer, came {text!r}")
            found[key] = int(text)
        elif key == "sh":
            found[key] = _shape_text(text)
        elif key in _KEYS:
            found[key] = text
    return _fields(found) if found else _NO_FIELDS


def _shape_text(text: str) -> Shape:
    parts = text.split("x")
    if len(parts) > MAX_DIMS or not all(p.isascii() and p.isdigit() and len(p) <= 10 for p in parts):
        raise _Refused("shape", f"user property sh: expected a shape such as 1x640, came {text!r}")
    return tuple(map(int, parts))


def _fields(found: dict[str, Any]) -> Fields:
    try:
        return msgspec.convert(found, Fields)
    except msgspec.ValidationError as error:
        raise _Refused("schema", str(error)) from None


def _header(own: Fields, around: Fields) -> Header:
    """What the envelope says, else the user properties."""
    for fields in (own, around):
        if fields.v is not None and fields.v > VERSION:
            raise _Refused("schema", f"envelope version {fields.v}: this gateway understands up to {VERSION}")
    if own is around is _NO_FIELDS:
        return _PLAIN
    boot = _first(own.boot, around.boot)
    if boot is not None and not boot.isascii():
        _check_encodable(boot)
    pr = _first(own.pr, around.pr)
    return Header(
        ts=_first(own.ts, around.ts),
        seq=_first(own.seq, around.seq),
        boot=boot,
        dl=_first(own.dl, around.dl),
        pr=DEFAULT_PRIORITY if pr is None else pr,
    )


def _first(one: Any, other: Any) -> Any:
    return other if one is None else one


def _check_encodable(text: str) -> None:
    """A lone surrogate cannot go out again."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Refused("schema", "boot is no valid text") from None


def _form(own: Fields, message: _Message) -> tuple[str, Shape]:
    """The dtype (NumPy's name) and shape of `data`: the envelope's, else the properties', else the route's."""
    dt = _first(own.dt, message.fields.dt)
    sh = _first(own.sh, message.fields.sh)
    if dt is not None and dt not in NUMPY_NAMES:
        raise _Refused("dtype", f"dt: expected one of {', '.join(NUMPY_NAMES)}, came {dt!r}")
    if sh is not None and not (1 <= len(sh) <= MAX_DIMS and min(sh) >= 1 and max(sh) <= MAX_DIM):
        raise _Refused(
            "shape", f"sh: expected 1 to {MAX_DIMS} positive dimensions, came {list(sh[: MAX_DIMS + 1])}"
        )
    return NUMPY_NAMES[dt] if dt else message.route.dtype, message.route.shape if sh is None else sh


# --- readers, one a content type ----------------------------------------------------------------


def _image(media_type: str) -> Callable[[_Message], Parsed]:
    def read(message: _Message) -> Parsed:
        return Parsed(_header(_NO_FIELDS, message.fields), EncodedImage(message.payload, media_type))

    return read


def _senml(is_cbor: bool) -> Callable[[_Message], Parsed]:
    def read(message: _Message) -> Parsed:
        return Parsed(_header(_NO_FIELDS, message.fields), SenML(message.payload, is_cbor))

    return read


def _x_tensor(message: _Message) -> Parsed:
    header = _header(_NO_FIELDS, message.fields)
    dtype, shape = _form(_NO_FIELDS, message)
    return Parsed(header, _tensor(message.payload, dtype, shape))


def _tensor(data: bytes, dtype: str, shape: Shape) -> Tensor:
    """A tensor whose size fits its dtype and shape, as far as they are known."""
    if dtype:
        count, rest = divmod(len(data), ITEM_BYTES[dtype])
        if rest:
            raise _Refused("shape", f"{len(data)} bytes are no whole number of {dtype} values")
        if shape and prod(shape) != count:
            raise _Refused(
                "shape", f"shape {list(shape)} of {dtype} needs {prod(shape)} values, came {count}"
            )
    return Tensor(data, dtype, shape)


def _json(message: _Message) -> Parsed:
    try:
        if message.payload[:64].lstrip(b" \t\r\n")[:1] == b"[":
            fields, payload = (
                _NO_FIELDS,
                _json_values(_raw.decode(message.payload), *_form(_NO_FIELDS, message)),
            )
            return Parsed(_header(fields, message.fields), payload)
        envelope = _envelope.decode(message.payload)
        return Parsed(_header(envelope, message.fields), _json_payload(envelope, message))
    except msgspec.ValidationError as error:
        raise _Refused("schema", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Refused("schema", f"no JSON: {error}") from None


def _json_payload(envelope: JsonEnvelope, message: _Message) -> Payload:
    if (envelope.data is UNSET) == (envelope.inputs is UNSET):
        raise _Refused("schema", "expected either `data` or `inputs`")
    if not isinstance(envelope.inputs, Raw):
        assert isinstance(envelope.data, Raw)
        return _json_values(envelope.data, *_form(envelope, message))
    text = bytes(envelope.inputs)
    # Each input brings a colon and a name few more: counted before a map of a million keys is built.
    if text.count(b":") > 8 * MAX_INPUTS:
        raise _Refused("schema", f"inputs: expected at most {MAX_INPUTS}")
    return _named({name: _json_values(raw, "", ()) for name, raw in _raws.decode(text).items()}, envelope)


def _json_values(raw: Raw, dtype: str, shape: Shape) -> JsonValues:
    text = bytes(raw)
    if text.lstrip(b" \t\r\n")[:1] not in (b"[", b'"'):
        raise _Refused("schema", "expected values as nested lists or as base64")
    return JsonValues(text, dtype, shape)


def _named(values: dict[str, Tensor | JsonValues], fields: Fields) -> Named:
    if fields.sh is not None or fields.dt is not None:
        raise _Refused("schema", "`sh` and `dt` describe `data`; they cannot describe `inputs`")
    if not 1 <= len(values) <= MAX_INPUTS:
        raise _Refused("schema", f"inputs: expected 1 to {MAX_INPUTS}, came {len(values)}")
    return Named(values)


def _cbor(message: _Message) -> Parsed:
    reader = cbor.Reader(message.payload)
    try:
        if reader.peek() == cbor.MAP:
            parsed = _cbor_envelope(reader, message)
        else:
            payload = _cbor_values(reader.values(), *_form(_NO_FIELDS, message))
            parsed = Parsed(_header(_NO_FIELDS, message.fields), payload)
        reader.finish()
        return parsed
    except cbor.UnsupportedDtype as error:
        raise _Refused("dtype", str(error)) from None
    except cbor.BadShape as error:
        raise _Refused("shape", str(error)) from None
    except cbor.NotFinite as error:
        raise _Refused("not_finite", str(error)) from None
    except (cbor.CborError, UnicodeDecodeError) as error:
        raise _Refused("schema", f"no envelope in CBOR: {error}") from None


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
        elif key in _KEYS:
            found[key] = reader.scalar()
        else:
            reader.skip()
    fields = _fields(found) if found else _NO_FIELDS
    header = _header(fields, message.fields)
    if (data is None) == (inputs is None):
        raise _Refused("schema", "expected either `data` or `inputs`")
    if inputs is None:
        return Parsed(header, _cbor_values(data, *_form(fields, message)))
    return Parsed(header, _named({name: _cbor_values(v, "", ()) for name, v in inputs.items()}, fields))


def _cbor_inputs(reader: cbor.Reader) -> dict[str, Any]:
    if reader.peek() != cbor.MAP:
        raise _Refused("schema", "inputs: expected a map of names")
    inputs: dict[str, Any] = {}
    for name in reader.names():
        if name is None or len(inputs) == MAX_INPUTS:
            raise _Refused("schema", f"inputs: expected at most {MAX_INPUTS} values, each with a name")
        inputs[name] = reader.values()
    return inputs


def _cbor_values(values: cbor.Typed | bytes | list[object], dtype: str, shape: Shape) -> Tensor | JsonValues:
    """Plain numbers go on as JSON text, since like those they have no dtype of their own."""
    if isinstance(values, bytes):
        return _tensor(values, dtype, shape)
    if isinstance(values, list):
        return JsonValues(msgspec.json.encode(values), dtype, shape)
    if dtype and dtype != values.dtype:
        raise _Refused("dtype", f"expected {dtype}, came a typed array of {values.dtype}")
    if shape and values.shape and prod(shape) != prod(values.shape):
        raise _Refused("shape", f"expected {list(shape)}, came an array of {list(values.shape)}")
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
