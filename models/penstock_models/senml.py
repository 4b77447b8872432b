"""SenML packs (RFC 8428) to a table: one column a name, in the order of first appearance; rows in time order.

Only numbers and booleans are samples; a pack with text or data values, or with a value missing from the table, is
refused rather than guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cbor2
import msgspec
import numpy as np

from penstock_models.rejection import Rejection
from penstock_models.runtimes.session import Array

VERSION = 10  # the highest `bver` that RFC 8428 defines

_CBOR_LABELS = {
    -1: "bver",
    -2: "bn",
    -3: "bt",
    -4: "bu",
    -5: "bv",
    -6: "bs",
    0: "n",
    1: "u",
    2: "v",
    3: "vs",
    4: "vb",
    5: "s",
    6: "t",
    7: "ut",
    8: "vd",
}


def senml_table(data: bytes | memoryview, cbor: bool) -> Array:
    """(rows, columns) float32.

    Raises:
        Rejection: `schema`, saying which record breaks which rule.
    """
    columns: dict[str, dict[float, float]] = {}
    base: dict[str, Any] = {}
    for index, record in enumerate(_records(data, cbor)):
        base.update((key, record[key]) for key in ("bn", "bt", "bv", "bver") if key in record)
        _check(record, base, index)
        value = _value(record, base, index)
        if value is None:
            continue
        name = str(base.get("bn", "")) + str(record.get("n", ""))
        time = _number(base.get("bt", 0), index, "bt") + _number(record.get("t", 0), index, "t")
        if not name:
            raise _wrong(index, "has no name (n or bn)")
        if time in columns.setdefault(name, {}):
            raise _wrong(index, f"gives {name!r} a second value at time {time}")
        columns[name][time] = value
    return _table(columns)


def _records(data: bytes | memoryview, cbor: bool) -> list[Mapping[str, Any]]:
    try:
        pack = cbor2.loads(bytes(data)) if cbor else msgspec.json.decode(data)
    except Exception as error:  # CBOR tags (dates, decimals, addresses) raise whatever their types raise
        raise Rejection("schema", f"not a SenML pack: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(pack, list) or not pack or not all(isinstance(record, dict) for record in pack):
        raise Rejection("schema", "a SenML pack is a non-empty array of records")
    if cbor:
        return [{_CBOR_LABELS.get(key, key): value for key, value in record.items()} for record in pack]
    return pack


def _check(record: Mapping[Any, Any], base: Mapping[str, Any], index: int) -> None:
    if _number(base.get("bver", VERSION), index, "bver") > VERSION:
        raise _wrong(index, f"has bver {base['bver']}, at most {VERSION} is understood")
    for key in record:
        if not isinstance(key, str) or key.endswith("_"):  # RFC 8428 4.4: must be understood
            raise _wrong(index, f"has the field {key!r}, which must be understood and is not")


def _value(record: Mapping[str, Any], base: Mapping[str, Any], index: int) -> float | None:
    if "vb" in record and isinstance(record["vb"], bool):
        return float(record["vb"])
    if "v" in record or ("bv" in base and not record.keys() & {"vs", "vb", "vd", "s"} and "n" in record):
        return _number(base.get("bv", 0), index, "bv") + _number(record.get("v", 0), index, "v")
    if record.keys() & {"vs", "vb", "vd", "s"}:
        raise _wrong(index, "has no number in v")
    if "n" in record:
        raise _wrong(index, "has a name and no value")
    return None  # a record of base fields alone


def _number(value: Any, index: int, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(index, f"has {field} = {value!r}, which is no number"[:120])
    try:
        return float(value)
    except OverflowError as error:
        raise _wrong(index, f"has {field} beyond any float") from error


def _table(columns: Mapping[str, Mapping[float, float]]) -> Array:
    if not columns:
        raise Rejection("schema", "the SenML pack holds no sample")
    times = sorted({time for column in columns.values() for time in column})
    for name, column in columns.items():
        if len(column) != len(times):
            raise Rejection("schema", f"SenML name {name!r} has {len(column)} of {len(times)} samples")
    rows = [[column[time] for column in columns.values()] for time in times]
    with np.errstate(over="ignore"):
        return np.array(rows, np.float32)


def _wrong(index: int, text: str) -> Rejection:
    return Rejection("schema", f"SenML record {index} {text}")
