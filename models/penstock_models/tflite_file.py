"""A bounded reader of TFLite files: custom operators, quantization and buffers, before a runtime sees them.

A TFLite file is a flatbuffer `Model` (schema v3; slot numbers below are the schema's). Every offset is checked against
the end of the file. Owns the facts; whether they are acceptable is `safety`'s decision.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from penstock_models.onnx_file import MalformedFile

MAX_TABLES = 1_000_000  # visited in one file; lists may point to the same tables again and again
_CUSTOM = 32  # BuiltinOperator.CUSTOM


@dataclass
class TfliteFacts:
    """`bad_quantization` says what is wrong with which tensor, "" where nothing is."""

    custom_operators: set[str] = field(default_factory=set)
    bad_quantization: str = ""
    external: bool = False
    subgraphs: int = 0


def scan(data: bytes) -> TfliteFacts:
    """The facts of a TFLite file whose identifier has been seen.

    Raises:
        MalformedFile: an offset or a length points behind the end of the file, or a vector is beyond the bounds.
    """
    reader = _Reader(data)
    model = reader.table(0)
    facts = TfliteFacts(external=model.has(8) or model.has(9))
    for code in model.tables(1):
        # Old files have only the byte-sized slot; new ones have both, and the larger counts.
        if max(code.number(0, "<b"), code.number(3, "<i")) == _CUSTOM:
            facts.custom_operators.add(code.text(1) or "(no name)")
    for graph in model.tables(2):
        facts.subgraphs += 1
        for tensor in graph.tables(0):
            facts.bad_quantization = facts.bad_quantization or _quantization(tensor)
    for buffer in model.tables(4):
        _check_buffer(buffer, len(data))
    return facts


def _quantization(tensor: _Table) -> str:
    """The same rules as the runtime's, which are stated before it is asked."""
    parameters = tensor.table(4)
    if parameters is None:
        return ""
    scales, zeros = parameters.length(2), parameters.length(3)
    if scales == 0:
        return ""
    rank, dimension = tensor.length(0), parameters.number(6, "<i")
    name = tensor.text(3)
    if zeros != scales:
        return f"tensor {name!r} has {scales} scales and {zeros} zero points"
    if dimension < 0 or (rank > 0 and dimension >= rank):
        return f"tensor {name!r} of rank {rank} has quantized_dimension {dimension}"
    return ""


def _check_buffer(buffer: _Table, end: int) -> None:
    buffer.length(0)
    offset, size = buffer.number(1, "<Q"), buffer.number(2, "<Q")
    if offset > 1 and offset + size > end:
        raise MalformedFile("a weight buffer reaches behind the end", truncated=True)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_TABLES

    def number(self, position: int, code: str) -> int:
        try:
            return (
                int(struct.unpack_from(code, self._data, position)[0]) if position >= 0 else self._outside()
            )
        except struct.error:
            return self._outside()

    def _outside(self) -> int:
        raise MalformedFile("an offset points outside the file", truncated=True)

    def table(self, position: int) -> _Table:
        """The table that the offset at `position` points to."""
        self._left -= 1
        if self._left < 0:
            raise MalformedFile(f"more than {MAX_TABLES} tables")
        return _Table(self, position + self.number(position, "<I"))

    def vector(self, position: int, item_size: int) -> tuple[int, int]:
        """(position of the first item, number of items) of the vector at `position`, which lies within the file."""
        count = self.number(position, "<I")
        if position + 4 + count * item_size > len(self._data):
            self._outside()
        return position + 4, count

    def text(self, position: int) -> str:
        start, count = self.vector(position, 1)
        return self._data[start : start + min(count, 200)].decode("utf-8", "replace")


class _Table:
    def __init__(self, reader: _Reader, position: int) -> None:
        self._reader = reader
        self._position = position
        self._vtable = position - reader.number(position, "<i")
        self._slots = (reader.number(self._vtable, "<H") - 4) // 2

    def _slot(self, slot: int) -> int:
        """Position of a field's value, 0 where the field is left out."""
        offset = self._reader.number(self._vtable + 4 + 2 * slot, "<H") if slot < self._slots else 0
        return self._position + offset if offset else 0

    def has(self, slot: int) -> bool:
        return self._slot(slot) != 0

    def number(self, slot: int, code: str) -> int:
        position = self._slot(slot)
        return self._reader.number(position, code) if position else 0

    def _target(self, slot: int) -> int:
        position = self._slot(slot)
        return position + self._reader.number(position, "<I") if position else 0

    def text(self, slot: int) -> str:
        target = self._target(slot)
        return self._reader.text(target) if target else ""

    def length(self, slot: int) -> int:
        """Number of items of a vector; a vector of bytes must lie within the file."""
        target = self._target(slot)
        return self._reader.vector(target, 1)[1] if target else 0

    def table(self, slot: int) -> _Table | None:
        target = self._target(slot)
        return _Table(self._reader, target) if target else None

    def tables(self, slot: int) -> Iterator[_Table]:
        """The tables of a vector of tables."""
        target = self._target(slot)
        if not target:
            return
        start, count = self._reader.vector(target, 4)
        for index in range(count):
            yield self._reader.table(start + 4 * index)
