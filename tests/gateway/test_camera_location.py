"""Which camera a word means, and that a password stands in no URL, no text and no error."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.camera.credentials import Credentials
from penstock_gateway.camera.location import Kind, Location
from penstock_models.errors import UsageError

PASSWORD = "s3cr:t/@ 100%"
LOGIN = Credentials("admin", PASSWORD, "door.login")
QUOTED = "s3cr%3At%2F%40%20100%25"


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("rtsp://10.0.0.7/stream1?channel=1", Kind.RTSP, "rtsp://10.0.0.7/stream1"),
        ("RTSPS://cam.example:322/live", Kind.RTSP, "rtsps://cam.example:322/live"),
        ("http://cam/mjpg/video.mjpg", Kind.MJPEG, "http://cam/mjpg/video.mjpg"),
        ("https://[fd00::1]:8443/video", Kind.MJPEG, "https://[fd00::1]:8443/video"),
        ("0", Kind.WEBCAM, "/dev/video0"),
        ("/dev/video12", Kind.WEBCAM, "/dev/video12"),
    ],
)
def test_a_camera(text: str, kind: Kind, shown: str) -> None:
    location = Location.parse(text)
    assert (location.kind, location.shown, location.live) == (kind, shown, True)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"x")
    location = Location.parse(str(tmp_path / "film.mp4"))
    assert (location.kind, location.shown, location.live) == (Kind.FILE, "film.mp4", False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rtsp://admin:hunter2@cam/s", "--credentials"),
        ("rtsp://admin@cam/s", "--credentials"),
        ("http://x:hunter2@cam/s", "--credentials"),
        ("http://cam/s?user=a&pwd=hunter2", "pwd=…"),
        ("http://cam/s?Password=hunter2", "{password}"),
        ("http://cam/s?p={password}", "--credentials FILE says"),
        ("rtmp://cam/live", "rtmp://"),
        ("rtsp:///stream", "HOST:PORT"),
        ("rtsp://cam:99999/s", "HOST:PORT"),
        ("rtsp://[cam/s", "HOST:PORT"),
        ("http://cam/a b", "HOST:PORT"),
        ("nowhere.mp4", "no file nowhere.mp4"),
        ("/", "no file"),
        ("", "no file"),
    ],
)
def test_what_is_none_is_refused_in_one_line_without_the_password(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Location.parse(text)
    assert says in str(caught.value) and "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_credentials_are_for_urls() -> None:
    with pytest.raises(UsageError, match=r"door\.login"):
        Location.parse("/dev/video0", LOGIN)


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("admin hunter2\n", "admin", "hunter2"),
        ("admin pass with spaces \r\n", "admin", "pass with spaces"),
        ("\nadmin s3cr:t/@ 100%\n\n", "admin", PASSWORD),
    ],
)
def test_the_file_holds_user_and_password(tmp_path: Path, text: str, user: str, password: str) -> None:
    (tmp_path / "login").write_text(text)
    login = Credentials.read(tmp_path / "login")
    assert (login.user, login.password, login.source) == (user, password, str(tmp_path / "login"))


@pytest.mark.parametrize("text", ["", "hunter2\n", "a hunter2\nb hunter2\n", "hunter2 \n", "\n"])
def test_any_other_content_is_refused_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "login").write_text(text)
    with pytest.raises(UsageError) as caught:
        Credentials.read(tmp_path / "login")
    assert "hunter2" not in str(caught.value) and str(tmp_path / "login") in str(caught.value)


def test_the_password_is_quoted_into_the_urls_that_libraries_get() -> None:
    assert LOGIN.in_authority("rtsp://cam:554/s?x=1") == f"rtsp://admin:{QUOTED}@cam:554/s?x=1"
    assert Credentials().in_authority("rtsp://cam/s") == "rtsp://cam/s"
    assert LOGIN.with_places("http://cam/?u={user}&p={password}") == f"http://cam/?u=admin&p={QUOTED}"
    location = Location.parse("http://cam/?u={user}&password={password}", LOGIN)
    assert location.kind is Kind.MJPEG


@pytest.mark.parametrize(
    "text",
    [
        f"cannot open rtsp://admin:{QUOTED}@cam/s",
        f"the answer to {PASSWORD} was no",
        "p=s3cr%3At%2F%40+100%25 failed",
        "rtsp://someone:else@cam/s: refused",
    ],
)
def test_a_foreign_text_is_redacted(text: str) -> None:
    redacted = LOGIN.redact(text)
    assert "s3cr" not in redacted and "else" not in redacted and "***" in redacted


def test_neither_credentials_nor_location_show_it_when_printed() -> None:
    url = "http://cam/?p={password}"
    assert "s3cr" not in f"{LOGIN!r} {LOGIN} {Location.parse(url, LOGIN)!r}"
