"""`penstock camera`: publish a real camera, or a file that plays one, as a stream.

Owns arguments, signals and the last words. Heavy imports stand in the command, so that `--help` costs nothing.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from penstock_models.errors import PenstockError, UsageError

if TYPE_CHECKING:
    from penstock_gateway.camera.location import Location
    from penstock_gateway.camera.publisher import Counters, Publisher, Target
    from penstock_gateway.mqtt import LinkOptions

LIVE_FPS = 5.0
_MOST_FPS = 1000.0
_SHOW_S = 0.5

SourceArgument = Annotated[
    str, typer.Argument(metavar="SOURCE", help="rtsp://…, http://… (MJPEG), /dev/video0 or 0, or a file.")
]


def camera(
    source: SourceArgument,
    device: Annotated[str, typer.Option(metavar="NAME", help="The device that this camera is.")],
    stream: Annotated[str, typer.Option(metavar="NAME", help="Its stream.")] = "cam",
    fps: Annotated[
        float | None,
        typer.Option(metavar="N", help="Pictures a second: 5 of a camera, a file's own rate when left out."),
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One line `USER PASSWORD` for the camera.")
    ] = None,
    quality: Annotated[
        int | None, typer.Option(metavar="1-100", min=1, max=100, help="Encode again, at this JPEG quality.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WxH", help="Encode again, scaled down to fit into this size.")
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Begin a file again at its end.")] = False,
    seconds: Annotated[
        float | None, typer.Option(metavar="N", min=0.1, help="End by itself after so many seconds.")
    ] = None,
    broker: Annotated[
        str, typer.Option(metavar="URL", help="mqtt://HOST:PORT or mqtts://HOST:PORT.")
    ] = "mqtt://127.0.0.1:1883",
    site: Annotated[str, typer.Option(metavar="NAME", help="The gateway's site.")] = "home",
    root: Annotated[str, typer.Option(metavar="TOPIC", help="The gateway's topic root.")] = "penstock",
    username: Annotated[str | None, typer.Option(metavar="NAME", help="User at the broker.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with that user's password.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", help="CA of the broker (mqtts).")] = None,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="Client certificate (mqtts).")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its key.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one line of counters at the end; log JSON lines.")
    ] = False,
) -> None:
    """Publish a camera, or a file that plays one, until Ctrl-C, SIGTERM or the file's end.

    A camera that is cut is connected to again within seconds; no picture older than 2 s is sent. JPEG goes out as it
    came unless --quality or --size asks for another; H.264 and H.265 must be decoded, and go out as JPEG of quality 85.

    \b
    Example:
      penstock camera rtsp://10.0.0.7/stream1 --credentials door.login --device door --stream cam --fps 5
    """
    from penstock_gateway import logs
    from penstock_gateway.camera.credentials import Credentials
    from penstock_gateway.camera.encoding import Encoding, parse_size
    from penstock_gateway.camera.location import Location
    from penstock_gateway.camera.sources import open_reader
    from penstock_gateway.camera.view import status_line

    login = Credentials.read(credentials) if credentials else Credentials()
    location = Location.parse(source, login)
    _check(location, fps, loop)
    if not location.live:
        open_reader(location).close()  # says what is wrong with a file before anything is connected
    encoding = Encoding(quality, parse_size(size) if size else None)
    target = _target(device, stream, site, root)
    options = _options(broker, target, username, password_file, ca, cert, key)
    with status_line() as shown:
        logs.setup(json=True if json else None)
        done = asyncio.run(
            _publish(
                location, target, options, encoding=encoding, fps=fps, loop=loop, seconds=seconds, shown=shown
            )
        )
    if json:
        sys.stdout.write(msgspec.json.encode(done.counters).decode() + "\n")
    elif done.error is None:
        typer.echo(_last_words(done.counters), err=True)
    if done.error is not None:
        raise done.error
    # Ended by itself, and the broker has nothing: whoever waits for the exit code must see that.
    raise typer.Exit(0 if done.signalled or done.counters.acked else 1)


class _Done(NamedTuple):
    """`error`: why the source failed for good; `signalled`: whether SIGTERM or Ctrl-C ended it."""

    counters: Counters
    error: PenstockError | None
    signalled: bool


def _check(location: Location, fps: float | None, loop: bool) -> None:
    if fps is not None and not 0 < fps <= _MOST_FPS:
        raise UsageError(f"expected --fps above 0 and up to {_MOST_FPS:g}, came {fps:g}")
    if loop and location.live:
        raise UsageError("expected --loop with a file; a camera has no end")


def _target(device: str, stream: str, site: str, root: str) -> Target:
    from penstock_gateway.camera.publisher import Target
    from penstock_gateway.topics import is_name, root_problem

    for option, name in (("--device", device), ("--stream", stream), ("--site", site)):
        if not is_name(name):
            raise UsageError(f"expected {option} of 1 to 64 characters A-Z a-z 0-9 _ -, came {name[:80]!r}")
    if problem := root_problem(root):
        raise UsageError(f"--root {problem}, came {root[:80]!r}")
    return Target(device, stream, site, root)


def _options(
    broker: str,
    target: Target,
    username: str | None,
    password_file: Path | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
) -> LinkOptions:
    from penstock_gateway.config.values import BrokerUrl, SecretFile
    from penstock_gateway.mqtt import LinkOptions

    url = BrokerUrl.parse(broker)
    if url.embedded:
        raise UsageError(
            'expected --broker as "mqtt://HOST:PORT", came "embedded": that broker is the gateway\'s'
        )
    if not url.tls and (ca or cert or key):
        raise UsageError("--ca, --cert and --key are for a broker with TLS: write --broker mqtts://…")
    if password_file and not username:
        raise UsageError("--password-file wants --username")
    return LinkOptions(
        url.host,
        url.port,
        # The same at every start: a broker that still holds the last connection says its will before it takes this one.
        client_id=f"{target.site}-{target.device}-{target.stream}-camera",
        tls=url.tls,
        username=username,
        password=SecretFile(password_file).read() if password_file else None,
        ca=str(ca) if ca else None,
        cert=str(cert) if cert else None,
        key=str(key) if key else None,
        keepalive_s=10,
        connect_timeout_s=5.0,
        reconnect_max_s=3.0,
    )


async def _publish(
    location: Location, target: Target, options: LinkOptions, *, encoding: Any, fps: float | None, loop: bool,
    seconds: float | None, shown: Any,
) -> _Done:  # fmt: skip
    from penstock_gateway.camera.publisher import Publisher
    from penstock_gateway.camera.sources import Source

    stop = asyncio.Event()
    events = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        events.add_signal_handler(number, stop.set)
    source = Source(location, rate_hz=fps, loop=loop, on_change=lambda: _on_loop(events, publisher.wake))
    pace = (fps or LIVE_FPS) if location.live else None
    publisher = Publisher(source, target, options, fps=pace, encoding=encoding)
    try:
        signalled = await _run(publisher, stop, seconds, shown)
    finally:
        await asyncio.to_thread(source.close)
    publisher.close_books()
    return _Done(publisher.counters(), source.error, signalled)


def _on_loop(events: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    try:
        events.call_soon_threadsafe(call)
    except (
        RuntimeError
    ):  # the loop is closed: a thread that hung in a library noticed too late that it is to end
        pass


async def _run(publisher: Publisher, stop: asyncio.Event, seconds: float | None, shown: Any) -> bool:
    """Publish, and show it, until it is over; returns whether a signal ended it."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(_end(stop, over, publisher, seconds), name="camera-end")]
        if shown is not None:
            beside.append(group.create_task(_show(publisher, shown), name="camera-view"))
        await publisher.run(over)
        for task in beside:
            task.cancel()
    return stop.is_set()


async def _end(stop: asyncio.Event, over: asyncio.Event, publisher: Publisher, seconds: float | None) -> None:
    """Wait for a signal or the time to be over, and let the publisher see it."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
    over.set()
    publisher.wake()


async def _show(publisher: Publisher, shown: Any) -> None:
    while True:
        shown.show(publisher.counters(), publisher.broker)
        await asyncio.sleep(_SHOW_S)


def _last_words(done: Counters) -> str:
    fates = {name: getattr(done, name) for name in ("skipped", "stale", "failed", "refused", "lost", "cuts")}
    rest = "".join(f", {count} {name}" for name, count in fates.items() if count)
    why = f"; camera: {done.reason}" if done.reason and not done.acked else ""
    return f"{done.acked} of {done.captured} pictures published in {done.seconds:.1f} s{rest}{why}"
