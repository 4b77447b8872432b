"""`penstock camera` as a real process with a real Mosquitto: fresh frames, cuts on both sides, and no password anywhere."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest

from penstock_gateway.embedded import amqtt_broker
from tests.fakes.broker import mosquitto
from tests.fakes.camera_process import Frame, FrameEar, camera, check_books, check_fresh
from tests.fakes.cameras import Camera, MjpegCamera, RtspCamera, painted
from tests.fakes.gateway_site import device_route, site

pytestmark = pytest.mark.system

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
USER, PASSWORD = "keeper", "n0t:in/any @log%20"
FORMS = ("n0t:in", "n0t%3A", "bm90Oml", "any @log", "any%20%40", "any+%40")
"""What would betray it: itself, quoted for a URL, in base64."""


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


@KINDS
@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_no_password_is_seen_in_process_lists_logs_or_topics(
    kind: type[Camera], scheme: str, tmp_path: Path
) -> None:
    """With everything that makes libraries talk switched on, through a cut, and with a password that changed."""
    (tmp_path / "login").write_text(f"{USER} {PASSWORD}\n")
    talkative = {
        **os.environ, "OPENCV_FFMPEG_LOGLEVEL": "56", "OPENCV_FFMPEG_DEBUG": "1", "OPENCV_LOG_LEVEL": "VERBOSE",
        "OPENCV_VIDEOIO_DEBUG": "1", "PENSTOCK_DEBUG": "1", "PYTHONASYNCIODEBUG": "1",
    }  # fmt: skip
    with (
        kind(20, login=(USER, PASSWORD), schemes=(scheme,)) as made,
        mosquitto() as broker,
        FrameEar(broker) as ear,
        camera(
            broker, made.url, tmp_path, "--credentials", str(tmp_path / "login"), environment=talkative
        ) as process,
    ):
        ear.wait_frames(5)
        proc = Path(f"/proc/{process.process.pid}")
        seen = [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
        made.off()
        ear.wait_status("offline")
        made.login = (USER, "another")
        made.on()
        process.wait_log("refuses the user or password")
        assert process.stop() == 0
        seen += [process.log, process.out.read_text(), broker.log]
    # No library writes there on its own: whatever FFmpeg says next, nobody hears it.
    assert all(line.startswith("{") for line in process.log.splitlines())
    check_books(process.counters())
    for text in seen:
        assert not [form for form in FORMS if form in text]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rtsp://admin:hunter2@127.0.0.1/s"], "--credentials"),
        (["http://127.0.0.1/s?password=hunter2"], "--credentials"),
        (["nowhere.mp4"], "nowhere.mp4"),
        (["rtmp://127.0.0.1/s"], "rtmp://"),
        (["rtsp://127.0.0.1/s", "--fps", "0"], "--fps"),
        (["rtsp://127.0.0.1/s", "--loop"], "--loop"),
        (["rtsp://127.0.0.1/s", "--size", "big"], "--size"),
        (["rtsp://127.0.0.1/s", "--broker", "mqtt://a:hunter2@b"], "password_file"),
        (["rtsp://127.0.0.1/s", "--stream", "a/b"], "--stream"),
        (["rtsp://127.0.0.1/s", "--credentials", "missing"], "missing"),
        (["rtsp://127.0.0.1/s", "--ca", "ca.crt"], "mqtts"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(words: list[str], says: str) -> None:
    done = run(*words, "--device", "door")
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1 and "hunter2" not in done.stderr


def test_the_help_has_an_example() -> None:
    done = run("--help")
    assert (
        done.returncode == 0 and "penstock camera rtsp://" in done.stdout and "--credentials" in done.stdout
    )


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


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock_models.main", "camera", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
