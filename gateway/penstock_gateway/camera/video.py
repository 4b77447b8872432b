"""Pictures through OpenCV (FFmpeg, V4L2): RTSP cameras, webcams, video files.

A stream that is Motion JPEG already is taken byte for byte; anything else has to be decoded. The URL with the password
exists here only, and FFmpeg's own log, which would print it, is off (`penstock_models.opencv`).
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from penstock_gateway.camera.credentials import Credentials
from penstock_gateway.camera.freshness import MAX_AGE_S, SourceClock
from penstock_gateway.camera.pictures import MAX_PICTURE_BYTES, Picture, SourceLost
from penstock_gateway.camera.rtsp import why_not
from penstock_models.errors import UsageError
from penstock_models.opencv import cv2

OPEN_MS = 5000
READ_MS = 4000
_BEHIND_S = 3.0
_DEFAULT_RATE_HZ = 25.0
_MOST_RATE_HZ = 1000.0
_EMPTY_IN_A_ROW = 250

# FFmpeg opens a stream by reading 20 frames for its rate, which takes 4 s of a camera of 5 fps and hands them out late.
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|fpsprobesize;1|analyzeduration;4000000"
)


class VideoReader:
    """One opened capture. `live` tells a camera from a file, which ends instead of being lost.

    What FFmpeg gathered while it opened is passed over. A camera's time stamps show when this side, or the network, falls behind: such pictures are old when they come, and
    where it stays so the connection is given up for a new one.
    """

    def __init__(
        self, capture: Any, *, live: bool, stop: threading.Event, interval_s: float | None = None
    ) -> None:
        self._capture, self._live, self._stop = capture, live, stop
        self.interval_s = interval_s
        self.passed_over = 0
        self._raw = _take_raw(capture)
        self._clock = SourceClock(buffered=True)
        self._late_since: float | None = None

    def read(self) -> Picture | None:
        for _ in range(_EMPTY_IN_A_ROW):
            if self._stop.is_set():
                raise SourceLost("stopped")
            if not self._capture.grab():
                if self._live:
                    raise SourceLost(f"the stream ended, or was silent for {READ_MS / 1000:g} s")
                return None
            captured = self._captured(time.monotonic())
            done, found = self._capture.retrieve() if captured is not None else (False, None)
            picture = self._picture(captured, found) if done and captured is not None else None
            if picture is not None:
                return picture
            self.passed_over += 1
        raise SourceLost(f"no picture in {_EMPTY_IN_A_ROW} frames of the stream")

    def _picture(self, captured: float, found: Any) -> Picture | None:
        if not self._raw:
            return Picture(captured, image=found)
        data = found.tobytes()
        return Picture(captured, data) if data[:2] == b"\xff\xd8" and len(data) <= MAX_PICTURE_BYTES else None

    def _captured(self, now: float) -> float | None:
        """When the picture that was just grabbed was taken; None where it cannot be dated."""
        if not self._live:
            return now
        lag_s = self._clock.lag_s(now, self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        if lag_s is None:
            return None
        if lag_s <= MAX_AGE_S:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        elif now - self._late_since > _BEHIND_S:
            raise SourceLost(f"pictures come {lag_s:.1f} s late")
        return now - lag_s

    def close(self) -> None:
        self._capture.release()


def open_rtsp(url: str, credentials: Credentials, stop: threading.Event) -> VideoReader:
    """Connect to an RTSP camera: over TCP, or UDP where it has no other.

    Raises:
        SourceLost: no connection, no such stream, or one that FFmpeg cannot read.
        SourceRefused: the credentials are missing or wrong.
    """
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS]
    # More decoding threads would each hold a picture back.
    capture = _opened(credentials.in_authority(url), cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])
    if capture is None:
        raise why_not(credentials.with_places(url), credentials)
    return VideoReader(capture, live=True, stop=stop)


def open_webcam(device: str, stop: threading.Event) -> VideoReader:
    """Open `/dev/videoN`. Motion JPEG is asked for, which most webcams have and which needs no encoding here.

    Raises:
        SourceLost: it is not there, or in use.
    """
    asked = [cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")]
    capture = _opened(device, cv2.CAP_V4L2, asked) or _opened(device, cv2.CAP_V4L2, [])
    if capture is None:
        raise SourceLost(f"no webcam at {device}, or somebody else uses it")
    return VideoReader(capture, live=True, stop=stop)


def open_video(path: Path, rate_hz: float | None, stop: threading.Event) -> VideoReader:
    """Open a video file, at its own rate or the one that is given.

    Raises:
        UsageError: OpenCV cannot read it.
    """
    capture = _opened(str(path.absolute()), cv2.CAP_FFMPEG, [])
    if capture is None:
        raise UsageError(f"expected a picture, or a video file that OpenCV can read, got {path}")
    own_hz = capture.get(cv2.CAP_PROP_FPS)
    sane_hz = own_hz if 0 < own_hz <= _MOST_RATE_HZ else _DEFAULT_RATE_HZ
    return VideoReader(capture, live=False, stop=stop, interval_s=1 / (rate_hz or sane_hz))


def _opened(name: str, backend: int, parameters: list[int]) -> Any | None:
    try:
        capture = cv2.VideoCapture(name, backend, parameters)
    except cv2.error:  # its text may hold the URL
        return None
    if capture.isOpened():
        return capture
    capture.release()
    return None


def _take_raw(capture: Any) -> bool:
    """Take Motion JPEG as it is, where that is what comes and the backend can."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    if code.to_bytes(4, "little") != b"MJPG":
        return False
    if capture.getBackendName() == "FFMPEG":
        return bool(capture.set(cv2.CAP_PROP_FORMAT, -1))
    return bool(capture.set(cv2.CAP_PROP_CONVERT_RGB, 0))
