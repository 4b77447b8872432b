"""`penstock gateway`: run a gateway, or check its configuration, its models and its broker.

Owns arguments and words on the screen. Heavy imports stand in the commands, so that `--help` costs nothing.
"""

from __future__ import annotations

import asyncio
import enum
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

if TYPE_CHECKING:
    from penstock_gateway.check import Report
    from penstock_gateway.config import Config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Run a gateway, check its configuration.\n\n\b\nExample:\n  penstock gateway check -c gateway.toml",
)


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ConfigPath = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The gateway's TOML file.")]


@app.command()
def run(
    config: ConfigPath,
    log_level: Annotated[
        LogLevel, typer.Option(metavar="LEVEL", case_sensitive=False, help="debug, info, warning or error.")
    ] = LogLevel.INFO,
    json_log: Annotated[
        bool | None, typer.Option("--json/--text", help="Log JSON lines; left out: on no terminal.")
    ] = None,
) -> None:
    """Run a gateway until SIGTERM or Ctrl-C, then drain and leave. SIGHUP reads the configuration again.

    \b
    Example:
      penstock gateway run -c gateway.toml
    """
    from penstock_gateway import logs
    from penstock_gateway.config import load, warnings

    logs.setup(level=log_level, json=json_log)
    loaded = load(config, os.environ)
    for warning in warnings(loaded):
        logs.Log(__name__).warning("configuration", warning=warning)
    asyncio.run(_run_until_signal(loaded))


async def _run_until_signal(config: Config) -> None:
    from penstock_gateway import gateway

    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    try:
        await gateway.run(config, stop, reload=reload)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup) -> BaseException:
    """The error that took the gateway down: the others are what it cancelled."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@app.command()
def check(
    config: ConfigPath,
    broker: Annotated[bool, typer.Option("--broker", help="Look at the broker too.")] = False,
    probe_queue: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="With --broker: how many of N messages it queues for an absent gateway."
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")] = False,
) -> None:
    """Check a configuration: the resolved routes, their models, where each value comes from; the broker if asked.

    \b
    Example:
      penstock gateway check -c gateway.toml --broker --probe-queue 2000
    """
    from penstock_gateway.check import examine
    from penstock_gateway.config import load

    report = asyncio.run(examine(load(config, os.environ), broker or probe_queue > 0, probe_queue))
    typer.echo(msgspec.json.encode(report).decode() if as_json else _text(report))
    if report.problems:
        raise typer.Exit(1)


def _text(report: Report) -> str:
    lines = [f"{v.key} = {v.value}    ({v.origin})" for v in report.values]
    for route in report.routes:
        lines.append(
            f"route {route.index}: {route.subscription} → {route.model}, {route.mode}, {route.deadline_ms} ms"
        )
        lines.append(f"  frames of {route.device} / {route.stream}; full at {route.full}")
    lines += [f"broker: {fact}" for fact in report.broker]
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join([*lines, "not ready to run" if report.problems else "ready to run"])
