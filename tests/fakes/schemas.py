"""The committed schemas as a check for messages that a test sees on a real broker or over HTTP."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

FOLDER = Path(__file__).parents[2] / "docs" / "schemas"


@cache
def _validator(kind: str) -> Draft202012Validator:
    schema = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def validate(kind: str, payload: bytes) -> Any:
    """Parse a message and hold it against its schema; `kind` is the file's name, such as `result` or `status-page`.

    Returns:
        The parsed message.

    Raises:
        jsonschema.ValidationError: it names the field.
        ValueError: the payload is no JSON, or holds NaN.
    """
    message = json.loads(payload, parse_constant=_no_constant)
    _validator(kind).validate(message)
    return message


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
