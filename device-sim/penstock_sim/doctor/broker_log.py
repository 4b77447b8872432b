"""Connections of a device in Mosquitto's log: those that it took, and those that it refused.

The log's times are whole seconds, or ISO 8601 as `log_timestamp_format` has it. Read is what the broker wrote since the
log was opened here, at most `MAX_BYTES`; a log that was rotated is read from its beginning.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from penstock_models.errors import UsageError

MAX_BYTES = 16 << 20

_LINE = re.compile(
    r"(?P<time>\d+|\d{4}-\d\d-\d\dT[\d:.+Z-]+?): (?:"
    r"New client connected from \S+ as (?P<taken>.+?) \((?P<how>p\d.*)\)\.?"
    r"|Client (?P<refused>.+?) disconnected, not authorised\.?)"
)
_USER = re.compile(r"u'(?P<user>[^']*)'")


def connections(text: str, device: str, client_id: str = "") -> list[float]:
    """When the device connected or was refused, in epoch seconds.

    Args:
        client_id: the device's; left out, a client is taken for the device where its id or its user has the device's name
            as a word of it.
    """
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name = match["taken"] or match["refused"]
        user = _USER.search(match["how"] or "")
        time = _time(match["time"])
        if time is not None and _is(name, user["user"] if user else "", device, client_id):
            found.append(time)
    return found


def _is(name: str, user: str, device: str, client_id: str) -> bool:
    if client_id:
        return name == client_id
    word = rf"(?<![A-Za-z0-9]){re.escape(device)}(?![A-Za-z0-9])"
    return user == device or re.search(word, name) is not None


def _time(text: str) -> float | None:
    try:
        return float(text) if text.isdigit() else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


class BrokerLog:
    """A log that grows.

    Raises:
        UsageError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                self._begin = file.seek(0, 2)
        except OSError as error:
            raise UsageError(f"expected the broker's log at {path}: {error.strerror}") from None

    def read(self) -> str:
        """What was written since.

        Raises:
            UsageError: it cannot be read any more.
        """
        try:
            with self._path.open("rb") as file:
                end = file.seek(0, 2)
                begin = self._begin if end >= self._begin else 0
                file.seek(max(begin, end - MAX_BYTES))
                return file.read(MAX_BYTES).decode(errors="replace")
        except OSError as error:
            raise UsageError(f"expected the broker's log at {self._path}: {error.strerror}") from None
