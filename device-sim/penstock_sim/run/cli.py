"""`penstock sim run`: arguments, signals, and the last words."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from penstock_models.errors import PenstockError

if TYPE_CHECKING:
    from rich.console import Console

    from penstock_sim.run.records import Summary
    from penstock_sim.run.run import View
    from penstock_sim.scenario import Loaded


def run(
    scenario: Annotated[
        str, typer.Argument(help="A scenario file, or the name of a ready one: see `sim list`.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results; new.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Broker to load, in place of one that is started here.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Base URL of that gateway's HTTP, for its ledger.")
    ] = None,
    scale: Annotated[
        float, typer.Option(min=0.001, help="Times the scenario's seconds, faults with them.")
    ] = 1.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, and nothing else.")
    ] = False,
) -> None:
    """Run a scenario: load a gateway with virtual devices, break things, close the books.

    Without a target a broker and a gateway with the demo's models are started here. The exit code is 0 where the load
    was on time, the books of devices and gateway agree, and every objective of the scenario holds; else 1.

    \b
    Examples:
      penstock sim run smoke
      penstock sim run day-in-a-shop.toml --url mqtt://box:1883 --status http://box:8600
    """
    from rich.console import Console

    from penstock_sim.run.view import LiveView, PlainView
    from penstock_sim.scenario.library import find

    loaded = find(scenario, url=url, status=status, scale=scale)
    folder = output or Path("sim") / f"{loaded.scenario.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    console = Console(stderr=True)
    view = LiveView(console) if console.is_terminal and not json else PlainView(console)
    with view:
        summary = asyncio.run(_run(loaded, folder, view))
    if json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    else:
        close(Console(), summary, folder)
    raise typer.Exit(0 if summary.ok else 1)


def list_ready(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the ready scenarios, which `run` takes by name.

    \b
    Example:
      penstock sim list
    """
    from rich.console import Console
    from rich.table import Table

    from penstock_sim.scenario.library import find, ready

    found = {name: find(name) for name in ready()}
    if json:
        about = {
            name: {"about": one.scenario.about, "seconds": one.load.seconds, "file": str(path)}
            for (name, path), one in zip(ready().items(), found.values())
        }
        sys.stdout.write(msgspec.json.encode(about).decode() + "\n")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, one in found.items():
        table.add_row(name, f"{one.devices} devices", f"{one.load.seconds:g} s", one.scenario.about)
    Console().print(table)


async def _run(loaded: Loaded, folder: Path, view: View) -> Summary:
    """The run; a first Ctrl-C ends the sending, a second one everything."""
    from penstock_sim.run.records import Writer
    from penstock_sim.run.run import Run

    writer = Writer(folder, loaded.text)
    running = Run(loaded, writer, view)
    task = asyncio.ensure_future(running.go())
    asked = False

    def signalled() -> None:
        nonlocal asked
        if asked:
            task.cancel()
        asked = True
        running.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled)
    try:
        summary = await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    if writer.problem:
        raise PenstockError(writer.problem)
    return summary


def close(console: Console, summary: Summary, folder: Path) -> None:
    """The closing words: figures, what does not agree, what does not hold."""
    from penstock_sim.run.words import closing_lines

    for line in closing_lines(summary):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(f"results: {folder}; penstock sim report {folder}", highlight=False, soft_wrap=True)
