"""What a message says of itself (contracts 2): the keys of an envelope and of the v5 user properties.

Both forms become `Fields`, which are checked one by one; `header_of` and `form_of` decide which of them counts: the
envelope's own, else the user properties', else the route's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from penstock_gateway.formats import MAX_DIM, MAX_DIMS, NUMPY_NAMES, Profile
from penstock_models.items import Refusal

VERSION = 1
"""The newest envelope that is understood."""
MAX_INT = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""
DEFAULT_PRIORITY = 5
MAX_DETAIL = 200
"""The longest detail of a refusal, in characters."""

Shape = tuple[int, ...]
UserProperties = Sequence[tuple[str, str]]


class Header(Struct, frozen=True):
    """What a message says of itself. Times are milliseconds (`ts` since the epoch); None where it says nothing."""

    ts: int | None = None
    seq: int | None = None
    boot: str | None = None
    dl: int | None = None
    pr: int = DEFAULT_PRIORITY


class Refused(Exception):
    """Leaves the reading with a reason of contracts 4."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal("rejected", reason, detail[:MAX_DETAIL])


Number = Annotated[int, Meta(ge=0, le=MAX_INT)]
_CLOCK = range(-(2**63), 2**64)
"""Whatever a broken clock may say, as far as JSON can say it again; whether it can be true is `timing`'s question."""

# Checked by hand, since a wrong one is refused as `shape`.
_SHAPE_SCHEMA = {
    "minItems": 1,
    "maxItems": MAX_DIMS,
    # in a schema of its own: the generator's `items` would take this one's place
    "allOf": [{"items": {"minimum": 1, "maximum": MAX_DIM}}],
}


class Fields(Struct, frozen=True):
    """The keys of contracts 2 wherever they stand. `sh` as a list, `dt` as the wire's short name."""

    v: Annotated[int, Meta(ge=1, extra_json_schema={"maximum": VERSION})] | None = None
    ts: Annotated[int, Meta(extra_json_schema={"minimum": _CLOCK[0], "maximum": _CLOCK[-1]})] | None = None
    seq: Number | None = None
    boot: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    dl: Number | None = None
    pr: Annotated[int, Meta(ge=0, le=9)] | None = None
    sh: Annotated[Shape, Meta(extra_json_schema=_SHAPE_SCHEMA)] | None = None
    dt: Annotated[str, Meta(extra_json_schema={"enum": list(NUMPY_NAMES)})] | None = None


NO_FIELDS = Fields()
_PLAIN = Header()
KEYS = frozenset(f.name for f in msgspec.structs.fields(Fields))
_INTEGERS = frozenset({"v", "ts", "seq", "dl", "pr"})
_INTEGER = re.compile("-?[0-9]{1,20}")


def from_user(user: UserProperties) -> Fields:
    """The known keys of the user properties; others are skipped.

    Raises:
        Refused: `schema` or `shape`, naming the property.
    """
    found: dict[str, Any] = {}
    for key, text in user:
        if key == "sh":
            found[key] = _shape_text(text)
        elif key in KEYS:
            found[key] = property_value(key, text)
            if found[key] is None:
                raise Refused("schema", f"user property {key}: expected an integer, came {text!r}")
    return fields_of(found) if found else NO_FIELDS


def property_value(key: str, text: str) -> int | str | None:
    """A user property as its key's type; None where an integer is expected and none came."""
    if key not in _INTEGERS:
        return text
    return int(text) if _INTEGER.fullmatch(text) else None


def _shape_text(text: str) -> Shape:
    parts = text.split("x")
    if len(parts) > MAX_DIMS or not all(p.isascii() and p.isdigit() and len(p) <= 10 for p in parts):
        raise Refused("shape", f"user property sh: expected a shape such as 1x640, came {text!r}")
    return tuple(map(int, parts))


def fields_of(found: dict[str, Any]) -> Fields:
    """Check the values one by one.

    Raises:
        Refused: `schema`, naming the key.
    """
    try:
        return msgspec.convert(found, Fields)
    except msgspec.ValidationError as error:
        raise Refused("schema", str(error)) from None


def is_clock(ts: int | None) -> bool:
    """Say whether a capture time can be told again; msgspec's own bounds end at 63 bits."""
    return ts is None or ts in _CLOCK


def header_of(own: Fields, around: Fields) -> Header:
    """What the envelope says, else the user properties."""
    for fields in (own, around):
        if fields.v is not None and fields.v > VERSION:
            raise Refused("schema", f"envelope version {fields.v}: this gateway understands up to {VERSION}")
    if own is around is NO_FIELDS:
        return _PLAIN
    boot = _first(own.boot, around.boot)
    if boot is not None and not boot.isascii():
        _check_encodable(boot)
    ts, pr = _first(own.ts, around.ts), _first(own.pr, around.pr)
    if not is_clock(ts):
        raise Refused("schema", f"ts: expected an integer of 64 bits, came {str(ts)[:30]}")
    return Header(
        ts=ts,
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
        raise Refused("schema", "boot is no valid text") from None


def form_of(own: Fields, around: Fields, route: Profile) -> tuple[str, Shape]:
    """The dtype (NumPy's name) and shape of `data`: the envelope's, else the properties', else the route's."""
    dt = _first(own.dt, around.dt)
    sh = _first(own.sh, around.sh)
    if dt is not None and dt not in NUMPY_NAMES:
        raise Refused("dtype", f"dt: expected one of {', '.join(NUMPY_NAMES)}, came {dt!r}")
    if sh is not None and not (1 <= len(sh) <= MAX_DIMS and min(sh) >= 1 and max(sh) <= MAX_DIM):
        raise Refused(
            "shape", f"sh: expected 1 to {MAX_DIMS} positive dimensions, came {list(sh[: MAX_DIMS + 1])}"
        )
    return NUMPY_NAMES[dt] if dt else route.dtype, route.shape if sh is None else sh
