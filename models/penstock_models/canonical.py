"""RFC 8785 (JCS) canonical JSON: one value, one sequence of bytes, so that a manifest has one digest.

Owns the writing only; reading is the standard library's. One deviation, forced by versions up to 2^63−1: an integer
beyond 2^53 is written with all its digits instead of being rounded to a double.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any


def dumps(value: Any) -> bytes:
    """The canonical UTF-8 bytes of plain JSON data (dict, list, tuple, str, int, float, bool, None).

    Raises:
        ValueError: for NaN, infinities, lone surrogates and keys that are not text.
        TypeError: for any other type.
    """
    return _text(value).encode("utf-8")


def _text(value: Any) -> str:
    match value:
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case str():
            return json.dumps(value, ensure_ascii=False)
        case int():
            return str(value)
        case float():
            return _number(value)
        case list() | tuple():
            return f"[{','.join(map(_text, value))}]"
        case dict():
            return _object(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")


def _object(value: dict[Any, Any]) -> str:
    if not all(isinstance(key, str) for key in value):
        raise ValueError("the keys of a JSON object are text")
    # JCS sorts by UTF-16 code units, which differs from code points above U+FFFF.
    keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
    return "{" + ",".join(f"{_text(key)}:{_text(value[key])}" for key in keys) + "}"


def _number(value: float) -> str:
    """ECMAScript's Number::toString: the shortest digits (as repr finds them) in its own choice of notation."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    _, digit_tuple, exponent = Decimal(repr(abs(value))).as_tuple()
    assert isinstance(exponent, int)  # only NaN and infinities have letters there
    padded = "".join(map(str, digit_tuple))
    digits = padded.rstrip("0")
    point = len(padded) + exponent
    return sign + _notation(digits, point)


def _notation(digits: str, point: int) -> str:
    """`digits` with the decimal point after `point` of them, as ECMAScript writes it."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{mantissa}e{point - 1:+d}"
