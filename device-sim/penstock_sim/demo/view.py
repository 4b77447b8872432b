"""What the demo prints: a live table on a terminal, plain lines elsewhere. Numbers come in, text goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import msgspec
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock_gateway.ledger import BUCKETS

_NUMBERS = 54
"""Columns that names, numbers and the space between them take."""
_SHORTEST_WORDS, _LONGEST_WORDS = 20, 30


class Row(msgspec.Struct, frozen=True):
    """One stream as shown: rates per second, latencies in milliseconds from the intended time of sending."""

    name: str
    sent: int
    answered: int
    rate: float
    p50_ms: float | None
    p95_ms: float | None
    last: str
    who: str


class View(Protocol):
    """Where the demo shows its progress and its live numbers."""

    def __enter__(self) -> View: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None:
        """One line of progress."""

    def show(
        self, rows: Sequence[Row], ledger: Mapping[str, Any], seconds: float, final: bool = False
    ) -> None:
        """The numbers of this moment, or those that stay."""


class LiveView:
    """A table that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._live.console.print(Text(text, style="dim"))

    def show(
        self, rows: Sequence[Row], ledger: Mapping[str, Any], seconds: float, final: bool = False
    ) -> None:
        hint = Text(f"{seconds:.0f} s, Ctrl-C drains and stops", style="dim")
        parts = (
            [table(rows, self._live.console.width)]
            if final
            else [table(rows, self._live.console.width), Text(ledger_line(ledger)), hint]
        )
        self._live.update(Group(*parts), refresh=True)


class PlainView:
    """A line for each piece of progress, and every few seconds one a stream."""

    EVERY_S = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = self.EVERY_S

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(
        self, rows: Sequence[Row], ledger: Mapping[str, Any], seconds: float, final: bool = False
    ) -> None:
        if seconds < self._next_s and not final:
            return
        self._next_s = seconds + self.EVERY_S
        for row in rows:
            times = f"p50 {milliseconds(row.p50_ms)} p95 {milliseconds(row.p95_ms)} ms"
            self.say(
                f"{seconds:5.0f} s  {row.name:<10} {row.rate:5.1f}/s  {times}  {row.last}  ({row.who or '-'})"
            )
        self.say(f"{seconds:5.0f} s  {ledger_line(ledger)}")


def table(rows: Sequence[Row], width: int) -> Table:
    """The streams, one a row, for a terminal of `width` columns: on a narrow one the words are cut, not the numbers."""
    room = max(_SHORTEST_WORDS, width - _NUMBERS)
    words = min(_LONGEST_WORDS, room // 2)
    shown = Table(title="penstock demo", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("stream", no_wrap=True)
    for name, digits in (("answered", 10), ("fps", 4), ("p50 ms", 6), ("p95 ms", 6)):
        shown.add_column(name, justify="right", no_wrap=True, min_width=digits)
    shown.add_column("last answer", no_wrap=True, min_width=min(words, 14), max_width=words)
    shown.add_column("who answered", no_wrap=True, max_width=room - words)
    for row in rows:
        shown.add_row(
            row.name,
            f"{row.answered} of {row.sent}",
            f"{row.rate:.1f}",
            milliseconds(row.p50_ms),
            milliseconds(row.p95_ms),
            Text(row.last, style="bold red" if row.last.startswith("ANOMALY") else ""),
            row.who,
        )
    return shown


def ledger_line(ledger: Mapping[str, Any]) -> str:
    """The sum of contracts 4, without the buckets that are empty."""
    parts = [f"{ledger[bucket]} {bucket}" for bucket in BUCKETS if ledger.get(bucket)]
    parts.append(f"{ledger.get('in_flight', 0)} in flight")
    return f"ledger: {ledger.get('received', 0)} received = {' + '.join(parts)}"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
