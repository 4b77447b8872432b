"""The demo: broker, gateway, cameras and sensors on this machine, shown live, closed with a ledger that adds up.

Owns the order of things, from the first line of progress to the verdict. The gateway is a real child process on a
broker of its own; nothing here reaches into it: frames go in and results come out over MQTT, numbers over HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from penstock_gateway.config.values import BrokerUrl
from penstock_gateway.ledger import BUCKETS
from penstock_gateway.mqtt import LinkOptions
from penstock_models import draw
from penstock_models.errors import PenstockError
from penstock_sim.demo.streams import BestPicture, Speed, cameras, sensors, shown, streams
from penstock_sim.demo.view import Row, View
from penstock_sim.load.connection import newest_protocol
from penstock_sim.load.publisher import Publisher, Report, Target
from penstock_sim.load.track import StreamReport, StreamTrack
from penstock_sim.site.gateway import SITE, Gateway, prepare, with_own_broker
from penstock_sim.sources import Ring

_REFRESH_S = 0.25
_DRAIN_S = 15.0
_FOREVER_S = 365 * 86_400.0


class StreamSummary(StreamReport, frozen=True):
    """A stream's report with its latest answer in words, and who gave it."""

    last: str = ""
    who: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What `penstock demo --json` prints.

    `closed`: the ledger adds up, nothing is in flight, and what was sent was received. `answered`: every stream got an
    answer. `ok`: both, and the gateway ended with exit code 0. `folder` keeps the configuration, models and log.
    """

    v: int
    ok: bool
    closed: bool
    answered: bool
    exit_code: int
    seconds: float
    mqtt: str
    ledger: dict[str, Any]
    streams: dict[str, StreamSummary]
    on_time: bool
    lag_ms: dict[str, float | None]
    picture: str | None
    folder: str


class _Run(msgspec.Struct, frozen=True):
    """What is known when everything is drained and the gateway still lives."""

    report: Report
    page: dict[str, Any]
    shown: dict[str, tuple[str, str]]
    best: BestPicture
    mqtt: str


async def run_demo(view: View, seconds: float | None) -> Outcome:
    """Run for `seconds`, or until SIGINT or SIGTERM; then drain, close the books and say how it went.

    Raises:
        PenstockError: something did not start or died; the message says where its log is.
        asyncio.CancelledError: interrupted before anything was published, or a second time.
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-demo-"))
    view.say(f"starting a gateway with a broker of its own in {folder}")
    stop = _Stop()
    with stop.watching():
        async with with_own_broker(prepare(folder)) as running:
            view.say("drawing what the cameras see and the sensors feel")
            eyes, ears = await asyncio.to_thread(cameras), await asyncio.to_thread(sensors)
            view.say("waiting until the gateway is ready")
            await running.ready()
            run = await _publish(running, view, (eyes, ears), stop, seconds)
            exit_code = await running.child.stop()
    shutil.rmtree(folder / "state", ignore_errors=True)
    return _outcome(run, exit_code, folder)


async def _publish(
    running: Gateway,
    view: View,
    rings: tuple[dict[str, Ring], dict[str, Ring]],
    stop: _Stop,
    seconds: float | None,
) -> _Run:
    """Send until the time is over or somebody stops it, then wait until every frame has its fate."""
    url = BrokerUrl.parse(running.url)
    protocol = await newest_protocol(LinkOptions(url.host, url.port, "demo-probe"))
    async with Publisher(Target(running.url, SITE, protocol=protocol), streams(*rings)) as publisher:
        screen = _Screen(running, publisher, BestPicture(rings[0]), view)
        try:
            async with asyncio.TaskGroup() as group:
                showing = group.create_task(screen.keep(), name="screen")
                sending = group.create_task(
                    publisher.run(_FOREVER_S if seconds is None else seconds), name="send"
                )
                await stop.wait_with(sending)
                view.say("draining")
                await publisher.settle(_DRAIN_S)
                page = await running.pages.drained(publisher.report().sent, _DRAIN_S)
                showing.cancel()
        except* PenstockError as errors:
            raise errors.exceptions[0] from None
        screen.close(page["ledger"])
        words = {row.name: (row.last, row.who) for row in screen.rows()}
        return _Run(publisher.report(), page, words, screen.best, "5" if protocol == 5 else "3.1.1")


class _Screen:
    """Keeps what is shown up to date."""

    def __init__(self, running: Gateway, publisher: Publisher, best: BestPicture, view: View) -> None:
        self._running, self._publisher, self.best, self._view = running, publisher, best, view
        self._speeds = {name: Speed() for name in publisher.tracks}
        self._began_s = time.monotonic()

    async def keep(self) -> None:
        """Refresh until cancelled."""
        while True:
            self.refresh((await self._running.status())["ledger"])
            await asyncio.sleep(_REFRESH_S)

    def refresh(self, ledger: Mapping[str, Any]) -> None:
        for track in self._publisher.tracks.values():
            self.best.look(track)
        self._view.show(self.rows(), ledger, time.monotonic() - self._began_s)

    def close(self, ledger: Mapping[str, Any]) -> None:
        """Show what stays: rates are those of the whole run."""
        seconds = self._publisher.report().seconds
        rows = [msgspec.structs.replace(row, rate=row.answered / seconds) for row in self.rows()]
        self._view.show(rows, ledger, seconds, final=True)

    def rows(self) -> list[Row]:
        now_s = time.monotonic()
        return [self._row(name, track, now_s) for name, track in self._publisher.tracks.items()]

    def _row(self, name: str, track: StreamTrack, now_s: float) -> Row:
        answer = shown(track)
        return Row(
            name=name,
            sent=track.sent,
            answered=track.answered,
            rate=self._speeds[name].update(now_s, track.answered),
            p50_ms=track.latency_ms.percentile(50),
            p95_ms=track.latency_ms.percentile(95),
            last=answer.words() if answer else "",
            who=answer.who() if answer else "",
        )


class _Stop:
    """SIGINT and SIGTERM: the first ends the sending; before that begins, or a second time, they end everything."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._task = asyncio.current_task()
        self._gentle = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def wait_with(self, work: asyncio.Task[None]) -> None:
        """Wait until `work` is done or somebody asks to stop, which cancels it."""
        self._gentle = True
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((work, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            work.cancel()

    def _signalled(self) -> None:
        if self._task is not None and (self._asked.is_set() or not self._gentle):
            self._task.cancel()
        self._asked.set()


def _outcome(run: _Run, exit_code: int, folder: Path) -> Outcome:
    ledger, report = run.page["ledger"], run.report
    settled = sum(ledger[bucket] for bucket in BUCKETS)
    closed = ledger["in_flight"] == 0 and settled == ledger["received"] == report.sent
    answered = all(books.answered for books in report.streams.values())
    summaries = {
        name: StreamSummary(**msgspec.structs.asdict(books), last=run.shown[name][0], who=run.shown[name][1])
        for name, books in report.streams.items()
    }
    return Outcome(
        v=1,
        ok=closed and answered and exit_code == 0,
        closed=closed,
        answered=answered,
        exit_code=exit_code,
        seconds=report.seconds,
        mqtt=run.mqtt,
        ledger=ledger,
        streams=summaries,
        on_time=report.on_time,
        lag_ms=report.lag_ms,
        picture=_save_picture(run.best, folder),
        folder=str(folder),
    )


def _save_picture(best: BestPicture, folder: Path) -> str | None:
    if best.found is None:
        return None
    file = folder / "picture.jpg"
    draw.save(*best.found, file)
    return str(file)
