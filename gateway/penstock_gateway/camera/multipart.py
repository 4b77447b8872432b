"""Takes `multipart/x-mixed-replace` apart, as cameras serve it: bytes in, parts out, in whatever pieces they come.

Pure, and bounded: what is no part, or too large, is passed over and counted, never gathered. Cameras are careless with
this format (RFC 2046 5.1), so a part is taken with or without Content-Length, a wrong length is survived, lines may
end in a bare LF, and the boundary may stand in the header with its dashes already.
"""

from __future__ import annotations

import enum
from email.message import Message

import msgspec

MAX_HEADER = 8 << 10
_MAX_PREAMBLE = 64 << 10


class Broken(Exception):
    """The stream is not what its Content-Type says."""


class Part(msgspec.Struct, frozen=True, eq=False):
    """One part; header names are in lower case."""

    headers: dict[str, str]
    body: bytes


class _At(enum.Enum):
    BOUNDARY = 0
    HEADER = 1
    SIZED = 2
    OPEN = 3
    END = 4


def boundary_of(content_type: str) -> bytes | None:
    """The delimiter line of a Content-Type header, None where it is another type or names none."""
    message = Message()
    message["Content-Type"] = content_type
    value = message.get_boundary()
    if message.get_content_maintype() != "multipart" or not value:
        return None
    text = value if value.startswith("--") else f"--{value}"
    return text.encode("latin-1", "replace")


class Multipart:
    """Feeds on the body of one response.

    Args:
        delimiter: what `boundary_of` gave.
        most: bytes of the largest part that is kept.
    """

    def __init__(self, delimiter: bytes, most: int) -> None:
        self.too_large = 0
        self.ended = False
        self._delimiter = delimiter
        self._most = most
        self._data = bytearray()
        self._at = _At.BOUNDARY
        self._headers: dict[str, str] = {}
        self._length = 0
        self._seen = 0  # bytes of `_data` in which the delimiter was searched for in vain
        self._passed = 0  # bytes thrown away while searching
        self._dropping = False

    def feed(self, data: bytes) -> list[Part]:
        """Take the next bytes; returns the parts that are whole now.

        Raises:
            Broken: no delimiter where one must be, or a header that never ends.
        """
        self._data += data
        parts: list[Part] = []
        while not self.ended and self._step(parts):
            pass
        return parts

    def _step(self, parts: list[Part]) -> bool:
        """One step on; False when it needs more bytes."""
        match self._at:
            case _At.BOUNDARY:
                return self._find_boundary()
            case _At.HEADER:
                return self._read_header()
            case _At.SIZED:
                return self._read_sized(parts)
            case _At.OPEN:
                return self._read_open(parts)
            case _At.END:
                return self._after_boundary()

    def _find_boundary(self) -> bool:
        at = self._data.find(self._delimiter)
        if at < 0:
            keep = min(len(self._data), len(self._delimiter) - 1)
            self._passed += len(self._data) - keep
            del self._data[: len(self._data) - keep]
            if self._passed > max(_MAX_PREAMBLE, self._most):
                raise Broken(f"no line {_shown(self._delimiter)} in {self._passed} bytes")
            return False
        del self._data[: at + len(self._delimiter)]
        self._passed = 0
        self._at = _At.END
        return True

    def _after_boundary(self) -> bool:
        """Behind the delimiter stand `--`, which ends the stream, or a line end."""
        if len(self._data) < 2:
            return False
        if self._data[:2] == b"--":
            self.ended = True
            return False
        self._at = _At.HEADER
        return True

    def _read_header(self) -> bool:
        end, width = _blank_line(self._data)
        if end < 0 or end > MAX_HEADER:
            if len(self._data) > MAX_HEADER:
                raise Broken(f"the header of a part is longer than {MAX_HEADER} bytes")
            return False
        self._headers = _headers(bytes(self._data[:end]))
        del self._data[: end + width]
        length = self._headers.get("content-length", "")
        if length.isascii() and length.isdigit() and len(length) < 12:
            self._length = int(length)
            self._dropping = self._length > self._most
            self._at = _At.SIZED
        else:
            self._seen, self._dropping = 0, False
            self._at = _At.OPEN
        return True

    def _read_sized(self, parts: list[Part]) -> bool:
        if self._dropping:
            gone = min(self._length, len(self._data))
            del self._data[:gone]
            self._length -= gone
            if self._length:
                return False
            self.too_large += 1
        elif len(self._data) < self._length:
            return False
        else:
            parts.append(Part(self._headers, bytes(self._data[: self._length])))
            del self._data[: self._length]
        self._at = _At.BOUNDARY
        return True

    def _read_open(self, parts: list[Part]) -> bool:
        """A part without a length ends where the next delimiter begins a line."""
        at = self._data.find(b"\n" + self._delimiter, self._seen)
        if at < 0:
            self._seen = max(0, len(self._data) - len(self._delimiter))
            if len(self._data) > self._most + len(self._delimiter) + 2:
                self._dropping = True
                del self._data[: self._seen]
                self._seen = 0
            return False
        body = bytes(self._data[:at]).removesuffix(b"\r")
        if self._dropping or len(body) > self._most:
            self.too_large += 1
        else:
            parts.append(Part(self._headers, body))
        del self._data[: at + 1]
        self._at = _At.BOUNDARY
        return True


def _blank_line(data: bytearray) -> tuple[int, int]:
    """(where the header ends, how many bytes end it); (-1, 0) without a blank line."""
    found = [(at, len(mark)) for mark in (b"\r\n\r\n", b"\n\n") if (at := data.find(mark)) >= 0]
    return min(found, default=(-1, 0))


def _headers(raw: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in raw.decode("latin-1").splitlines())
    return {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


def _shown(delimiter: bytes) -> str:
    return ascii(delimiter[:40].decode("latin-1"))
