"""Sources against cameras of verbs on loopback, and files made here: fresh pictures, byte for byte, and back after a cut."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from penstock_gateway.camera.encoding import Encoding, Unreadable, encoded, parse_size
from penstock_gateway.camera.pictures import Picture, SourceLost, SourceRefused, State
from penstock_gateway.camera.sources import Credentials, Location, Source, open_reader
from penstock_gateway.camera.video import VideoReader
from penstock_models.errors import PenstockError, UsageError
from tests.fakes.camera import Camera
from tests.fakes.camera_mjpeg import MjpegCamera
from tests.fakes.camera_pictures import jpeg, number_in, number_of, painted
from tests.fakes.camera_rtsp import RtspCamera
from tests.fakes.camera_watch import WAIT_S, watched

PASSWORD = "p@ss:w/rd %41"
LOGIN = Credentials("admin", PASSWORD, "door.login")
KINDS = pytest.mark.parametrize("kind", [MjpegCamera, RtspCamera])


@KINDS
def test_pictures_come_fresh_and_in_order(kind: type[Camera]) -> None:
    with kind(20) as camera, watched(camera) as seen:
        numbers = seen.some(20)
        assert numbers == sorted(set(numbers))
        assert max(seen.ages) < 0.5
        assert seen.source.status.state is State.LIVE


def test_mjpeg_comes_byte_for_byte() -> None:
    with MjpegCamera(20) as camera, Source(Location.parse(camera.url)) as source:
        for _, picture in zip(range(5), source.pictures(WAIT_S)):
            assert picture.data == camera.jpegs[number_of(picture.data)]
            assert encoded(picture, Encoding()) == (picture.data, "image/jpeg")


@KINDS
@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_the_camera_asks_for_credentials(kind: type[Camera], scheme: str) -> None:
    with kind(20, login=("admin", PASSWORD), schemes=(scheme,)) as camera:
        with watched(camera, LOGIN) as seen:
            seen.some(3)
        assert any(f"Authorization: {scheme}" in head for head in camera.requests)


def test_digest_goes_before_basic() -> None:
    with MjpegCamera(20, login=("admin", PASSWORD), schemes=("Basic", "Digest")) as camera:
        with watched(camera, LOGIN) as seen:
            seen.some(1)
        assert not any("Authorization: Basic" in head for head in camera.requests)


@KINDS
@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
@pytest.mark.parametrize(
    ("login", "says"),
    [
        (None, "give them with --credentials FILE"),
        (Credentials("admin", "hunter2", "old.login"), "refuses the user or password of old.login"),
    ],
    ids=["none", "wrong"],
)
def test_missing_or_wrong_credentials_are_said_at_once(
    kind: type[Camera], scheme: str, login: Credentials | None, says: str
) -> None:
    with kind(20, login=("admin", PASSWORD), schemes=(scheme,)) as camera:
        with Source(Location.parse(camera.url, login)) as source, pytest.raises(SourceRefused) as caught:
            list(source.pictures(WAIT_S))
        assert says in str(caught.value) and "401" in str(caught.value) and "hunter2" not in str(caught.value)
        assert source.status.state is State.FAILED


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
            SourceRefused,
            "text/html",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://other/\r\nContent-Length: 0\r\n\r\n",
            SourceRefused,
            "another URL",
        ),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", SourceLost, "503 Busy"),
        ("ICY 200 OK\r\n\r\n", SourceLost, "no connection"),
    ],
    ids=["a page", "a redirect", "busy", "no HTTP"],
)
def test_another_answer_is_said(answer: str, error: type[PenstockError], says: str) -> None:
    with MjpegCamera() as camera:
        camera.answer = answer
        with pytest.raises(error, match=says):
            open_reader(Location.parse(camera.url))


@KINDS
def test_nobody_there_is_said(kind: type[Camera]) -> None:
    with kind() as camera:
        camera.off()
        with pytest.raises(SourceLost, match="Connection refused"):
            open_reader(Location.parse(camera.url))


def test_what_is_no_jpeg_is_passed_over() -> None:
    with MjpegCamera(20, lengths=False) as camera, watched(camera) as seen:
        camera.corrupt = set(range(3, 100, 2))
        numbers = seen.some(10)
        assert numbers[-1] > 12 and not camera.corrupt & set(numbers)
        assert seen.source.passed_over >= 4


class TestFiles:
    @pytest.fixture
    def film(self, tmp_path: Path) -> Path:
        """Motion JPEG in an AVI, 12 pictures at 20 a second."""
        writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (320, 240))
        for number in range(12):
            writer.write(painted(number))
        writer.release()
        return tmp_path / "film.avi"

    def test_motion_jpeg_is_taken_as_it_is_and_every_picture_once(self, film: Path) -> None:
        whole = film.read_bytes()
        reader = open_reader(Location.parse(str(film)))
        pictures = read_all(reader)
        assert [number_of(p.data) for p in pictures] == list(range(12))
        assert all(p.data in whole for p in pictures)
        assert reader.interval_s == pytest.approx(1 / 20)

    @pytest.mark.parametrize("name", ["film.mjpeg", "film.mjpg"])
    def test_jpegs_one_after_the_other(self, tmp_path: Path, name: str) -> None:
        jpegs = [jpeg(painted(n)) for n in range(5)]
        (tmp_path / name).write_bytes(b"".join(jpegs))
        assert [p.data for p in read_all(open_reader(Location.parse(str(tmp_path / name))))] == jpegs

    def test_another_codec_is_decoded(self, tmp_path: Path) -> None:
        path = tmp_path / "film.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
        for number in range(5):
            writer.write(painted(number))
        writer.release()
        pictures = read_all(open_reader(Location.parse(str(path))))
        assert [number_in(p.image) for p in pictures] == list(range(5))
        data, media_type = encoded(pictures[3], Encoding())
        assert (number_of(data), media_type) == (3, "image/jpeg")

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
    def test_a_picture_file_goes_out_as_it_is(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"photo{suffix}"
        cv2.imwrite(str(path), painted(77))
        (picture,) = read_all(open_reader(Location.parse(str(path))))
        kind = suffix[1:].replace("jpg", "jpeg")
        assert (picture.data, picture.media_type) == (path.read_bytes(), f"image/{kind}")

    def test_it_plays_at_its_rate_or_the_one_that_is_given(self, film: Path) -> None:
        for rate_hz, least_s in ((None, 11 / 20), (40.0, 11 / 40)):
            began = time.monotonic()
            with Source(Location.parse(str(film)), rate_hz=rate_hz) as source:
                numbers = [number_of(p.data) for p in source.pictures(WAIT_S)]
            assert numbers == list(range(12))
            assert least_s <= time.monotonic() - began < least_s + 2.0
            assert source.status.state is State.ENDED

    def test_a_loop_begins_again(self, film: Path) -> None:
        with Source(Location.parse(str(film)), rate_hz=200.0, loop=True) as source:
            numbers = [number_of(p.data) for p, _ in zip(source.pictures(WAIT_S), range(30))]
            assert source.status.connects == 1
        assert len(numbers) == 30 and max(numbers) <= 11

    @pytest.mark.parametrize("content", [b"", b"no video", b"\0" * 5000])
    def test_what_is_no_video_is_said(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "odd.mp4").write_bytes(content)
        with pytest.raises(UsageError, match=r"odd\.mp4"):
            open_reader(Location.parse(str(tmp_path / "odd.mp4")))

    def test_a_video_without_pictures_is_said(self, film: Path) -> None:
        whole = film.read_bytes()
        film.write_bytes(whole[: whole.index(b"movi") + 4])
        with Source(Location.parse(str(film))) as source, pytest.raises(PenstockError, match=r"film\.avi"):
            list(source.pictures(WAIT_S))


class TestEncoding:
    photo = Picture(0.0, jpeg(painted(9)))

    @pytest.mark.parametrize(
        ("size", "becomes"), [((160, 160), (160, 120)), ((2000, 2000), (320, 240)), ((1000, 60), (80, 60))]
    )
    def test_a_size_is_fitted_into_and_never_enlarges(
        self, size: tuple[int, int], becomes: tuple[int, int]
    ) -> None:
        data, _ = encoded(self.photo, Encoding(size=size))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None and image.shape[1::-1] == becomes and number_in(image) == 9

    def test_a_quality_makes_it_smaller(self) -> None:
        noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
        photo = Picture(0.0, jpeg(noise, 95))
        assert len(encoded(photo, Encoding(quality=20))[0]) < len(photo.data) / 2

    def test_a_broken_picture_is_said_only_where_it_must_be_decoded(self) -> None:
        broken = Picture(0.0, self.photo.data[:500])
        assert encoded(broken, Encoding())[0] == broken.data
        with pytest.raises(Unreadable):
            encoded(broken, Encoding(quality=50))

    @pytest.mark.parametrize("text", ["640", "640x", "0x480", "640x480x3", "99999x1", "-1x5", "axb"])
    def test_a_size_is_two_numbers(self, text: str) -> None:
        assert parse_size("640x480") == (640, 480)
        with pytest.raises(UsageError, match="640x480"):
            parse_size(text)


class Capture:
    """Stands in for OpenCV's V4L2 capture, of which there is none without a webcam."""

    def __init__(self, code: str, frames: list[Any]) -> None:
        self._code, self._frames = code, frames
        self.raw = False
        self._at = -1

    def get(self, name: int) -> float:
        if name == cv2.CAP_PROP_FOURCC:
            return float(cv2.VideoWriter.fourcc(*self._code))
        return self._at * 1000 / 30

    def set(self, name: int, value: float) -> bool:
        self.raw = name == cv2.CAP_PROP_CONVERT_RGB and value == 0
        return self.raw

    def getBackendName(self) -> str:
        return "V4L2"

    def grab(self) -> bool:
        self._at += 1
        return self._at < len(self._frames)

    def retrieve(self) -> tuple[bool, Any]:
        frame = self._frames[self._at]
        return True, np.frombuffer(frame, np.uint8)[None] if self.raw else frame

    def release(self) -> None:
        pass


@pytest.mark.parametrize("code", ["MJPG", "YUYV"])
def test_a_webcam_gives_its_motion_jpeg_or_what_was_decoded(code: str) -> None:
    jpegs = [jpeg(painted(n)) for n in range(4)]
    capture = Capture(code, jpegs if code == "MJPG" else [painted(n) for n in range(4)])
    reader = VideoReader(capture, live=True, stop=threading.Event())
    reader._clock._caught_up = True
    pictures = [reader.read() for _ in range(4)]
    assert [number_of(encoded(p, Encoding())[0]) for p in pictures if p] == list(range(4))
    assert [p.data for p in pictures if p] == (jpegs if code == "MJPG" else [b""] * 4)
    with pytest.raises(SourceLost):
        reader.read()


def read_all(reader: Any) -> list[Picture]:
    pictures = []
    while (picture := reader.read()) is not None:
        pictures.append(picture)
    reader.close()
    return pictures
