"""A journalled message, and how it becomes a row of the journal's file and a message again.

A row keeps what processing needs after a restart. What belonged to the delivery is not kept: the acknowledgement's
handle, the DUP and RETAIN flags, and the message's expiry, since a carried frame has no deadline.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import msgspec

from penstock_gateway.mqtt import Message

_BESIDE_PAYLOAD = 40
"""Bytes of a row's header, numbers and flags, at most."""


class Entry(msgspec.Struct, frozen=True, eq=False):
    """A message to journal. `row` grows from entry to entry; `stream` is "DEVICE/STREAM"; `arrived_ms` epoch ms."""

    row: int
    stream: str
    message: Message
    arrived_ms: int
    boot: str | None = None
    seq: int | None = None


class _Rest(msgspec.Struct, array_like=True, frozen=True):
    """What most messages do not have, in one column."""

    qos: int
    content_type: str = ""
    response_topic: str = ""
    correlation: bytes = b""
    user: tuple[tuple[str, str], ...] = ()


_encode_rest = msgspec.msgpack.Encoder().encode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode


def row_bytes(entry: Entry) -> int:
    """About how many bytes the row takes."""
    m = entry.message
    size = len(m.payload) + len(m.topic) + len(entry.stream) + len(entry.boot or "") + _BESIDE_PAYLOAD
    if m.user or m.content_type or m.response_topic:
        size += len(m.content_type) + len(m.response_topic) + len(m.correlation) + 16
        size += sum(len(key) + len(value) + 4 for key, value in m.user)
    return size


def columns_of(entry: Entry) -> tuple[Any, ...]:
    """The row's columns, in the order of the table."""
    m = entry.message
    if m.qos == 1 and not (m.user or m.content_type or m.response_topic or m.correlation):
        rest = None
    else:
        rest = _encode_rest(_Rest(m.qos, m.content_type, m.response_topic, m.correlation, m.user))
    return (entry.row, entry.stream, entry.arrived_ms, m.topic, entry.boot, entry.seq, rest, m.payload)


def entry_of(columns: tuple[Any, ...]) -> Entry:
    """The entry of a row, as it was given."""
    row, stream, arrived, topic, boot, seq, rest, payload = columns
    more = _decode_rest(rest) if rest is not None else _Rest(1)
    message = Message(
        topic,
        payload,
        qos=more.qos,
        content_type=more.content_type,
        response_topic=more.response_topic,
        correlation=more.correlation,
        user=more.user,
    )
    return Entry(row, stream, message, arrived, boot, seq)


class Bulk:
    """Inserts many rows with one statement: padded to a power of two with rows of NULL, which OR IGNORE drops."""

    def __init__(self, table: str, width: int, suffix: str = "") -> None:
        self._table, self._suffix = table, suffix
        self._null = (None,) * width
        self._row = f"({','.join('?' * width)})"
        self._sql: dict[int, str] = {}

    def insert(self, db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        return sum(self._insert(db, rows[at : at + 256]) for at in range(0, len(rows), 256))

    def _insert(self, db: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        size = 1 << (len(rows) - 1).bit_length()
        sql = self._sql.get(size)
        if sql is None:
            values = ",".join([self._row] * size)
            sql = self._sql[size] = f"INSERT OR IGNORE INTO {self._table} VALUES {values} {self._suffix}"
        padding = [self._null] * (size - len(rows))
        return db.execute(sql, tuple(chain.from_iterable(chain(rows, padding)))).rowcount
