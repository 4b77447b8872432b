"""What a run prints: a live table on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from penstock_sim.measure.figures import latencies
from penstock_sim.run import merge
from penstock_sim.run.records import Event, Row

_EVERY_S = 5
_EVENTS = 5
_BAR = 40


class LiveView:
    """A table by mix, drawn anew each second, with the newest faults below it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._events: list[Event] = []
        self._shown: list[RenderableType] = []

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def stage(self, text: str, done: int | None = None, of: int | None = None) -> None:
        words = Text(text, style="dim")
        line = words if done is None or not of else bar(done, of, f"{done} of {of}")
        self._live.update(
            Group(*self._shown, words, line) if line is not words else Group(*self._shown, words)
        )
        self._live.refresh()

    def row(self, row: Row, of_s: float) -> None:
        second = min(row.second + 1, of_s)
        self._shown = [table(row), Text(machine_line(row))]
        faults = [Text(event_line(event), style="yellow") for event in self._events[-_EVENTS:]]
        hint = Text("Ctrl-C stops the load and closes the books", style="dim")
        progress = bar(second, of_s, f"{second:.0f} of {of_s:.0f} s")
        self._live.update(Group(*self._shown, *faults, progress, hint), refresh=True)

    def event(self, event: Event) -> None:
        self._events.append(event)


class PlainView:
    """Lines, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, text: str, done: int | None = None, of: int | None = None) -> None:
        if text != self._stage:
            self._stage = text
            self._say(text)

    def row(self, row: Row, of_s: float) -> None:
        if (row.second + 1) % _EVERY_S == 0:
            for words in lines(row):
                self._say(f"{row.second + 1:5d} s  {words}")

    def event(self, event: Event) -> None:
        self._say(event_line(event))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def bar(done: float, of: float, words: str) -> Table:
    """A progress bar with what it means."""
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(total=of, completed=done, width=_BAR), words)
    return line


def table(row: Row) -> Table:
    """The mixes of one second."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("devices", no_wrap=True)
    for name in ("sent/s", "answered/s", "late/s", "p50 ms", "p99 ms"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, mix in row.mixes.items():
        took = latencies(merge.histogram([mix.latency]))
        times = [_ms(took["p50_ms"]), _ms(took["p99_ms"])]
        shown.add_row(name, str(mix.sent), str(mix.answered), str(mix.late), *times)
    return shown


def lines(row: Row) -> Sequence[str]:
    """The same in words, and what the machine does."""
    found = []
    for name, mix in row.mixes.items():
        took = latencies(merge.histogram([mix.latency]))
        times = f"p50 {_ms(took['p50_ms'])} p99 {_ms(took['p99_ms'])} ms"
        found.append(f"{name:<12} {mix.sent}/s sent, {mix.answered}/s answered, {mix.late} late, {times}")
    return [*found, machine_line(row)]


def machine_line(row: Row) -> str:
    parts = [f"{row.connected} connected"]
    parts += [f"{name} {p.cpu:.2f} cores {p.rss_mb:.0f} MB" for name, p in row.processes.items()]
    if row.gateway is not None:
        parts.append(f"{row.gateway.waiting} waiting at the gateway")
    if row.held or row.unsent:
        parts.append(f"{row.held} held, {row.unsent} unsent")
    return ", ".join(parts)


def event_line(event: Event) -> str:
    what = f"{event.kind} ({event.text})" if event.text else event.kind
    return f"{event.at_s:5.0f} s  {what}{'' if event.begins else ' is over'}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
