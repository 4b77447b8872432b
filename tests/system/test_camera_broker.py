"""`penstock camera` with a broker that restarts or stops reading, and when it is killed itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.fakes.broker import mosquitto
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_process import FrameEar, camera, check_books, check_fresh
from tests.fakes.camera_rtsp import RtspCamera

pytestmark = pytest.mark.system

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
USER, PASSWORD = "keeper", "n0t:in/any @log%20"
FORMS = ("n0t:in", "n0t%3A", "bm90Oml", "any @log", "any%20%40", "any+%40")
"""What would betray it: itself, quoted for a URL, in base64."""


def test_a_broker_that_restarts_gets_pictures_again_and_none_twice(tmp_path: Path) -> None:
    with MjpegCamera(20) as made, mosquitto() as broker, FrameEar(broker) as ear:
        with camera(broker, made.url, tmp_path, "--fps", "20") as process:
            ear.wait_frames(10)
            broker.stop()
            ear.wait_lost()
            time.sleep(2.5)  # how long it is away
            broker.start()
            ear.wait_connected()
            ear.wait_frames(10)
            ear.wait_status("online")
            assert process.stop() == 0
        check_fresh(made, ear.frames)
        counters = process.counters()
        check_books(counters)
        assert counters["links"] == 2 and counters["skipped"] > 30
        numbers = [frame.number for frame in ear.frames]
        assert numbers == sorted(set(numbers))


def test_a_broker_that_stops_reading_gets_the_newest_picture_when_it_goes_on(tmp_path: Path) -> None:
    """Stopped, it takes what the sockets hold: one picture, since the next waits for its PUBACK."""
    with MjpegCamera(20, size=(1280, 720)) as made, mosquitto() as broker, FrameEar(broker) as ear:
        with camera(broker, made.url, tmp_path, "--fps", "20") as process:
            ear.wait_frames(5)
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                time.sleep(3.0)  # how long it is slow
                before = len(ear.frames)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            after = ear.wait_frames(10)
            assert process.stop() == 0
        late = [frame for frame in after if made.age_s(frame.number, frame.at) > 0.5]
        assert len(late) <= 1 + (len(ear.frames) - before > 0), [f.number for f in late]
        check_books(process.counters())
        assert process.counters()["skipped"] > 40


def test_a_killed_camera_is_offline_by_its_will(tmp_path: Path) -> None:
    with MjpegCamera(20) as made, mosquitto() as broker, FrameEar(broker) as ear:
        with camera(broker, made.url, tmp_path) as process:
            ear.wait_status("online")
            process.process.kill()
            ear.wait_status("offline")
        with FrameEar(broker) as late:
            late.wait(lambda: late.states == [("offline", True)], "the retained status")
