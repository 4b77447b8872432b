"""What is RTSP's own: what FFmpeg gathers while it opens a camera, and H.264 that must be decoded."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from penstock_gateway.camera.freshness import MAX_AGE_S, PROMISED_S
from penstock_gateway.camera.sources import Location, Source
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_rtsp import H264Camera, RtspCamera
from tests.fakes.camera_watch import WAIT_S, watched

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])


@pytest.mark.parametrize("fps", [2, 5])
def test_what_ffmpeg_gathers_while_it_opens_is_not_called_fresh(fps: float) -> None:
    """With FFmpeg's own defaults the first pictures of a slow camera are four seconds old, and pass for new."""
    with RtspCamera(fps) as camera, watched(camera) as seen:
        seen.some(3)
        assert max(seen.ages) < 0.2


def test_h264_is_decoded_and_dated(realdata: Path) -> None:
    """A real film over RTSP: each picture to the last bit as the file's, and what a stall holds up is known to be old."""
    film = realdata / "video" / "one-by-one-person-detection.mp4"
    with H264Camera(film, count=150, fps=10) as camera, Source(Location.parse(camera.url)) as source:
        ages = []
        for n, picture in zip(range(40), source.pictures(WAIT_S)):
            at = time.monotonic()
            numbers = camera.numbers(picture.image)
            assert numbers, "no picture of the film"
            if at - picture.captured <= MAX_AGE_S:
                ages.append(min(camera.age_s(number, at) for number in numbers))
            if n == 10:
                camera.freeze()
                threading.Timer(3.0, camera.thaw).start()
        assert len(ages) > 25 and max(ages) < PROMISED_S
        assert source.status.cuts == 0
