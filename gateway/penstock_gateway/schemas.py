"""JSON schemas of the gateway's messages, made from the types that the code uses.

`python -m penstock_gateway.schemas docs/schemas` writes one file a message. The schemas say what is *written*: a field
that is always there is required, though a reader would do without it; fields that a reader skips are allowed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import FieldInfo, fields

from penstock_gateway import wire
from penstock_gateway.envelope import JsonEnvelope
from penstock_gateway.ledger import BUCKETS
from penstock_models import items

OUTGOING: dict[str, type[msgspec.Struct]] = {
    "result": wire.Result,
    "receipt": wire.Receipt,
    "gateway-status": wire.GatewayStatus,
    "stats": wire.Stats,
    "status-page": wire.StatusPage,
}
INCOMING: dict[str, type[msgspec.Struct]] = {"envelope": JsonEnvelope}

_TASKS = ("detections", "classes", "anomaly", "outputs")
_REASONS_OF = {
    "ok": [None],
    "degraded": [reason for reason in BUCKETS["answered"] if reason],
    **{bucket: list(reasons) for bucket, reasons in BUCKETS.items() if bucket in wire.STATUSES},
}
_ANSWERED = {
    "properties": {name: {"not": {"type": "null"}} for name in ("answered_by", "model", "placement")},
    "oneOf": [{"required": [task]} for task in _TASKS],
}
_UNANSWERED = {
    "properties": {name: {"type": "null"} for name in ("answered_by", "model", "placement")},
    "not": {"anyOf": [{"required": [task]} for task in _TASKS]},
}
_RULES: dict[str, dict[str, Any]] = {
    "result": {
        "allOf": [
            {
                "if": {"properties": {"status": {"const": status}}},
                "then": {"properties": {"reason": {"enum": reasons}}},
            }
            for status, reasons in _REASONS_OF.items()
        ],
        "if": {"properties": {"status": {"enum": ["ok", "degraded"]}}},
        "then": _ANSWERED,
        "else": _UNANSWERED,
    },
    "envelope": {"oneOf": [{"required": ["data"]}, {"required": ["inputs"]}]},
}
"""What holds between the fields of a message."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: str) -> dict[str, Any]:
    """The schema of one message; `kind` is a key of `OUTGOING` or `INCOMING`."""
    cls = (OUTGOING | INCOMING)[kind]
    _, components = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")
    for name, component in components.items():
        if kind in OUTGOING:
            _as_written(_struct(name), component)
        if "description" in component:
            component["description"] = " ".join(component["description"].split())
    root = components.pop(cls.__name__) | _RULES.get(kind, {})
    return {"$schema": _DIALECT, **root, **({"$defs": components} if components else {})}


def _struct(name: str) -> type[msgspec.Struct]:
    found: type[msgspec.Struct] = getattr(wire, name, None) or getattr(items, name)
    return found


def _as_written(cls: type[msgspec.Struct], component: dict[str, Any]) -> None:
    """Require what every message of this type holds, its tag included; what may be left out is never null."""
    properties = component["properties"]
    config = cls.__struct_config__
    left_out = {f.encode_name for f in fields(cls) if config.omit_defaults and _may_be_left_out(f)}
    component["required"] = [name for name in properties if name not in left_out]
    for name, shown in properties.items():
        shown.pop("default", None)
        if name in left_out and "anyOf" in shown:
            (properties[name],) = (option for option in shown["anyOf"] if option != {"type": "null"})


def _may_be_left_out(field: FieldInfo) -> bool:
    """A plain default, or an empty collection's; another factory's value is written (see `wire._null`)."""
    return field.default is not msgspec.NODEFAULT or field.default_factory in (list, dict, set)


def text(kind: str) -> str:
    """The schema as the file holds it."""
    return json.dumps(schema(kind), indent=2) + "\n"


def main(folder: Path) -> None:
    """Write every schema into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in OUTGOING | INCOMING:
        (folder / f"{kind}.json").write_text(text(kind), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
