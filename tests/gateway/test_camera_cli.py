"""The words of `penstock camera`: a wrong call is one line and exit 2, and repeats no password."""

from __future__ import annotations

import pytest

from penstock_models.main import main


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
def test_a_wrong_call_is_one_line_and_exit_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["camera", *words, "--device", "door"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1 and "hunter2" not in err


def test_debug_shows_no_password_either(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["camera", "rtsp://admin:hunter2@[bad/s", "--device", "door", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "hunter2" not in err


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["camera", "--help"]) == 0
    out = capsys.readouterr().out
    assert "penstock camera rtsp://" in out and "--credentials" in out
