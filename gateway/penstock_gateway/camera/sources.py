"""Sources: a camera or file, by URL or path, that always has the newest picture ready.

    location = Location.parse("rtsp://10.0.0.7/stream1", Credentials.read(Path("door.login")))
    with Source(location) as camera:
        for picture in camera.pictures():
            ...

`open_reader` is one connection, or one run through a file, whose pictures come one after the other. A `Source` has a
thread around it: it connects again when a camera was lost, plays a file at its rate, and keeps one picture, the newest.
Nothing here knows MQTT.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from penstock_gateway.backoff import Backoff
from penstock_gateway.camera import video
from penstock_gateway.camera.credentials import Credentials
from penstock_gateway.camera.location import Kind, Location
from penstock_gateway.camera.mjpeg import MjpegReader
from penstock_gateway.camera.pictures import Picture, Reader, SourceLost, SourceRefused, State
from penstock_gateway.camera.still import open_still
from penstock_models.errors import PenstockError, told

__all__ = ["Credentials", "Location", "Picture", "Source", "SourceLost", "Status", "open_reader"]

CLOSE_S = 8.0
"""How long a thread may take to notice that it is to end: longer than any wait of a reader."""

_FIRST_S, _LONGEST_S = 0.25, 3.0
"""Bounds of the wait before a connection that was lost is tried again."""

_REFUSED_S = 30.0
"""The wait after wrong credentials: many cameras lock an account after a few."""


@dataclass(frozen=True)
class Status:
    """Where a source stands, since when (monotonic, s), and why. `connects` counts connections that gave a picture,
    `cuts` those of them that were lost."""

    state: State
    since: float
    reason: str = ""
    connects: int = 0
    cuts: int = 0


def open_reader(
    location: Location, rate_hz: float | None = None, stop: threading.Event | None = None
) -> Reader:
    """Open a camera or a file once. A file's pictures come as fast as they are read; `rate_hz` is its `interval_s`.

    Raises:
        SourceLost: the camera cannot be reached now.
        UsageError: it never will: no such file, wrong credentials, no video.
    """
    ends = stop or threading.Event()
    match location.kind:
        case Kind.RTSP:
            return video.open_rtsp(location.text, location.credentials, ends)
        case Kind.MJPEG:
            return MjpegReader(location.text, location.credentials, ends)
        case Kind.WEBCAM:
            return video.open_webcam(location.text, ends)
        case Kind.FILE:
            path = Path(location.text)
            return open_still(path, rate_hz) or video.open_video(path, rate_hz, ends)


class Source:
    """A camera or file with its thread; use as a context manager.

    Args:
        rate_hz: pictures a second of a file; its own rate when left out. A camera gives what it gives.
        loop: begin a file again at its end.
        on_change: called in the thread after each picture and each change of state; must not block.
    """

    def __init__(
        self,
        location: Location,
        *,
        rate_hz: float | None = None,
        loop: bool = False,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self.location = location
        self.status = Status(State.IDLE, time.monotonic())
        self.newest: Picture | None = None
        self.error: PenstockError | None = None
        """Why it is `failed`."""
        self._rate_hz, self._loop = rate_hz, loop
        self._on_change = on_change
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._numbered = 0
        self._passed_over = 0
        self._reader: Reader | None = None
        self._thread = threading.Thread(target=self._run, name=f"source {location.shown}", daemon=True)

    @property
    def passed_over(self) -> int:
        """What came and was no picture, or too large for one."""
        reader = self._reader
        return self._passed_over + (reader.passed_over if reader is not None else 0)

    @property
    def over(self) -> bool:
        """Whether no further picture will come."""
        return self.status.state in (State.ENDED, State.FAILED)

    def start(self) -> None:
        if not self._thread.is_alive() and not self.over:
            self._thread.start()

    def close(self) -> None:
        """End it; returns when its thread has, `CLOSE_S` later at most."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        if not self.over:
            self._become(State.ENDED)

    def __enter__(self) -> Source:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def pictures(self, timeout_s: float | None = None) -> Iterator[Picture]:
        """The newest picture whenever there is a new one, until the source is over or gives none for `timeout_s`.

        Raises:
            PenstockError: the source failed for good.
        """
        last = -1
        while True:
            with self._news:
                fresh = self._news.wait_for(partial(self._has_news, last), timeout_s)
                picture = self.newest
            if picture is not None and picture.number > last:
                last = picture.number
                yield picture
            elif self.error is not None:
                raise self.error
            elif self.over or not fresh:
                return

    def _has_news(self, last: int) -> bool:
        return self.over or (self.newest is not None and self.newest.number > last)

    def _run(self) -> None:
        backoff = Backoff(_FIRST_S, _LONGEST_S)
        while not self._stop.is_set():
            wait_s = self._attempt(backoff)
            if wait_s is None:
                return
            self._stop.wait(wait_s)
        self._become(State.ENDED)

    def _attempt(self, backoff: Backoff) -> float | None:
        """One connection, or one run through a file; returns the wait before the next one, None after the last."""
        if self.location.live or not self._numbered:  # a file that begins again was never away
            self._become(State.CONNECTING)
        began = time.monotonic()
        try:
            self._read_all()
        except SourceRefused as error:
            if self.status.connects:
                self._lose(str(error))
                return _REFUSED_S
            self._fail(error)
            return None
        except SourceLost as error:
            return backoff.wait_s(time.monotonic() - began if self._lose(str(error)) else 0.0)
        except PenstockError as error:
            self._fail(error)
            return None
        except Exception as error:  # a library's: one bad connection must not end the camera in silence
            self._lose(self.location.credentials.redact(told(error)))
            return backoff.wait_s(0.0)
        if self._loop or self._stop.is_set():
            return 0.0
        self._become(State.ENDED)
        return None

    def _read_all(self) -> None:
        """One connection: until it is lost, or the file's end."""
        reader = self._reader = open_reader(self.location, self._rate_hz, self._stop)
        due = time.monotonic()
        try:
            while (picture := reader.read()) is not None:
                if reader.interval_s is not None:
                    if self._stop.wait(max(0.0, due - time.monotonic())):
                        return
                    picture = replace(picture, captured=time.monotonic())
                    due = max(due + reader.interval_s, time.monotonic() - reader.interval_s)
                self._put(picture)
                if self._stop.is_set():
                    return
            if self.status.state is not State.LIVE:
                raise PenstockError(f"{self.location.shown}: expected pictures in the file, it holds none")
            self._stop.wait(max(0.0, due - time.monotonic()))
        finally:
            self._reader, self._passed_over = None, self._passed_over + reader.passed_over
            reader.close()

    def _put(self, picture: Picture) -> None:
        with self._news:
            self.newest = replace(picture, number=self._numbered)
            self._numbered += 1
        if self.status.state is not State.LIVE:
            self._become(State.LIVE, connects=self.status.connects + 1)
        else:
            self._tell()

    def _lose(self, reason: str) -> bool:
        """Note that the connection is gone; returns whether it had given pictures."""
        live = self.status.state is State.LIVE
        if not self._stop.is_set():
            self._become(State.LOST, reason, cuts=self.status.cuts + live)
        return live

    def _fail(self, error: PenstockError) -> None:
        self.error = error
        self._become(State.FAILED, str(error))

    def _become(self, state: State, reason: str = "", **counts: int) -> None:
        # While it connects again, and at the end, the reason why it is away stays to be read.
        kept = reason or (self.status.reason if state in (State.CONNECTING, State.ENDED) else "")
        self.status = replace(self.status, state=state, since=time.monotonic(), reason=kept, **counts)
        self._tell()

    def _tell(self) -> None:
        with self._news:
            self._news.notify_all()
        if self._on_change is not None:
            self._on_change()
