"""Log lines: their two forms, hostile values, secrets, and the limit on repetition."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from penstock_gateway.logs import MAX_EVENTS, Limiter, Log, setup

NAME = "penstock_gateway.tests.logs"


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_lines_where_nobody_watches() -> None:
    out = io.StringIO()
    setup(stream=out)
    Log(NAME).warning(
        "frame refused", stream="door/cam", fate=("rejected", "decode"), size=3, level="x", none=None
    )
    line = json.loads(out.getvalue())
    assert line.pop("time") > 1_600_000_000_000
    assert line == {
        "level": "warning",
        "logger": NAME,
        "event": "frame refused",
        "stream": "door/cam",
        "fate": ["rejected", "decode"],
        "size": 3,
        "level_": "x",
    }


def test_readable_lines_on_a_terminal() -> None:
    out = Terminal()
    setup(stream=out)
    Log(NAME).info(
        "connected", broker="a:1", took_s=0.1234567, why="two words", fate=("expired", "max_age"), empty=""
    )
    _, _, rest = out.getvalue().partition(" ")
    assert (
        rest
        == 'INFO    logs: connected broker=a:1 took_s=0.123457 why="two words" fate=expired,max_age empty=""\n'
    )


def test_a_hostile_value_stays_on_its_line() -> None:
    for out in (Terminal(), io.StringIO()):
        setup(stream=out)
        Log(NAME).info(
            "refused\nx", topic="a\n\x1b[2J\u202e" + "\ud800", long="y" * 100_000, big=10**30, other=object()
        )
        text = out.getvalue()
        assert text.count("\n") == 1
        assert "\x1b" not in text
        assert len(text) < 1500


def test_secrets_are_masked_and_paths_of_secrets_are_not() -> None:
    out = io.StringIO()
    setup(stream=out)
    Log(NAME).info("login", password="hunter2", api_token="t0ken", password_file="/etc/p")
    line = json.loads(out.getvalue())
    assert (line["password"], line["api_token"], line["password_file"]) == ("***", "***", "/etc/p")


def test_an_exception_brings_its_traceback() -> None:
    out = io.StringIO()
    setup(stream=out, json=True)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        Log(NAME).exception("batch failed", model="m")
    assert json.loads(out.getvalue())["traceback"].endswith("RuntimeError: broken")


def test_plain_records_of_libraries_come_out_too() -> None:
    out = io.StringIO()
    setup(stream=out)
    logging.getLogger("some.library").warning("%d of %s", 3, "x")
    assert json.loads(out.getvalue())["event"] == "3 of x"


def test_setup_again_replaces_what_it_set_up() -> None:
    first, second = io.StringIO(), io.StringIO()
    setup(stream=first)
    setup(stream=second, level="error")
    Log(NAME).info("quiet")
    Log(NAME).error("loud")
    assert first.getvalue() == ""
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["loud"]


def events(out: io.StringIO) -> list[tuple[str, int | None]]:
    return [(line["event"], line.get("suppressed")) for line in map(json.loads, out.getvalue().splitlines())]


def test_a_repeated_event_is_limited_and_counted() -> None:
    out, now = io.StringIO(), [0.0]
    setup(stream=out)
    limiter = Limiter(Log(NAME), burst=2, every_s=10.0, clock=lambda: now[0])
    for _ in range(5):
        limiter.warning("bad frame")
    limiter.warning("other")
    now[0] = 10.0
    limiter.warning("bad frame")
    limiter.warning("bad frame")
    assert events(out) == [("bad frame", None), ("bad frame", None), ("other", None), ("bad frame", 3)]


def test_a_limiter_remembers_a_bounded_number_of_events() -> None:
    setup(stream=io.StringIO())
    limiter = Limiter(Log(NAME))
    for number in range(3 * MAX_EVENTS):
        limiter.info(f"event {number}")
    assert len(limiter._events) == MAX_EVENTS


def test_importing_changes_nothing() -> None:
    code = (
        "import logging; before = (list(logging.root.handlers), logging.root.level)\n"
        "import penstock_gateway.logs as logs; logs.Log('x')\n"
        "assert before == (list(logging.root.handlers), logging.root.level)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
