"""The commands of the simulator: `penstock demo` and the group `penstock sim`.

Owns arguments and the last words. Heavy imports stand in the command, so that `--help` costs nothing.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from penstock_sim.capacity.cli import capacity
from penstock_sim.doctor.cli import doctor
from penstock_sim.report.cli import compare, report
from penstock_sim.run.cli import list_ready, run

if TYPE_CHECKING:
    from rich.console import Console

    from penstock_sim.demo.run import Outcome
    from penstock_sim.demo.view import View

sim = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Load a gateway with virtual devices, break things, judge what happened.\n\n\b\nExample:\n  penstock sim run smoke",
)
sim.command()(run)
sim.command("list")(list_ready)
sim.command()(capacity)
sim.command()(report)
sim.command()(compare)
sim.command()(doctor)


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(metavar="N", min=1.0, help="End by itself after so many seconds; else Ctrl-C ends it."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end, and nothing else.")
    ] = False,
) -> None:
    """Run a broker, a gateway, cameras and sensors on this machine and show what happens.

    Nothing is needed beside this installation: no broker, no network, no root. Exit code 0 says that the ledger
    closed and that every stream was answered.

    \b
    Example:
      penstock demo --seconds 20
    """
    from rich.console import Console

    from penstock_sim.demo.run import run_demo
    from penstock_sim.demo.view import LiveView, PlainView

    console = Console(stderr=json)
    view: View = LiveView(console) if console.is_terminal and not json else PlainView(console)
    try:
        with view:
            outcome = asyncio.run(run_demo(view, seconds))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    if json:
        sys.stdout.write(msgspec.json.encode(outcome).decode() + "\n")
    else:
        _close(console, outcome)
    raise typer.Exit(0 if outcome.ok else 1)


def _close(console: Console, outcome: Outcome) -> None:
    """The closing words: the ledger, the verdict, and where things lie."""
    from penstock_sim.demo.view import ledger_line

    verdict = "closed" if outcome.closed else "NOT closed"
    silent = [name for name, books in outcome.streams.items() if not books.answered]
    lines = [
        f"{ledger_line(outcome.ledger)} ({verdict})",
        f"every stream was answered, over MQTT {outcome.mqtt}"
        if not silent
        else f"no answer for {', '.join(silent)}",
    ]
    if outcome.exit_code:
        lines.append(f"the gateway ended with {outcome.exit_code}; its log: {outcome.folder}/gateway.log")
    if outcome.picture:
        lines.append(f"annotated picture: {outcome.picture}")
    lines.append(f"run the same gateway again: penstock gateway run -c {outcome.folder}/gateway.toml")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
