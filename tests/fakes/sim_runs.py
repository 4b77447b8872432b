"""Runs of scenarios in a test's own process, without a screen."""

from __future__ import annotations

from pathlib import Path

from penstock_sim.run.records import Event, Row, Summary, Writer
from penstock_sim.run.run import Run
from penstock_sim.scenario import Loaded, read


class Watcher:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.rows: list[Row] = []
        self.events: list[Event] = []

    def stage(self, text: str, done: int | None = None, of: int | None = None) -> None:
        self.stages.append(text)

    def row(self, row: Row, of_s: float) -> None:
        self.rows.append(row)

    def event(self, event: Event) -> None:
        self.events.append(event)


def scenario(folder: Path, text: str) -> Loaded:
    """Write a scenario file and read it."""
    file = folder / "scenario.toml"
    file.write_text(text)
    return read(file)


async def run(loaded: Loaded, folder: Path, view: Watcher | None = None) -> Summary:
    """Run it; the records lie in `folder`."""
    return await Run(loaded, Writer(folder, loaded.text), view or Watcher()).go()
