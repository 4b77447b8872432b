"""Where configuration text comes from: the TOML file with the line of each key, and the environment.

It knows nothing of what keys mean. A key's path is a tuple such as `("route", 0, "topic")`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from penstock_models.errors import UsageError

MAX_FILE_BYTES = 1 << 20
ENV_PREFIX = "PENSTOCK_"
OTHER_VARIABLES = frozenset({"PENSTOCK_REALDATA", "PENSTOCK_DEBUG", "PENSTOCK_SOAK"})
"""Variables under the prefix that are no keys of the configuration."""

KeyPath = tuple[str | int, ...]


class Document(msgspec.Struct, frozen=True):
    """A parsed file: its values, and the line on which each key or table stands."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[KeyPath, int]

    def place(self, key: KeyPath) -> str:
        """Name the file and the line of a key, or of the nearest table around it."""
        while key:
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
            key = key[:-1]
        return str(self.path)


def read_document(path: Path) -> Document:
    """Read and parse a TOML file.

    Raises:
        UsageError: naming the path, and the line where the text is no TOML.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: expected a readable configuration file: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise UsageError(f"{path}: expected a configuration of at most {MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: expected UTF-8 text, came the byte 0x{raw[error.start]:02x}"
        ) from None
    try:
        return Document(path, tomllib.loads(text), key_lines(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(_toml_message(path, str(error), text)) from None


def _toml_message(path: Path, message: str, text: str) -> str:
    """tomllib ends its messages with `(at line N, column M)` or `(at end of document)`."""
    words, _, where = message.rpartition(" (at ")
    digits = where.removeprefix("line ").partition(",")[0]
    line = int(digits) if digits.isdigit() else text.count("\n") + 1
    return f"{path}:{line}: expected TOML: {(words or message).rstrip('.')}"


def key_lines(text: str) -> dict[KeyPath, int]:
    """Find the line of every table and key of a valid TOML text; a value's inner keys stand on its first line."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, statement in _statements(text):
        if statement.lstrip().startswith("["):
            table = _enter(tomllib.loads(statement), statement.lstrip().startswith("[["), counts)
            for end in range(1, len(table) + 1):
                lines.setdefault(table[:end], number)
        else:
            for path in _walk(tomllib.loads(statement)):
                lines.setdefault(table + path, number)
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Cut a valid text into statements with their first line: a statement ends where it parses alone."""
    pending: list[str] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not pending and (not line.strip() or line.lstrip().startswith("#")):
            continue
        pending.append(line)
        if "=" not in pending[0] and not pending[0].lstrip().startswith("["):
            continue
        try:
            tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue
        yield number - len(pending) + 1, "\n".join(pending)
        pending = []


def _enter(header: dict[str, Any], array: bool, counts: dict[KeyPath, int]) -> KeyPath:
    """The path of a `[table]` or `[[table]]` header; a table inside an array is in its newest element."""
    path: KeyPath = ()
    node: Any = header
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        path += (name,)
        last = not (isinstance(node, dict) and node)
        if last and array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path += (counts[path],)
    return path


def _walk(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """All key paths of a parsed statement, outer ones first."""
    if path:
        yield path
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in items:
        yield from _walk(inner, (*path, key))


def env_values(environ: Mapping[str, str]) -> dict[KeyPath, tuple[str, str]]:
    """The overrides in the environment: {key path: (variable, text)}."""
    return {
        tuple(name.removeprefix(ENV_PREFIX).lower().split("__")): (name, environ[name])
        for name in sorted(environ)
        if name.startswith(ENV_PREFIX) and name not in OTHER_VARIABLES
    }
