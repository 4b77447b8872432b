"""No password of a camera is seen: not in process lists, logs, nor in what the libraries write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakes.broker import mosquitto
from tests.fakes.camera import Camera
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_process import FrameEar, camera, check_books
from tests.fakes.camera_rtsp import RtspCamera

pytestmark = pytest.mark.system

KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])
USER, PASSWORD = "keeper", "n0t:in/any @log%20"
FORMS = ("n0t:in", "n0t%3A", "bm90Oml", "any @log", "any%20%40", "any+%40")
"""What would betray it: itself, quoted for a URL, in base64."""


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
