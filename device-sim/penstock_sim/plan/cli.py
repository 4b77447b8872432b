"""`penstock plan`: arguments, the progress bar, and what is printed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

if TYPE_CHECKING:
    from rich.console import Console

    from penstock_sim.plan.planning import Planning, Wishes
    from penstock_sim.plan.search import Found

WIDTH = 150
"""Of what is printed where nobody looks."""


def plan(
    scenario: Annotated[
        str, typer.Argument(help="A scenario file, or the name of a ready one: see `sim list`.")
    ],
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="TIER=FILE", help="Profile of `edge` or `cloud`; may be repeated."),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="What must hold, in place of what the scenario says: 'p99_ms < 200'."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=OTHER", help="A model that may stand in for a route's; may be repeated."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PLACE", help="edge, overflow or cloud; all that the profiles allow if left out."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(metavar="N", min=0, max=64, help="Largest batch to try, 0 for the gateway's own rule."),
    ] = None,
    edges: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Edge boxes at most.")] = 1,
    clouds: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Cloud machines at most.")] = 4,
    budget: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Requests to the cloud an hour at most.")
    ] = None,
    frames: Annotated[
        int, typer.Option(metavar="N", min=100, max=10_000_000, help="Frames to simulate for a plan.")
    ] = 50_000,
    most: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Plans to try.")] = 60,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of what is random.")] = 0,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run the scenario here too, and show it beside the prediction.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Say what a scenario would do to a site, and find the cheapest plan that meets the objectives. No hardware needed.

    Profiles are made of `penstock model bench --json` on the device, one report a model. The exit code is 1 where no plan
    meets the objectives.

    \b
    Example:
      penstock model bench models/person-1.bundle --threads 2 --json >> edge.json
      penstock plan shop.toml --profile edge=edge.json --objective 'p99_ms < 200' --objective 'missed < 1%'
    """
    from rich.console import Console

    from penstock_sim.plan.measuring import beside
    from penstock_sim.plan.planning import planning, read_profiles
    from penstock_sim.plan.words import closing, plain
    from penstock_sim.scenario.library import find

    loaded = find(scenario)
    asked = _wishes(model, where, batch, edges, clouds, budget, frames, most, seed)
    question = planning(loaded, read_profiles(profile or ()), objective or (), asked)
    console = Console(stderr=True)
    found = _searched(question, console)
    compared = beside(loaded, question, console) if measure else ()
    if json:
        value = plain(found, question, loaded.scenario.name)
        if measure:
            value["measured"] = msgspec.to_builtins(compared)
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    else:
        out = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        _table(out, found)
        for line in (*closing(found, question), *(line.text for line in compared)):
            out.print(line, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.chosen is not None else 1)


def _searched(question: Planning, console: Console) -> Found:
    """Search, with a bar that knows the most that it may try."""
    from rich.progress import Progress

    total = min(question.wishes.most, len(question.space.shapes())) if question.objectives else 1
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("simulating plans", total=total)
        return question.search(lambda candidate: bar.advance(task))


def _table(console: Console, found: Found) -> None:
    from rich import box
    from rich.table import Table

    from penstock_sim.plan.words import COLUMNS, row, shown

    table = Table(*COLUMNS, box=box.SIMPLE_HEAD, pad_edge=False)
    for candidate in shown(found):
        table.add_row(*row(candidate), style="bold" if candidate is found.chosen else None)
    console.print(table)


def _wishes(
    model: list[str] | None,
    where: list[str] | None,
    batch: list[int] | None,
    edges: int,
    clouds: int,
    budget: int | None,
    frames: int,
    most: int,
    seed: int,
) -> Wishes:
    from penstock_models.errors import UsageError
    from penstock_sim.plan.overflow import PLACES, Where
    from penstock_sim.plan.planning import Wishes

    others: dict[str, list[str]] = {}
    for text in model or ():
        name, _, other = text.partition("=")
        if not name or not other:
            raise UsageError(f"expected --model NAME=OTHER, came {text!r}")
        others.setdefault(name, []).append(other)
    places: list[Where] = []
    for text in where or ():
        place = next((one for one in PLACES if one == text), None)
        if place is None:
            raise UsageError(f"expected --where {', '.join(PLACES)}, came {text!r}")
        places.append(place)
    return Wishes(others, tuple(places), tuple(batch or ()), edges, clouds, budget, frames, most, seed)
