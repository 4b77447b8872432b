"""What may stand at a place of a scenario, for messages: the keys of a table, the words of a choice. Pure."""

from __future__ import annotations

import functools
from typing import Any

from msgspec import inspect

from penstock_gateway.config.source import KeyPath
from penstock_sim.scenario.tree import Scenario

_KIND = "kind"


def keys(data: Any, at: KeyPath) -> tuple[str, ...]:
    """The keys of the table at `at` in the parsed file `data`; none where no table may stand, or not of its kind."""
    table = _find(data, at)[0]
    if not isinstance(table, inspect.StructType):
        return ()
    return (*((_KIND,) if table.tag_field else ()), *(field.encode_name for field in table.fields))


def choices(data: Any, at: KeyPath) -> tuple[str, ...]:
    """The words or numbers that the key `at` may have; none where it is no choice."""
    if at and at[-1] == _KIND:
        found = _find(data, at[:-1], resolve=False)[0]
        kinds = found.types if isinstance(found, inspect.UnionType) else ()
        return tuple(str(kind.tag) for kind in kinds if isinstance(kind, inspect.StructType))
    found = _find(data, at)[0]
    return tuple(str(value) for value in found.values) if isinstance(found, inspect.LiteralType) else ()


@functools.cache
def _root() -> inspect.Type:
    return inspect.type_info(Scenario)


def _find(data: Any, at: KeyPath, resolve: bool = True) -> tuple[inspect.Type | None, Any]:
    """The type and the value at a place; `resolve`: the one table that the value's `kind` names."""
    found: inspect.Type | None = _root()
    value = data
    for step in at:
        found = _inside(_resolved(found, value), step)
        value = _item(value, step)
    return (_resolved(found, value) if resolve else found), value


def _inside(table: inspect.Type | None, step: str | int) -> inspect.Type | None:
    match table:
        case inspect.StructType():
            return next((field.type for field in table.fields if field.encode_name == step), None)
        case inspect.VarTupleType():
            return table.item_type
    return None


def _item(value: Any, step: str | int) -> Any:
    try:
        return value[step]
    except (KeyError, IndexError, TypeError):
        return None


def _resolved(found: inspect.Type | None, value: Any) -> inspect.Type | None:
    if not isinstance(found, inspect.UnionType):
        return found
    kind = value.get(_KIND) if isinstance(value, dict) else None
    return next((t for t in found.types if isinstance(t, inspect.StructType) and t.tag == kind), None)
