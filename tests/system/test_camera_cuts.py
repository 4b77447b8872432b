"""`penstock camera` when its camera is cut: pictures are back within seconds, and none that is old is sent."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.broker import mosquitto
from tests.fakes.camera import Camera
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_process import FrameEar, camera, check_books, check_fresh
from tests.fakes.camera_rtsp import RtspCamera

pytestmark = pytest.mark.system

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
USER, PASSWORD = "keeper", "n0t:in/any @log%20"
FORMS = ("n0t:in", "n0t%3A", "bm90Oml", "any @log", "any%20%40", "any+%40")
"""What would betray it: itself, quoted for a URL, in base64."""


@KINDS
@pytest.mark.soak
@pytest.mark.timeout(120)
@pytest.mark.parametrize("cut", ["off", "silent"])
def test_a_cut_camera_is_back_within_seconds_and_nothing_old_is_sent(
    kind: type[Camera], cut: str, tmp_path: Path, soak: bool, record_property: Callable[[str, object], None]
) -> None:
    with kind(20) as made, mosquitto() as broker, FrameEar(broker) as ear:
        with camera(broker, made.url, tmp_path, "--fps", "10") as process:
            ear.wait_frames(5)
            (made.off if cut == "off" else made.freeze)()
            ear.wait_status("offline")
            time.sleep(30.0 if soak else 2.0)  # how long the cut lasts, not a wait for something
            (made.on if cut == "off" else made.thaw)()
            began = time.monotonic()
            after = ear.wait_frames(10)
            back_s = after[0].at - began
            record_property(f"{kind.__name__} {cut}: s until pictures were back", round(back_s, 2))
            assert back_s < 7.0
            ear.wait_status("online")
            assert process.stop(signal.SIGINT) == 0
        check_fresh(made, ear.frames)
        check_books(process.counters())
        assert process.counters()["cuts"] >= 1
        lost = [event for event in process.events if event["event"] == "camera lost"]
        assert 1 <= len(lost) <= 4 and all(event["reason"] for event in lost)
