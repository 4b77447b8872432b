"""Pictures over HTTP: `multipart/x-mixed-replace`, the MJPEG stream of network cameras, byte for byte.

An own event loop inside the reader's thread, so that every wait has a bound and the thread can be told to stop. What
comes is read at once and whole; the newest picture is somebody else's choice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

import aiohttp

from penstock_gateway.camera.challenge import authorization
from penstock_gateway.camera.credentials import Credentials
from penstock_gateway.camera.freshness import Silence, SourceClock
from penstock_gateway.camera.multipart import Broken, Multipart, Part, boundary_of
from penstock_gateway.camera.pictures import MAX_PICTURE_BYTES, Picture, SourceLost, SourceRefused
from penstock_models.image_headers import read_header

OPEN_S = 5.0
_SLICE_S = 0.2
_BUFFER = 256 << 10
_REFUSALS = frozenset({401, 403})

_Answer = TypeVar("_Answer")


class MjpegReader:
    """One connection to an MJPEG URL. Opening it waits `OPEN_S` at most, and for a time-out as long again.

    Raises:
        SourceLost: no connection, or an answer that may be another one later.
        SourceRefused: the credentials are missing or wrong, or it is no MJPEG stream.
    """

    interval_s: float | None = None

    def __init__(self, url: str, credentials: Credentials, stop: threading.Event) -> None:
        self._credentials, self._stop = credentials, stop
        self._runner = asyncio.Runner()
        self._session: aiohttp.ClientSession | None = None
        self._ready: deque[Picture] = deque()
        self._clock = SourceClock()
        self._no_pictures = 0
        try:
            self._response = self._wait(self._open(credentials.with_places(url)), 3 * OPEN_S)
            self._multipart = Multipart(self._delimiter(), MAX_PICTURE_BYTES)
        except BaseException:
            self.close()
            raise
        self._silence = Silence(time.monotonic())

    @property
    def passed_over(self) -> int:
        return self._multipart.too_large + self._no_pictures

    def read(self) -> Picture | None:
        while not self._ready:
            data = self._wait(self._response.content.readany(), self._silence.left_s(time.monotonic()))
            if not data or self._multipart.ended:
                raise SourceLost("the camera ended the stream")
            self._take(data)
        return self._ready.popleft()

    def _take(self, data: bytes) -> None:
        try:
            parts = self._multipart.feed(data)
        except Broken as error:
            raise SourceLost(f"the camera's stream is broken: {error}") from None
        now = time.monotonic()
        for part in parts:
            self._take_part(part, now)

    def _take_part(self, part: Part, now: float) -> None:
        header = read_header(part.body)
        if header is None or header.format != "jpeg":
            self._no_pictures += 1
            return
        self._silence.heard(now)
        stamp = _stamp_s(part.headers)
        lag_s = self._clock.lag_s(now, stamp) if stamp is not None else 0.0
        self._ready.append(Picture(now - (lag_s or 0.0), part.body))

    async def _open(self, url: str) -> aiohttp.ClientResponse:
        # No proxy from the environment: a camera is on the site's own network.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=OPEN_S)
        self._session = aiohttp.ClientSession(timeout=timeout, read_bufsize=_BUFFER, trust_env=False)
        response = await self._get(url)
        if response.status == 401 and self._credentials:
            challenges = response.headers.getall("WWW-Authenticate", [])
            answer = authorization(challenges, self._credentials, "GET", response.url.raw_path_qs)
            if answer:
                response.close()
                response = await self._get(url, {"Authorization": answer})
        return response

    async def _get(self, url: str, headers: dict[str, str] | None = None) -> aiohttp.ClientResponse:
        assert self._session is not None
        async with asyncio.timeout(OPEN_S):
            # A redirect is said, not followed: the credentials are this camera's.
            return await self._session.get(url, headers=headers, allow_redirects=False)

    def _delimiter(self) -> bytes:
        response = self._response
        status, kind = response.status, response.headers.get("Content-Type", "")
        if status in _REFUSALS:
            raise SourceRefused(refusal(self._credentials, f"{status} {response.reason}"))
        if 300 <= status < 400:
            raise SourceRefused(f"the camera answers {status}, its stream is at another URL; give that one")
        if status != 200:
            raise SourceLost(f"the camera answers {status} {self._credentials.redact(response.reason or '')}")
        delimiter = boundary_of(kind)
        if delimiter is None:
            shown = self._credentials.redact(kind)[:80]
            raise SourceRefused(
                f"expected an MJPEG stream (multipart/x-mixed-replace), the camera sends {shown!r}"
            )
        return delimiter

    def _wait(self, work: Coroutine[Any, Any, _Answer], timeout_s: float) -> _Answer:
        """Run it in slices, so that a stop is noticed; everything that fails is a lost source."""
        try:
            return self._runner.run(self._sliced(work, time.monotonic() + timeout_s))
        except TimeoutError:
            raise SourceLost("the camera is silent") from None
        except (OSError, aiohttp.ClientError, asyncio.IncompleteReadError, ValueError) as error:
            raise SourceLost(
                f"no connection to the camera: {self._credentials.redact(_told(error))}"
            ) from None

    async def _sliced(self, work: Coroutine[Any, Any, _Answer], deadline: float) -> _Answer:
        task = asyncio.ensure_future(work)
        while True:
            left_s = deadline - time.monotonic()
            done, _ = await asyncio.wait({task}, timeout=max(0.0, min(_SLICE_S, left_s)))
            if done:
                return task.result()
            if self._stop.is_set() or left_s <= 0:
                task.cancel()
                await asyncio.wait({task})
                raise SourceLost("stopped") if self._stop.is_set() else TimeoutError

    def close(self) -> None:
        async def end() -> None:
            if self._session is not None:
                await self._session.close()
                await asyncio.sleep(0)  # lets the transport go before its loop does

        self._runner.run(end())
        self._runner.close()


def refusal(credentials: Credentials, answer: str) -> str:
    """Words for a camera that does not let us in."""
    if credentials:
        return f"the camera refuses the user or password of {credentials.source} ({answer})"
    return f"the camera asks for a user and password ({answer}): give them with --credentials FILE"


def _told(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno is not None:
        known = error.os_error.errno > 0  # those of name resolution are below, and have words of their own
        return os.strerror(error.os_error.errno) if known else str(error.os_error.strerror)
    return f"{type(error).__name__}: {error}"


def _stamp_s(headers: dict[str, str]) -> float | None:
    """When the camera says that it took the picture, on its own clock; mjpg-streamer and its kin do."""
    try:
        stamp = float(headers.get("x-timestamp", ""))
    except ValueError:
        return None
    return stamp if 0 < stamp < 1e12 else None
