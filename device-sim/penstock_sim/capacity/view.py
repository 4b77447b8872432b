"""What a capacity search prints: a line a step, and below it what runs at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from penstock_sim.capacity.run import Capacity
from penstock_sim.capacity.search import Step
from penstock_sim.run.records import Event, Row
from penstock_sim.run.view import machine_line
from penstock_sim.run.words import number


class CapacityView:
    """Steps stay, the line below them is drawn anew on a terminal, and left out elsewhere."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._trying = ""

    def __enter__(self) -> CapacityView:
        if self._draws:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._draws:
            self._live.stop()

    def trying(self, devices: int, seconds: float, holding: bool) -> None:
        self._trying = f"{'holding' if holding else 'trying'} {devices} devices for {seconds:g} s"
        self._draw("")

    def step(self, step: Step) -> None:
        if not self._quiet:
            self._console.print(step_line(step), highlight=False, markup=False, soft_wrap=True)

    def stage(self, text: str, done: int | None = None, of: int | None = None) -> None:
        self._draw(text)

    def row(self, row: Row, of_s: float) -> None:
        self._draw(f"{row.second + 1} of {of_s:g} s, {machine_line(row)}")

    def event(self, event: Event) -> None:
        """There are no faults in a search."""

    @property
    def _draws(self) -> bool:
        return self._console.is_terminal and not self._quiet

    def _draw(self, text: str) -> None:
        if self._draws:
            self._live.update(Text(f"{self._trying}: {text}".strip(": "), style="dim"), refresh=True)


def step_line(step: Step) -> str:
    figures = step.figures
    share = figures["missed"]
    took = f"p50 {number(figures['p50_ms'])}, p99 {number(figures['p99_ms'])} ms"
    missed = f"{share:.2%} missed" if share is not None else "nothing sent"
    words = "ok" if step.passed else step.why
    return f"{step.devices:6d} devices for {step.seconds:g} s: {missed}, {took}: {words}"


def closing_lines(found: Capacity) -> Iterator[str]:
    if found.stopped:
        passed = max((step.devices for step in found.steps if step.passed), default=0)
        yield f"stopped: {passed} devices of {found.route} passed a probe, and nothing was held for {found.dwell_s:g} s"
        return
    if found.held is None:
        yield f"no load of {found.route} was held within {found.deadline_ms} ms"
    else:
        p99 = number(found.held.figures["p99_ms"])
        yield (
            f"{found.devices} devices of {found.route} ({found.frames_per_s:g} frames/s) were held for {found.dwell_s:g} s"
            f" with at most {found.missed:.1%} missed: p99 {p99} ms of {found.deadline_ms}"
        )
    yield f"saturates first: {found.limit.part}: {found.limit.why}"
