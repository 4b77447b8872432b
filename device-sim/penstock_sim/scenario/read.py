"""From a file to a checked scenario; what is wrong is said with its line."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from penstock_gateway.config.source import Document, KeyPath, read_document
from penstock_models.errors import UsageError, one_line
from penstock_sim.scenario.check import check
from penstock_sim.scenario.expected import choices, keys
from penstock_sim.scenario.load import Load
from penstock_sim.scenario.phases import load_of
from penstock_sim.scenario.tree import Loaded, Scenario

_WHERE = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`")
_GOT = re.compile(r"Expected `(.*)`, got `(.*)`")
_KINDS = {"object": "a table", "array": "a list", "str": "text", "int": "a whole number", "float": "a number"}


def read(path: Path) -> Loaded:
    """Read a scenario.

    Raises:
        UsageError: one line with the path, the line, what was expected and what came.
    """
    try:
        document = read_document(path)
    except RecursionError:
        raise UsageError(f"{path}: expected values that are nested less deep") from None
    try:
        scenario = msgspec.convert(document.data, Scenario, strict=True)
    except msgspec.ValidationError as error:
        _refuse(document, str(error))
    folder = path.resolve().parent
    load = _load(scenario, document, folder)
    for key, message in check(scenario, load):
        _fail(document, key, message)
    return Loaded(scenario, folder, path.read_text(encoding="utf-8"), load)


def _load(scenario: Scenario, document: Document, folder: Path) -> Load:
    corners = []
    for number, phase in enumerate(scenario.phase):
        try:
            corners.append(phase.corners(folder))
        except UsageError as error:
            _fail(document, ("phase", number), str(error))
    try:
        return load_of(corners)
    except UsageError as error:
        _fail(document, ("phase",), str(error))


def _refuse(document: Document, error: str) -> NoReturn:
    """Say in our words what msgspec found."""
    message, place = _WHERE.fullmatch(error).groups()  # type: ignore[union-attr]
    at: KeyPath = tuple(name or int(index) for name, index in _STEP.findall(place or ""))
    if unknown := _UNKNOWN.match(message):
        near = difflib.get_close_matches(unknown[1], keys(document.data, at), 1)
        known = f"did you mean {near[0]}?" if near else f"known are {', '.join(keys(document.data, at))}"
        _fail(document, (*at, unknown[1]), f"unknown key; {known}")
    if missing := _MISSING.match(message):
        _fail(document, at, f"expected the key `{missing[1]}`, found none")
    if got := _GOT.match(message):
        wanted, came = (_KINDS.get(kind, kind) for kind in got.groups())
        _fail(document, at, f"expected {wanted}, came {came}")
    if message.startswith("Invalid") and (possible := choices(document.data, at)):
        _fail(document, at, f"expected one of {', '.join(possible)}, came {_value(document.data, at)}")
    _fail(document, at, f"{message[:1].lower()}{message[1:]}, came {_value(document.data, at)}")


def _value(data: Any, at: KeyPath) -> str:
    for step in at:
        data = data[step]
    return f"{len(data)} of them" if isinstance(data, list) else one_line(repr(data), 60)


def _fail(document: Document, key: KeyPath, message: str) -> NoReturn:
    name = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in key).removeprefix(".")
    what = f"{name}: {message}" if name else message
    place = _place_in_list(document, key) or document.place(key)
    if place == str(document.path):
        place += ":1"
    raise UsageError(f"{place}: {one_line(what, 400)}")


def _place_in_list(document: Document, key: KeyPath) -> str | None:
    """The line of an element of a list of texts, which may be written one a line."""
    first = document.lines.get(key)
    text = _text(document.data, key) if first is not None else None
    if first is None or text is None:
        return None
    lines = document.path.read_text(encoding="utf-8").splitlines()[first - 1 :]
    return next((f"{document.path}:{first + n}" for n, line in enumerate(lines) if text in line), None)


def _text(data: Any, key: KeyPath) -> str | None:
    for step in key:
        data = data[step]
    return data if isinstance(data, str) and isinstance(key[-1], int) else None
