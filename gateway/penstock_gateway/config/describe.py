"""What a key takes, in words: for error messages and for the table of keys in the documentation.

`python -m penstock_gateway.config docs/configuration.md` renews the tables between the markers of that page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect
from msgspec.structs import FieldInfo, fields

from penstock_gateway.config import tree
from penstock_gateway.config.values import Address, BrokerUrl, ModelRef, SecretFile

NOT_KEYS = frozenset({"file", "origins", "index", "filter", "profile"})
"""Fields that the reader fills in."""

TABLES: dict[str, type[msgspec.Struct]] = {
    "http": tree.HttpConfig,
    "mqtt": tree.MqttConfig,
    "models": tree.ModelsConfig,
    "journal": tree.JournalConfig,
    "limits": tree.LimitsConfig,
}
ARRAYS: dict[str, type[msgspec.Struct]] = {"route": tree.Route, "model": tree.ModelConfig}

_WORDS: dict[type, str] = {
    Path: "a path",
    SecretFile: "the path of a file",
    Address: "`HOST:PORT`",
    BrokerUrl: "a broker's URL",
    ModelRef: "a model's name",
}
_UNITS = {"_ms": "milliseconds", "_s": "seconds", "_bytes": "bytes"}


def keys_of(cls: type[msgspec.Struct]) -> dict[str, FieldInfo]:
    """The keys that a file may set in one table."""
    inner = {*TABLES, *ARRAYS} if cls is tree.Config else set()
    return {f.name: f for f in fields(cls) if f.name not in NOT_KEYS and f.name not in inner}


def required(field: FieldInfo) -> bool:
    return field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT


def plain_type(field: FieldInfo) -> Any:
    """The class of a key whose value is made by us (a path, an address), None where msgspec converts it."""
    found = _without_none(inspect.type_info(field.type))
    cls = getattr(found, "cls", None)
    return cls if cls in _WORDS else None


def is_list(field: FieldInfo) -> bool:
    return isinstance(_without_none(inspect.type_info(field.type)), inspect.VarTupleType)


def takes(field: FieldInfo) -> str:
    """Say what a key takes: `an integer of 1 to 1024 (seconds)`."""
    words = _words(_without_none(inspect.type_info(field.type)))
    unit = next((unit for end, unit in _UNITS.items() if field.name.endswith(end)), None)
    return f"{words} ({unit})" if unit else words


def _bare(info: inspect.Type) -> inspect.Type:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _without_none(info: inspect.Type) -> inspect.Type:
    info = _bare(info)
    if isinstance(info, inspect.UnionType):
        kinds = [bare for t in info.types if not isinstance(bare := _bare(t), inspect.NoneType)]
        return kinds[0] if len(kinds) == 1 else inspect.UnionType(tuple(kinds))
    return info


def _words(info: Any) -> str:
    match info:
        case inspect.IntType():
            return f"an integer of {info.ge} to {info.le}"
        case inspect.FloatType() if info.gt is not None:
            return f"a number above {info.gt:g} and up to {info.le:g}"
        case inspect.UnionType():
            return " or ".join(_words(kind) for kind in info.types)
        case inspect.DictType():
            return f"a table, each {_words(_bare(info.value_type))}"
        case inspect.FloatType():
            return "a number"
        case inspect.LiteralType():
            return "one of " + ", ".join(f"`{value}`" for value in info.values)
        case inspect.VarTupleType():
            return f"a list, each {_words(_bare(info.item_type))}"
        case inspect.StrType(pattern=str(pattern)):
            allowed = "a-z 0-9 _ -" if "A-Z" not in pattern else "A-Z a-z 0-9 _ -"
            return f"a name of 1 to 64 characters of {allowed}"
        case inspect.StrType():
            return "a text"
        case _:
            return _WORDS[info.cls]


def _meaning(field: FieldInfo) -> str:
    metas = getattr(field.type, "__metadata__", ())
    return next(m.description for m in metas if isinstance(m, msgspec.Meta) and m.description)


def _default(field: FieldInfo) -> str:
    if required(field):
        return "required"
    if field.default_factory is dict or field.default in (None, (), "", {}):
        return "none"
    if field.default is msgspec.NODEFAULT:
        return "the cores"
    value = field.default
    shown = (
        ", ".join(value)
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
    return f"`{shown}`"


def table(cls: type[msgspec.Struct]) -> str:
    """The keys of one table as Markdown."""
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for name, field in keys_of(cls).items():
        rows.append(f"| `{name}` | {takes(field)} | {_default(field)} | {_meaning(field)} |")
    return "\n".join(rows)


def _sections() -> Iterator[str]:
    yield f"## Top\n\n{table(tree.Config)}"
    for name, cls in TABLES.items():
        yield f"## `[{name}]`\n\n{table(cls)}"
    for name, cls in ARRAYS.items():
        yield f"## `[[{name}]]`\n\n{table(cls)}"


BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"


def renewed(page: str) -> str:
    """The page with the tables between its markers made anew."""
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n\n" + "\n\n".join(_sections()) + f"\n\n{END}{tail}"


def show(value: Any) -> str:
    """A value as `gateway check` prints it."""
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return "" if value is None else str(value)
