"""`penstock sim doctor`: arguments, signals, and the exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from penstock_models.errors import UsageError
from penstock_sim.doctor.reach import DEFAULT_URL, Ca, PasswordFile, Reach, Root, Site, Url, Username

if TYPE_CHECKING:
    from penstock_sim.doctor.examination import Report
    from penstock_sim.doctor.listen import OnProgress, Watch


def doctor(
    device: Annotated[str, typer.Argument(help="The device's name, as in its topics.")],
    seconds: Annotated[
        float, typer.Option(metavar="N", min=1.0, max=86_400.0, help="How long to watch.")
    ] = 30.0,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="TOPIC", help="The device's own topics: cameras/{device}/jpeg. Repeatable."
        ),
    ] = None,
    broker_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Mosquitto's log: says who connected when.")
    ] = None,
    client_id: Annotated[
        str,
        typer.Option(metavar="ID", help="The device's client id in that log; else ids that hold its name."),
    ] = "",
    content_type: Annotated[
        str, typer.Option(metavar="TYPE", help="The route's content_type, for devices that give none.")
    ] = "",
    max_frame_bytes: Annotated[
        int, typer.Option(metavar="N", min=1, max=256 << 20, help="The gateway's [limits] max_frame_bytes.")
    ] = 8 << 20,
    skew_s: Annotated[
        float, typer.Option(metavar="S", min=0.1, max=3600.0, help="How wrong its clock may be.")
    ] = 5.0,
    url: Url = DEFAULT_URL,
    site: Site = "home",
    root: Root = "penstock",
    username: Username = None,
    password_file: PasswordFile = None,
    ca: Ca = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Watch a device's traffic and say what is wrong with it.

    Twelve faults are looked for: topic, content_type, size, clock_skew, clock_jump, seq_gap, boot, payload_type,
    backoff, receipt, expiry, retained. Exit code 0: nothing wrong; 1: findings, or nothing heard. Ctrl-C ends the watch
    early.

    \b
    Examples:
      penstock sim doctor door --seconds 60
      penstock sim doctor door --url mqtts://box:8883 --ca ca.pem --username doctor --password-file secret
    """  # fmt: skip
    from rich.console import Console

    from penstock_gateway.formats import CONTENT_TYPES, Profile
    from penstock_sim.doctor import view
    from penstock_sim.doctor.broker_log import BrokerLog
    from penstock_sim.doctor.listen import Watch
    from penstock_sim.doctor.seen import Limits
    from penstock_sim.doctor.streams import Rules

    if content_type and content_type not in CONTENT_TYPES:
        raise UsageError(
            f"--content-type: expected one of {', '.join(sorted(CONTENT_TYPES))}, came {content_type!r}"
        )
    if client_id and broker_log is None:
        raise UsageError("expected --broker-log beside --client-id: only there are client ids seen")
    reach = Reach(url=url, site=site, root=root, username=username, password_file=password_file, ca=ca)
    limits = Limits(max_frame_bytes=max_frame_bytes, profile=Profile(content_type=content_type))
    wanted = Watch(
        device=device,
        reach=reach,
        seconds=seconds,
        filters=filters or (),
        rules=Rules(limits=limits, skew_s=skew_s),
        log=BrokerLog(broker_log) if broker_log is not None else None,
        client_id=client_id,
    )
    with view.progress(Console(stderr=True, quiet=json), seconds) as on_progress:
        report = asyncio.run(_watch(wanted, on_progress))
    if json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        view.show(Console(), report)
    raise typer.Exit(0 if report.healthy else 1)


async def _watch(wanted: Watch, on_progress: OnProgress) -> Report:
    """The watch; Ctrl-C or SIGTERM ends it early, with what was seen."""
    from penstock_sim.doctor.listen import watch

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await watch(wanted, stop, on_progress)
