"""`penstock sim capacity`: arguments, progress, and the last words."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer


def capacity(
    route: Annotated[str, typer.Option(metavar="NAME", help="The devices of the scenario to have more of.")],
    deadline: Annotated[
        int, typer.Option(metavar="MS", min=1, help="Within how long a frame must be answered.")
    ],
    scenario: Annotated[
        str, typer.Argument(help="A scenario file, or the name of a ready one: see `sim list`.")
    ] = "capacity",
    missed: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, max=50, help="Share that may have no answer in time.")
    ] = 1.0,
    dwell: Annotated[
        float, typer.Option(metavar="S", min=3, help="For how long what is found is held.")
    ] = 60.0,
    probe: Annotated[float, typer.Option(metavar="S", min=2, help="For how long each level is tried.")] = 5.0,
    most: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Never more devices.")] = 1000,
    url: Annotated[
        str | None, typer.Option(help="Broker to load, in place of one that is started here.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="Base URL of that gateway's HTTP: its ledger and metrics.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results; new.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Search the largest load whose frames are answered in time, hold it, and say what saturates first.

    The number of devices is doubled until frames miss the deadline, then halved in between; what is found is held for the
    dwell, and fails there when latency, queue or memory drift, or the box slows itself down. Ctrl-C ends the search with
    what it has. Exit code 1: nothing held.

    \b
    Examples:
      penstock sim capacity --route cam --deadline 200
      penstock sim capacity site.toml --route door --deadline 500 --url mqtt://box:1883 --status http://box:8600
    """
    from rich.console import Console

    from penstock_sim.capacity.probe import Wanted
    from penstock_sim.capacity.run import CapacityRun, Plan, save
    from penstock_sim.capacity.view import CapacityView, closing_lines
    from penstock_sim.scenario.library import find

    loaded = find(scenario, url=url, status=status)
    folder = output or Path("sim") / f"capacity-{route}-{time.strftime('%Y%m%d-%H%M%S')}"
    wanted = Wanted(route, deadline, missed / 100)
    with CapacityView(Console(stderr=True), quiet=json) as view:
        plan = Plan(most=most, probe_s=probe, dwell_s=dwell)
        search = CapacityRun(loaded, wanted, plan, folder, view)
        try:
            found = asyncio.run(search.go())
        except KeyboardInterrupt:
            found = search.stopped()
    save(found, folder)
    if json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    else:
        for line in closing_lines(found):
            Console().print(line, highlight=False, markup=False, soft_wrap=True)
        Console().print(f"results: {folder}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found.devices else 1)
