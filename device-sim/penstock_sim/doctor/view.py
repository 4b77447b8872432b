"""What the doctor prints: a bar while it watches, then the streams, the findings and their cures. No decisions here.

What a device says is never markup, and holds no control characters by the time it comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from penstock_sim.doctor.examination import Report
from penstock_sim.doctor.findings import Finding

_STYLES = {"error": "bold red", "warning": "yellow"}


@contextmanager
def progress(console: Console, seconds: float) -> Iterator[Callable[[float, int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("watching"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=seconds, said="")

        def show(passed: float, frames: int, findings: int) -> None:
            bar.update(task, completed=passed, said=f"{frames} frames, {findings} findings")

        yield show


def show(console: Console, report: Report) -> None:
    """The whole report."""
    if report.streams:
        console.print(_streams(report))
    if report.findings:
        console.print(_findings(report))
    if report.reconnects != "not seen":
        _line(console, f"reconnects: judged from the {report.reconnects}", "dim")
    for note in report.notes:
        _line(console, f"note: {note}", "dim")
    _line(console, verdict(report), "bold")


def verdict(report: Report) -> str:
    """The last line, such as `nothing wrong in 312 frames of 2 streams, 60 s`."""
    frames = f"{report.frames} {_many('frame', report.frames)}"
    seen = f"{frames} of {len(report.streams)} {_many('stream', len(report.streams))}, {report.seconds:.0f} s"
    if report.findings:
        errors = sum(f.severity == "error" for f in report.findings)
        warnings = len(report.findings) - errors
        counts = [(errors, "error"), (warnings, "warning")]
        words = " and ".join(f"{n} {_many(word, n)}" for n, word in counts if n)
        return f"{report.device}: {words} in {seen}"
    if not report.heard:
        return f"{report.device}: nothing heard in {report.seconds:.0f} s at site {report.site}"
    return f"{report.device}: nothing wrong in {seen}"


def _many(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _streams(report: Report) -> Table:
    table = Table("stream", "frames", "per s", "type", "numbered", "boots", "receipts", box=box.SIMPLE)
    for name, s in report.streams.items():
        rate = f"{s.frames / report.seconds:.1f}" if report.seconds else ""
        cells = (name, s.frames, rate, s.form, s.numbered, s.boots, "yes" if s.receipted else "no")
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


def _findings(report: Report) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, show_lines=True)
    for found in report.findings:
        title = Text(no_wrap=True)
        title.append(f"{found.severity}\n", style=_STYLES[found.severity]).append(found.fault, style="bold")
        title.append(f"\n{found.stream}" if found.stream else "")
        title.append(f"\n{found.count} {_many('time', found.count)}", style="dim")
        table.add_row(title, _told(found))
    return table


def _told(found: Finding) -> Text:
    example = found.example
    seq = f", seq {example.seq}" if example.seq is not None else ""
    lines = (
        ("expected", found.expected),
        ("came", found.came),
        ("first", f"{example.topic}{seq}, at {example.at_s:.1f} s"),
        ("do", found.cure),
    )
    text = Text(overflow="fold")
    for number, (name, words) in enumerate(lines):
        text.append("\n" if number else "").append(f"{name}: ", style="dim").append(words)
    return text


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), soft_wrap=True)
