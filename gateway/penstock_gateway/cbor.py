"""CBOR (RFC 8949) as envelopes need it: walked in place, within a budget, with no object made for what is not asked.

A general decoder builds every object of a message and obeys every tag, which a hostile 8 MiB message turns into hundreds
of megabytes. Here a big message can only be big by its byte strings; anything else costs at most `MAX_ITEMS` steps.
Typed arrays are RFC 8746's. What the values mean is the envelope's business.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from math import isfinite
from struct import unpack_from

import msgspec

UINT, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE = range(8)

MAX_ITEMS = 20_000
"""The most data items that one message may hold, headers and plain numbers together."""
MAX_DEPTH = 16
"""The deepest nesting of arrays and maps."""

SELF_DESCRIBED = b"\xd9\xd9\xf7"
ROW_MAJOR = 40

TYPED: dict[int, tuple[str, str]] = {
    64: ("uint8", ""),
    65: ("uint16", "H"),
    68: ("uint8", ""),
    69: ("uint16", ""),
    72: ("int8", ""),
    73: ("int16", "H"),
    74: ("int32", "I"),
    75: ("int64", "Q"),
    77: ("int16", ""),
    78: ("int32", ""),
    79: ("int64", ""),
    80: ("float16", "H"),
    81: ("float32", "I"),
    82: ("float64", "Q"),
    84: ("float16", ""),
    85: ("float32", ""),
    86: ("float64", ""),
}
"""Typed-array tags: NumPy's dtype, and for the big-endian ones the `array` code of a swap."""

_FLOATS = {b"\xf9": ("e", 3), b"\xfa": ("f", 5), b"\xfb": ("d", 9)}
"""First byte of a float: its `struct` code, and its width with that byte."""

_INDEFINITE = -1
_BREAK = 0xFF


class CborError(ValueError):
    """What is wrong with the bytes."""


class Typed(msgspec.Struct, frozen=True):
    """A typed array: little-endian `data` of NumPy's `dtype`; `shape` is () unless the array stated it."""

    dtype: str
    data: bytes
    shape: tuple[int, ...] = ()


class UnsupportedDtype(CborError):
    """A typed array of a dtype that no model takes."""


class BadShape(CborError):
    """A multi-dimensional array whose dimensions do not fit its values."""


class NotFinite(CborError):
    """A plain number that is NaN or infinite."""


class Reader:
    """A cursor over one message. Every method reads at `at` and leaves it behind what it read.

    Raises:
        CborError: the bytes end early, are no CBOR, or exceed the budget.
    """

    __slots__ = ("at", "budget", "buffer")

    def __init__(self, buffer: bytes) -> None:
        self.buffer = buffer
        self.at = len(SELF_DESCRIBED) if buffer.startswith(SELF_DESCRIBED) else 0
        self.budget = MAX_ITEMS

    def peek(self) -> int:
        """The major type of what comes next."""
        if self.at >= len(self.buffer):
            raise CborError("the message ends early")
        return self.buffer[self.at] >> 5

    def head(self) -> tuple[int, int]:
        """Read one head: (major type, argument), the argument -1 for an indefinite length."""
        buffer, at = self.buffer, self.at
        self.budget -= 1
        if self.budget < 0:
            raise CborError(f"more than {MAX_ITEMS} items; send numbers as a typed array (RFC 8746)")
        if at >= len(buffer):
            raise CborError("the message ends early")
        first = buffer[at]
        major, info = first >> 5, first & 31
        if info < 24:
            self.at = at + 1
            return major, info
        if info == 31:
            if major in (UINT, NEGATIVE, TAG):
                raise CborError(f"byte 0x{first:02x} is no CBOR head")
            self.at = at + 1
            return major, _INDEFINITE
        if info > 27:
            raise CborError(f"byte 0x{first:02x} is no CBOR head")
        end = at + 1 + (1 << (info - 24))
        if end > len(buffer):
            raise CborError("the message ends early")
        self.at = end
        return major, int.from_bytes(buffer[at + 1 : end], "big")

    def take(self, size: int) -> bytes:
        """Read the content of a string."""
        if size == _INDEFINITE:
            raise CborError("a string in chunks where one of known length is needed")
        start, end = self.at, self.at + size
        if end > len(self.buffer):
            raise CborError("the message ends early")
        self.at = end
        return self.buffer[start:end]

    def text(self) -> str | None:
        """Read a text string; something else is skipped and None."""
        if self.peek() != TEXT:
            self.skip()
            return None
        return self.take(self.head()[1]).decode()

    def names(self) -> Iterator[str | None]:
        """Go through a map's keys; who iterates reads or skips the value of each. None for a key that is no text."""
        _, count = self.head()
        while count:
            if count == _INDEFINITE:
                if self._at_break():
                    return
            else:
                count -= 1
            yield self.text()

    def scalar(self) -> int | str | None:
        """Read an integer, a text or null; anything else is an error."""
        major, value = self.head()
        if major == UINT:
            return value
        if major == NEGATIVE:
            return -1 - value
        if major == TEXT:
            return self.take(value).decode()
        if major == SIMPLE and value == 22:
            return None
        raise CborError("expected an integer, a text or null")

    def integers(self) -> tuple[int, ...]:
        """Read a short array of integers."""
        major, count = self.head()
        if major != ARRAY or not 0 <= count <= MAX_DEPTH:
            raise CborError("expected a short array of integers")
        values = tuple(self.scalar() for _ in range(count))
        if not all(type(value) is int for value in values):
            raise CborError("expected a short array of integers")
        return values  # type: ignore[return-value]

    def values(self) -> Typed | bytes | list[object]:
        """Read a tensor's values: a typed array, bytes, or nested arrays of plain numbers."""
        major, argument = self.head()
        if major == BYTES:
            return self.take(argument)
        if major == ARRAY:
            return self._list(argument, 1)
        if major != TAG:
            raise CborError("expected an array, a typed array or bytes")
        return self._multi() if argument == ROW_MAJOR else self._typed(argument)

    def _typed(self, tag: int) -> Typed:
        known = TYPED.get(tag)
        if known is None:
            if 64 <= tag <= 87:
                raise UnsupportedDtype(f"typed array tag {tag}")
            raise CborError(f"tag {tag} where values are expected")
        major, size = self.head()
        if major != BYTES:
            raise CborError(f"tag {tag} without a byte string")
        dtype, swap = known
        data = self.take(size)
        return Typed(dtype, _swapped(data, swap) if swap else data)

    def _multi(self) -> Typed:
        """RFC 8746 section 3.1.1: [dimensions, values in row-major order]."""
        if self.head() != (ARRAY, 2):
            raise CborError("tag 40 without [dimensions, values]")
        shape = self.integers()
        major, tag = self.head()
        if major != TAG:
            raise CborError("tag 40 without a typed array")
        flat = self._typed(tag)
        return Typed(flat.dtype, flat.data, _checked(shape))

    def _list(self, count: int, depth: int) -> list[object]:
        if depth > MAX_DEPTH:
            raise CborError(f"nested deeper than {MAX_DEPTH}")
        if count > 1 and (numbers := self._floats(count)) is not None:
            return numbers
        found: list[object] = []
        while count:
            if count == _INDEFINITE:
                if self._at_break():
                    break
            else:
                count -= 1
            found.append(self._number(depth))
        return found

    def _floats(self, count: int) -> list[object] | None:
        """Read an array of floats of one width at once; None where it is anything else."""
        first = self.buffer[self.at : self.at + 1]
        code, width = _FLOATS.get(first, ("", 0))
        end = self.at + count * width
        if not code or count > self.budget or self.buffer[self.at : end : width] != first * count:
            return None
        if end > len(self.buffer):
            raise CborError("the message ends early")
        numbers = unpack_from(">" + f"x{code}" * count, self.buffer, self.at)
        if not all(map(isfinite, numbers)):
            raise NotFinite("a number is NaN or infinite")
        self.at = end
        self.budget -= count
        return list(numbers)

    def _number(self, depth: int) -> object:
        start = self.at
        major, value = self.head()
        match major:
            case 0:
                return value
            case 1 if value < 1 << 63:
                return -1 - value
            case 4:
                return self._list(value, depth + 1)
            case 7:
                return _float(self.buffer, start)
        raise CborError("expected numbers or arrays of numbers")

    def skip(self) -> None:
        """Pass over one item of any kind without making it."""
        open_counts = [1]
        while open_counts:
            if open_counts[-1] == _INDEFINITE:
                if self._at_break():
                    open_counts.pop()
                    continue
            elif open_counts[-1] == 0:
                open_counts.pop()
                continue
            else:
                open_counts[-1] -= 1
            self._open(open_counts)

    def _open(self, open_counts: list[int]) -> None:
        """Read one head; what is inside it is left to do in `open_counts`."""
        major, value = self.head()
        if major in (BYTES, TEXT) and value != _INDEFINITE:
            self.take(value)
        elif major == SIMPLE and value == _INDEFINITE:
            raise CborError("a break without a beginning")
        elif major not in (UINT, NEGATIVE, SIMPLE):
            if len(open_counts) > MAX_DEPTH:
                raise CborError(f"nested deeper than {MAX_DEPTH}")
            inner = 1 if major == TAG else 2 * value if major == MAP and value > 0 else value
            open_counts.append(inner)

    def _at_break(self) -> bool:
        if self.at < len(self.buffer) and self.buffer[self.at] == _BREAK:
            self.at += 1
            return True
        return False

    def finish(self) -> None:
        """Nothing may follow the message."""
        if self.at != len(self.buffer):
            raise CborError(f"{len(self.buffer) - self.at} bytes after the end")


def _float(buffer: bytes, start: int) -> float:
    code, _ = _FLOATS.get(buffer[start : start + 1], ("", 0))
    if not code:
        raise CborError("expected numbers or arrays of numbers")
    number: float = unpack_from(">" + code, buffer, start + 1)[0]
    if not isfinite(number):
        raise NotFinite("a number is NaN or infinite")
    return number


def _swapped(data: bytes, code: str) -> bytes:
    values = array(code)
    if len(data) % values.itemsize:
        raise BadShape(f"{len(data)} bytes are no whole number of {values.itemsize}-byte values")
    values.frombytes(data)
    values.byteswap()
    return values.tobytes()


def _checked(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape or min(shape) < 1:
        raise BadShape(f"dimensions {list(shape)}")
    return shape
