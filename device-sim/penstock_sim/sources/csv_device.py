"""A CSV file as a device: its rows, cut into windows, are what the sensor measured.

The text is UTF-8, with or without a byte order mark. The first line names the columns. One column may hold timestamps
(ISO 8601, read as UTC where it names no zone, or epoch seconds or milliseconds); every other must hold numbers.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import numpy as np

from penstock_models.errors import UsageError
from penstock_sim.sources.ahead import read_ahead
from penstock_sim.sources.encodings import MEDIA_TYPES, Encoding, encode_window
from penstock_sim.sources.source import Payload

_LATEST_MS = 2**53
_MILLIS_FROM = 1e11
"""An epoch number from here on is in milliseconds: as seconds it would be after the year 5000."""


class CsvDevice:
    """Windows of `size` rows, a new one every `hop` rows, as float32 (size, columns); a short rest is left out.

    A window's capture time is its last row's. `rate_hz` is windows per second.

    Raises:
        UsageError: no such file or column, a size or hop below 1, or (while reading) a cell that is not a number, with
            its line.
    """

    def __init__(
        self,
        file: Path,
        size: int,
        hop: int | None = None,
        timestamp: str | None = None,
        rate_hz: float = 1.0,
        encoding: Encoding = "tensor",
        ahead: int = 64,
    ) -> None:
        hop = size if hop is None else hop
        if size < 1 or hop < 1:
            raise UsageError(f"expected a size and a hop of at least 1 row for {file}, got {size} and {hop}")
        self.name, self.media_type, self.rate_hz = file.stem, MEDIA_TYPES[encoding], rate_hz
        self._file, self._size, self._hop = file, size, hop
        self._encoding, self._ahead, self._timestamp = encoding, ahead, timestamp
        self._header = _header(file)
        if timestamp is not None and timestamp not in self._header:
            raise UsageError(f"expected a column {timestamp!r} in {file}, got {', '.join(self._header)}")
        self._columns = [name for name in self._header if name != timestamp]

    def payloads(self) -> Iterator[Payload]:
        return read_ahead(self._windows(), self._ahead)

    def _windows(self) -> Iterator[Payload]:
        rows: list[list[float]] = []
        skip = 0
        for ts, values in self._rows():
            if skip:
                skip -= 1
                continue
            rows.append(values)
            if len(rows) == self._size:
                yield self._payload(rows, ts)
                skip = max(0, self._hop - self._size)
                rows = rows[self._hop :]

    def _payload(self, rows: Sequence[Sequence[float]], ts: int | None) -> Payload:
        samples = np.asarray(rows, dtype=np.float32)
        data, user = encode_window(samples, self._encoding, self._columns, self.rate_hz * self._hop)
        return Payload(data, user, ts)

    def _rows(self) -> Iterator[tuple[int | None, list[float]]]:
        with _opened(self._file) as lines:
            reader = csv.reader(lines)
            next(reader)
            for cells in reader:
                if cells:
                    yield self._row(cells, reader.line_num)

    def _row(self, cells: Sequence[str], line: int) -> tuple[int | None, list[float]]:
        if len(cells) != len(self._header):
            raise UsageError(f"{self._file}:{line}: expected {len(self._header)} cells, got {len(cells)}")
        row = dict(zip(self._header, cells))
        try:
            ts = None if self._timestamp is None else parse_time(row[self._timestamp])
            return ts, [float(row[name]) for name in self._columns]
        except ValueError as error:
            raise UsageError(f"{self._file}:{line}: expected numbers and a time, got {error}") from None


def parse_time(text: str) -> int:
    """Epoch milliseconds of an ISO 8601 time, or of epoch seconds or milliseconds.

    Raises:
        ValueError: neither, or beyond 2^53 ms.
    """
    try:
        number = float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)
    if not abs(number) <= _LATEST_MS:  # nor is nan
        raise ValueError(f"the time {text}")
    return round(number if abs(number) >= _MILLIS_FROM else number * 1000)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[TextIO]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            yield lines
    except OSError as error:
        raise UsageError(f"expected a CSV file at {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"expected comma-separated UTF-8 text in {file}, got {error}") from None


def _header(file: Path) -> list[str]:
    with _opened(file) as lines:
        header = next(csv.reader(lines), [])
    if len(header) == 0 or len(set(header)) != len(header):
        raise UsageError(f"expected a first line with distinct column names in {file}, got {header}")
    return header
