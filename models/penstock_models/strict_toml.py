"""TOML that people write, decoded strictly: every error names the file, the line and the key.

Owns nothing but the finding of lines; what the keys mean is said by the type that is decoded into.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from penstock_models.errors import UsageError

T = TypeVar("T")
MAX_BYTES = 4 * 1024**2

Key = str | int
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]")
_PAIR = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_"'-]+)*)\s*=""")
_PATH = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


def load(path: Path, type_: type[T]) -> T:
    """Decode a TOML file into `type_`.

    Raises:
        UsageError: no such file, not TOML, an unknown key or a wrong value: `FILE:LINE: KEY: what was expected`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path}: {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        text = data.decode("utf-8")
        return msgspec.convert(tomllib.loads(text), type_)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise UsageError(explain(str(error), text, path)) from error


def located(path: Path, key: str, message: str) -> UsageError:
    """The error `FILE:LINE: KEY: …` about a value that decoded well but does not fit, such as `preprocess[0].size`."""
    text = path.read_text("utf-8", "replace")
    return UsageError(explain(f"{message} - at `$.{key}`", text, path))


def explain(message: str, text: str, where: object) -> str:
    """msgspec's message (`… - at `$.route[0].mode``) as `FILE:LINE: route[0].mode: …`."""
    match = _PATH.fullmatch(message)
    what, path = (match[1], match[2] or "") if match else (message, "")
    if unknown := _UNKNOWN.fullmatch(what):
        path, what = f"{path}.{unknown[1]}", "unknown key"
    keys = parse_path(path)
    return f"{where}:{line_of(text, keys)}: {path.lstrip('.')}{': ' if path else ''}{what}"


def parse_path(path: str) -> tuple[Key, ...]:
    """`.route[0].mode` as ("route", 0, "mode")."""
    return tuple(int(i) if i else name for name, i in re.findall(r"\.([^.\[]+)|\[(\d+)\]", path))


def line_of(text: str, keys: tuple[Key, ...]) -> int:
    """The line (from 1) of the deepest part of `keys` that stands in the text."""
    best, depth = 1, 0
    table: tuple[Key, ...] = ()
    latest: dict[tuple[Key, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _indexed(_split(header[2]), latest, array=header[1] == "[[")
            here = table
        elif pair := _PAIR.match(line):
            here = table + _split(pair[1])
        else:
            continue
        if depth < len(here) <= len(keys) and keys[: len(here)] == here:
            best, depth = number, len(here)
    return best


def _split(dotted: str) -> tuple[Key, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def _indexed(names: tuple[Key, ...], latest: dict[tuple[Key, ...], int], *, array: bool) -> tuple[Key, ...]:
    """A header's names with the index of each array of tables put in; `[[x]]` opens the next one."""
    path: tuple[Key, ...] = ()
    for position, name in enumerate(names):
        path += (name,)
        if array and position == len(names) - 1:
            latest[path] = latest.get(path, -1) + 1
        if path in latest:
            path += (latest[path],)
    return path


def parse_value(text: str) -> Any:
    """A TOML value (`0.5`, `[1, 2]`, `true`), or the text itself where it is none: for `--set KEY=VALUE`."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
