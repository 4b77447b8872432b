"""Structured logs on the standard library: an event in a few fixed words, and fields as key=value.

JSON lines where nobody watches, readable lines on a terminal. A module makes its `Log` at import, which touches nothing
global; only `setup`, called once by a command, installs a handler. What comes from outside (topics, client ids) is cut
and escaped, and fields that are named like secrets are masked.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

import msgspec

MAX_VALUE = 500
"""The longest text of one field, in characters."""
MAX_TRACEBACK = 8000
MAX_EVENTS = 256
"""How many different events one limiter remembers."""

_SECRET_WORDS = ("password", "token", "secret", "authorization", "private_key")
_FIELDS = "penstock_fields"
_BASE = frozenset({"time", "level", "logger", "event", "traceback"})


class EventLog(Protocol):
    """Where events go: a `Log`, or a `Limiter` around one."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


class Log:
    """Events of one module. `event` is a fixed text; what varies goes into the fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def write(self, level: int, event: str, fields: Mapping[str, object], traceback: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", event, extra={_FIELDS: fields}, exc_info=traceback)

    def debug(self, event: str, **fields: object) -> None:
        self.write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self.write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self.write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self.write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error with the traceback of the exception that is being handled."""
        self.write(logging.ERROR, event, fields, traceback=True)


class Limiter:
    """Lets each event through `burst` times, then once in `every_s`; the next one through says how many were `suppressed`.

    Events count apart by their text and level, not by their fields, so that a thousand bad devices are one event.

    Args:
        log: where to write.
        clock: seconds that only grow.
    """

    def __init__(
        self, log: Log, *, burst: int = 5, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._burst = burst
        self._every_s = every_s
        self._clock = clock
        self._events: OrderedDict[tuple[int, str], _Allowance] = OrderedDict()

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        allowance = self._allowance(level, event)
        if not allowance.take(self._clock(), self._burst, self._every_s):
            allowance.suppressed += 1
            return
        if allowance.suppressed:
            fields["suppressed"], allowance.suppressed = allowance.suppressed, 0
        self._log.write(level, event, fields)

    def _allowance(self, level: int, event: str) -> _Allowance:
        key = (level, event)
        allowance = self._events.get(key)
        if allowance is None:
            if len(self._events) >= MAX_EVENTS:
                self._events.popitem(last=False)
            allowance = self._events[key] = _Allowance(self._clock(), self._burst)
        self._events.move_to_end(key)
        return allowance


class _Allowance:
    """A token bucket."""

    __slots__ = ("_since", "_tokens", "suppressed")

    def __init__(self, now: float, burst: int) -> None:
        self._since = now
        self._tokens = float(burst)
        self.suppressed = 0

    def take(self, now: float, burst: int, every_s: float) -> bool:
        self._tokens = min(float(burst), self._tokens + (now - self._since) / every_s)
        self._since = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (epoch ms), `level`, `logger`, `event`, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _clean(record.getMessage()),
        }
        for key, value in _fields(record).items():
            line[f"{key}_" if key in _BASE else key] = _plain(value)
        if (traceback := _traceback(self, record)) is not None:
            line["traceback"] = traceback
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    """A line for people: time, level, the module's last name, event, key=value."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        module = record.name.rpartition(".")[2]
        head = (
            f"{clock}.{int(record.msecs):03d} {record.levelname:<7} {module}: {_escaped(record.getMessage())}"
        )
        fields = [f"{key}={_shown(value)}" for key, value in _fields(record).items()]
        traceback = _traceback(self, record)
        return " ".join([head, *fields]) + (f"\n{traceback}" if traceback is not None else "")


def setup(*, level: str = "info", json: bool | None = None, stream: TextIO | None = None) -> None:
    """Send the logs of this process to one stream. Called again, it replaces what it set up before.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        json: JSON lines or readable ones; None: readable on a terminal, JSON elsewhere.
        stream: standard error when left out.
    """
    target = sys.stderr if stream is None else stream
    as_json = not target.isatty() if json is None else json
    handler = _Handler(target)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that `setup` knows it again."""


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS, {})
    return {key: "***" if _is_secret(key) else value for key, value in fields.items() if value is not None}


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET_WORDS) and not key.lower().endswith("_file")


def _plain(value: object) -> object:
    """What JSON can hold; a text is cut, and anything unknown becomes one."""
    if value is None or isinstance(value, (bool, int, float)):
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(inner) for inner in value[:20]]
    return _clean(str(value))


def _clean(text: str) -> str:
    """A text that is not too long and has a UTF-8 form."""
    text = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
    return text.encode(errors="replace").decode()


def _escaped(text: str) -> str:
    """A text in which a hostile name can neither start a new line nor steer the terminal."""
    text = _clean(text)
    return text if text.isprintable() else ascii(text)[1:-1]


def _shown(value: object) -> str:
    plain: Any = _plain(value)
    if isinstance(plain, list):
        return ",".join(map(_shown, plain))
    if isinstance(plain, float):
        return f"{plain:.6g}"
    text = _escaped(str(plain))
    return (
        text
        if text and " " not in text and "=" not in text and '"' not in text
        else '"' + text.replace('"', '\\"') + '"'
    )


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[0] is None:
        return None
    return formatter.formatException(record.exc_info)[-MAX_TRACEBACK:].encode(errors="replace").decode()
