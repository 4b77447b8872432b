"""`penstock camera` as a real process with a real Mosquitto: cameras and files become streams."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from penstock_gateway.embedded import amqtt_broker
from tests.fakes.broker import mosquitto
from tests.fakes.camera import Camera
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_pictures import painted
from tests.fakes.camera_process import Frame, FrameEar, camera, check_books, check_fresh
from tests.fakes.camera_rtsp import RtspCamera
from tests.fakes.gateway_site import device_route, site

pytestmark = pytest.mark.system

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])


@KINDS
def test_a_camera_becomes_a_stream(kind: type[Camera], tmp_path: Path) -> None:
    with kind(25) as made, mosquitto() as broker, FrameEar(broker) as ear:
        with camera(broker, made.url, tmp_path, "--fps", "10") as process:
            frames = ear.wait_frames(20)
            ear.wait_status("online")
            assert process.stop() == 0
            ear.wait_status("offline")
        assert [int(f.user["seq"]) for f in frames] == list(range(20))
        assert {f.content_type for f in frames} == {"image/jpeg"}
        counters = process.counters()
        assert {f.user["boot"] for f in frames} == {counters["boot"]}
        gaps = [(b.at - a.at) for a, b in itertools.pairwise(frames)]
        assert 1.5 < sum(gaps) < 2.6
        check_fresh(made, frames)
        check_books(counters)
        assert counters["acked"] == len(ear.frames) and counters["skipped"] > 10
        if kind is MjpegCamera:
            assert all(f.data == made.jpegs[f.number] for f in frames)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (320, 240))
    for number in range(30):
        writer.write(painted(number))
    writer.release()
    return tmp_path / "film.avi"


def test_a_file_goes_out_whole_at_its_rate_and_ends(film: Path, tmp_path: Path) -> None:
    """It waits for the broker, so that its beginning is not lost."""
    with mosquitto() as broker:
        broker.stop()
        with camera(broker, str(film), tmp_path) as process:
            process.wait_log("broker lost")
            broker.start()
            with FrameEar(broker) as ear:
                assert process.wait() == 0
                ear.wait_status("offline")
        counters = process.counters()
        check_books(counters)
        assert (counters["captured"], counters["acked"], counters["state"]) == (30, 30, "ended")
        assert 1.4 < counters["seconds"] < 12


def test_a_loop_is_encoded_again_when_asked_and_ends_by_the_clock(film: Path, tmp_path: Path) -> None:
    words = ("--loop", "--fps", "40", "--seconds", "2", "--size", "160x160", "--quality", "60")
    with (
        mosquitto() as broker,
        FrameEar(broker) as ear,
        camera(broker, str(film), tmp_path, *words) as process,
    ):
        assert process.wait() == 0
        counters = process.counters()
        check_books(counters)
        ear.wait(lambda: len(ear.frames) == counters["acked"], "all frames")
        assert counters["acked"] > 40
        assert {frame.number for frame in ear.frames} == set(range(30))


def test_nothing_published_is_exit_1(tmp_path: Path) -> None:
    with MjpegCamera() as made, mosquitto() as broker:
        made.off()
        with camera(broker, made.url, tmp_path, "--seconds", "1") as process:
            assert process.wait() == 1
        assert "Connection refused" in process.counters()["reason"]


async def test_a_3_1_1_broker_gets_bare_pictures(tmp_path: Path, free_port: Callable[[], int]) -> None:
    def through(broker: Any) -> list[Frame]:
        with FrameEar(broker, protocol=4) as ear, camera(broker, made.url, tmp_path) as process:
            frames = ear.wait_frames(5)
            assert process.stop() == 0
            return frames

    with MjpegCamera(20) as made:
        async with amqtt_broker("127.0.0.1", free_port()) as old:
            broker = SimpleNamespace(host=old.host, port=old.port, url=f"mqtt://{old.host}:{old.port}")
            frames = await asyncio.to_thread(through, broker)
        assert all(frame.data == made.jpegs[frame.number] and not frame.user for frame in frames)


def test_a_gateway_answers_it(store: Path, tmp_path: Path) -> None:
    with MjpegCamera(20) as made, site(tmp_path, store, device_route("colours", "door")) as home:
        with camera(home.broker, made.url, tmp_path, "--fps", "5") as process:
            answer = home.ear.result("door/cam", 5)
            assert process.stop() == 0
        counters = process.counters()
        assert (answer["status"], answer["boot"]) == ("ok", counters["boot"])
        books = home.gateway.wait_settled(counters["acked"])
        assert (books["received"], books["missing_upstream"]) == (counters["acked"], 0)
        assert {frame["seq"] for frame in home.ear.results("door/cam")} <= set(range(counters["sent"]))
